package apps_test

import (
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/cmd/internal/cli/clitest"
	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/runtime/api"
)

// Memory is copied only if it is asked for.
func TestCopy(t *testing.T) {
	b := clitest.WithApp(t)
	for _, args := range [][]string{
		{"snapshot", "cache", "--name", "one"},
		{"restore", "one", "--as", "mapped"},
		{"restore", "one", "--as", "copied", "--copy"},
		{"hibernate", "cache"},
		{"wake", "cache"},
		{"wake", "cache", "--copy"},
	} {
		qt.Assert(t, qt.Equals(b.Run(t.Context(), args...), session.OK), qt.Commentf("%v: %s", args, b.Stderr.String()))
	}
	qt.Assert(t, qt.DeepEquals(b.Daemon.Copied, []string{"one", "cache"}))
}

// What a restored app is to live by is said only if it is asked for.
func TestRestoredPolicy(t *testing.T) {
	b := clitest.WithApp(t)
	for _, args := range [][]string{
		{"snapshot", "cache", "--name", "one"},
		{"restore", "one", "--as", "same"},
		{"restore", "one", "--as", "other", "--wake-min-bytes", "9", "--wake-timers", "--hibernate-after", "1m", "--restore-memory", "copied"},
	} {
		qt.Assert(t, qt.Equals(b.Run(t.Context(), args...), session.OK), qt.Commentf("%v: %s", args, b.Stderr.String()))
	}
	same, other := b.Daemon.Apps[1], b.Daemon.Apps[2]
	qt.Assert(t, qt.IsTrue(same.Wake == nil && same.HibernateAfter == nil))
	qt.Assert(t, qt.Equals(same.GetRestoreMemory(), api.RestoreMemory_RESTORE_MEMORY_UNSPECIFIED))
	qt.Assert(t, qt.Equals(other.GetRestoreMemory(), api.RestoreMemory_RESTORE_MEMORY_COPIED))
	qt.Assert(t, qt.Equals(other.GetWake().GetMinBytes(), int32(9)))
	qt.Assert(t, qt.IsTrue(other.GetWake().GetTimers()))
	qt.Assert(t, qt.Equals(other.GetHibernateAfter().AsDuration(), time.Minute))
}
