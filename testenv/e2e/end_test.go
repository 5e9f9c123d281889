package e2e

import (
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/host"
)

// TestDaemonTakesItsCgroupAway ends the daemon with an app and without: its cgroup
// stays as long as there is one below.
func TestDaemonTakesItsCgroupAway(t *testing.T) {
	w := New(t)
	w.Run(&api.RunRequest{Name: "one", Args: []string{"sleep", "1000"}})
	end := func() []string {
		t.Helper()
		qt.Assert(t, qt.IsNil(w.KillDaemon(t.Context(), syscall.SIGTERM)))
		groups, err := w.Cgroups()
		qt.Assert(t, qt.IsNil(err))
		return slices.DeleteFunc(groups, func(g string) bool { return !strings.Contains(g, "snapctl") })
	}
	qt.Assert(t, qt.Not(qt.HasLen(end(), 0)))
	qt.Assert(t, qt.IsNil(w.StartDaemon(t.Context(), host.Daemon{})))
	w.Dial()
	w.once("one", api.Status_STATUS_RUNNING)
	w.RemoveAll()
	qt.Assert(t, qt.HasLen(end(), 0))
}
