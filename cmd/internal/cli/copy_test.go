package cli

import (
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
)

// Memory is copied only if it is asked for.
func TestCopy(t *testing.T) {
	b := withApp(t)
	for _, args := range [][]string{
		{"snapshot", "cache", "--name", "one"},
		{"restore", "one", "--as", "mapped"},
		{"restore", "one", "--as", "copied", "--copy"},
		{"hibernate", "cache"},
		{"wake", "cache"},
		{"wake", "cache", "--copy"},
	} {
		qt.Assert(t, qt.Equals(b.run(t.Context(), args...), OK), qt.Commentf("%v: %s", args, b.err.String()))
	}
	qt.Assert(t, qt.DeepEquals(b.fake.copied, []string{"one", "cache"}))
}

// What a restored app is to live by is said only if it is asked for.
func TestRestoredPolicy(t *testing.T) {
	b := withApp(t)
	for _, args := range [][]string{
		{"snapshot", "cache", "--name", "one"},
		{"restore", "one", "--as", "same"},
		{"restore", "one", "--as", "other", "--wake-min-bytes", "9", "--wake-timers", "--hibernate-after", "1m", "--restore-memory", "copied"},
	} {
		qt.Assert(t, qt.Equals(b.run(t.Context(), args...), OK), qt.Commentf("%v: %s", args, b.err.String()))
	}
	same, other := b.fake.apps[1], b.fake.apps[2]
	qt.Assert(t, qt.IsTrue(same.Wake == nil && same.HibernateAfter == nil))
	qt.Assert(t, qt.Equals(same.GetRestoreMemory(), api.RestoreMemory_RESTORE_MEMORY_UNSPECIFIED))
	qt.Assert(t, qt.Equals(other.GetRestoreMemory(), api.RestoreMemory_RESTORE_MEMORY_COPIED))
	qt.Assert(t, qt.Equals(other.GetWake().GetMinBytes(), int32(9)))
	qt.Assert(t, qt.IsTrue(other.GetWake().GetTimers()))
	qt.Assert(t, qt.Equals(other.GetHibernateAfter().AsDuration(), time.Minute))
}
