package daemon

import (
	"slices"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/settings"
	"github.com/snapctl/snapctl/snapshot/sysv"
)

// setAgain sets what CRIU does not: the settings of the processes that were restored, and
// marks of System V objects. A
// setting that this host does not allow is a note, and no reason to fail.
func (a *App) setAgain(m *snapshot.Manifest, pid int) error {
	if len(m.Settings) == 0 && m.SystemV == nil {
		return nil
	}
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
		a.Remark(n, "")
	}
	return nil
}
