package e2e

import (
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/host"
)

// A daemon that is stopped, as for an upgrade, ends by itself and takes no app
// and no held socket with it.
func TestStoppingTheDaemonEndsNoApp(t *testing.T) {
	w := New(t, "redis-server")
	runRedis(w, "up", "10.77.0.7")
	runRedis(w, "asleep", "10.77.0.8")
	up, asleep := w.redis("10.77.0.7"), w.redis("10.77.0.8")
	qt.Assert(t, qt.Equals(up.do("SET a 1"), "+OK"))
	qt.Assert(t, qt.Equals(asleep.do("SET a 1"), "+OK"))
	w.Hibernate("asleep")
	before := w.Show("up").GetPid()

	qt.Assert(t, qt.IsNil(w.API.Close()))
	qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), unix.SIGTERM, host.Daemon{})))
	w.Dial()

	qt.Assert(t, qt.Equals(w.Show("up").GetPid(), before))
	qt.Assert(t, qt.Equals(w.Show("asleep").GetStatus(), api.Status_STATUS_HELD))
	qt.Assert(t, qt.Equals(up.do("APPEND a x"), ":2"))
	qt.Assert(t, qt.Equals(asleep.do("APPEND a x"), ":2"))
	w.Running("asleep")
}
