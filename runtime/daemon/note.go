package daemon

import (
	"context"
	"slices"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/settings"
	"github.com/snapctl/snapctl/snapshot/sysv"
)

// remark adds a note to what the operation that has the app's turn tells. It may be
// called by several at the same time. The same note is told once.
func (a *App) remark(text, remedy string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := app.Note{Text: text, Remedy: remedy}
	if !slices.Contains(a.remarks, n) {
		a.remarks = append(a.remarks, n)
	}
}

// setAgain sets what CRIU does not: the settings of the processes that were restored, and
// marks of System V objects. A
// setting that this host does not allow is a note, and no reason to fail.
func (a *App) setAgain(m *snapshot.Manifest, next func(context.Context, int) error) func(context.Context, int) error {
	if len(m.Settings) == 0 && m.SystemV == nil {
		return next
	}
	return func(ctx context.Context, pid int) error {
		pids, err := a.cgroup().PIDs()
		if err != nil {
			return err
		}
		notes, err := settings.Apply(pids, m.Settings)
		if err != nil {
			return err
		}
		marks, err := sysv.Apply(pid, m.SystemV)
		if err != nil {
			return err
		}
		for _, n := range slices.Concat(notes, marks) {
			a.remark(n, "")
		}
		if next == nil {
			return nil
		}
		return next(ctx, pid)
	}
}

// remarked are the notes of the operation that has the app's turn.
func (a *App) remarked() []app.Note {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.remarks)
}
