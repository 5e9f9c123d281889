package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/terminal"
)

// terminalsFile lists the terminals of a frozen app, with the data that was waiting in them.
// If this daemon is killed, the next one puts the data back before the app goes on.
func (a *App) terminalsFile() terminal.Record {
	return terminal.Record(filepath.Join(a.work(), "terminals.json"))
}

// putBackTerminals undoes what terminals did. The app is frozen, or has ended.
func (a *App) putBackTerminals() error {
	pids, err := a.cgroup().PIDs()
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return a.terminalsFile().PutBack(pids)
}

// fillTerminals puts into the terminals of a restored app, which does not run yet, what
// waited in the saved ones. What can't be put there is no reason for the app not to run.
func (a *App) fillTerminals(m *snapshot.Manifest) {
	pairs := m.Pairs()
	if len(pairs) == 0 {
		return
	}
	pids, err := a.cgroup().PIDs()
	if err == nil {
		err = terminal.PutBack(pids, pairs)
	}
	if err != nil {
		a.Remark("some of what waited in the app's terminals is lost: "+err.Error(), "press Ctrl-L, or the program's own key, to have the screen drawn again")
	}
}

// terminals lists the terminals of an app that is frozen, and its descriptors of
// /dev/tty. What waits in the terminals is taken out of them, see putBackTerminals.
func (a *App) terminals(ctx context.Context, pids []int) ([]snapshot.External, error) {
	rec, _ := a.Read()
	found, err := terminal.Controls(ctx, rec.Process.PID, pids, nil)
	if err != nil {
		return nil, err
	}
	list := make([]snapshot.External, len(found))
	for i, c := range found {
		list[i] = snapshot.TerminalAt(c)
	}
	pairs, err := a.terminalsFile().Save(ctx, rec.Process.PID, pids)
	if err != nil {
		return nil, err
	}
	for i := range pairs {
		list = append(list, snapshot.External{
			Kind: snapshot.ExternalPair, Key: fmt.Sprintf("pty[%d]", pairs[i].Number), PID: pairs[i].PID, FD: pairs[i].FD, Pair: &pairs[i],
		})
	}
	return list, nil
}
