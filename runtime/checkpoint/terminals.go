package checkpoint

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
func (s *Subject) terminalsFile() terminal.Record {
	return terminal.Record(filepath.Join(s.work(), "terminals.json"))
}

// PutBackTerminals puts back what waited in the terminals, and was taken out of them to be
// saved. The app is frozen, or has ended.
func (s *Subject) PutBackTerminals() error {
	pids, err := s.cgroup().PIDs()
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return s.terminalsFile().PutBack(pids)
}

// fillTerminals puts into the terminals of a restored app, which does not run yet, what
// waited in the saved ones. What can't be put there is no reason for the app not to run.
func (s *Subject) fillTerminals(m *snapshot.Manifest) {
	pairs := m.Pairs()
	if len(pairs) == 0 {
		return
	}
	pids, err := s.cgroup().PIDs()
	if err == nil {
		err = terminal.PutBack(pids, pairs)
	}
	if err != nil {
		s.Note("some of what waited in the app's terminals is lost: "+err.Error(), "press Ctrl-L, or the program's own key, to have the screen drawn again")
	}
}

// terminals lists the terminals of an app that is frozen, and its descriptors of
// /dev/tty. What waits in the terminals is taken out of them, see PutBackTerminals.
func (s *Subject) terminals(ctx context.Context, pids []int) ([]snapshot.External, error) {
	found, err := terminal.Controls(ctx, s.PID, pids, nil)
	if err != nil {
		return nil, err
	}
	list := make([]snapshot.External, len(found))
	for i, c := range found {
		list[i] = snapshot.TerminalAt(c)
	}
	pairs, err := s.terminalsFile().Save(ctx, s.PID, pids)
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
