package daemon

import (
	"context"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/terminal"
)

// terminals lists the descriptors of /dev/tty of an app that is frozen.
func (a *app) terminals(ctx context.Context, pids []int) ([]snapshot.External, error) {
	rec, _ := a.read()
	found, err := terminal.Controls(ctx, rec.Process.PID, pids)
	if err != nil {
		return nil, err
	}
	list := make([]snapshot.External, len(found))
	for i, c := range found {
		list[i] = snapshot.TerminalAt(c.PID, c.FD, c.Number)
	}
	return list, nil
}
