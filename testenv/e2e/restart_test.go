package e2e

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/testenv/peer"
	"github.com/snapctl/snapctl/testenv/traffic"
)

// TestRestartsLoseNothing has daemons of an installation killed, and started again, while apps of their hosts talk: not
// even a datagram is lost.
func TestRestartsLoseNothing(t *testing.T) {
	hs := newInstallation(t, "alpha", "beta")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	members := []traffic.Member{hs.endpoint(0), hs.endpoint(1)}
	hs.know(members)
	mesh, err := traffic.Start(ctx, traffic.Plan{Members: members, Pairs: traffic.Everyone(members, 4, 2), Pattern: peer.Pattern{MaxPause: 20 * time.Millisecond}})
	qt.Assert(t, qt.IsNil(err))
	for _, w := range append(hs.worlds, hs.worlds...) {
		qt.Assert(t, qt.IsNil(mesh.Progress(ctx)))
		qt.Assert(t, qt.IsNil(w.RestartDaemon(ctx, syscall.SIGKILL, host.Daemon{})))
		w.Dial()
	}
	qt.Assert(t, qt.IsNil(mesh.Progress(ctx)))
	report, err := mesh.Stop(ctx)
	qt.Assert(t, qt.IsNil(err))
	t.Log(report)
	qt.Check(t, qt.IsNil(report.Err()))
	qt.Check(t, qt.Equals(report.Total().Lost, 0))
}
