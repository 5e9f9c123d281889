package e2e

import (
	"context"
	"fmt"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/testenv/peer"
)

// Half of the connections are opened by the app, half by the test.
const (
	loadConnections = 200
	loadFlows       = 8
)

// TestLoadLosesNothing hibernates and wakes an app at random moments under
// load, and proves that no byte was lost, doubled, reordered or reset.
func TestLoadLosesNothing(t *testing.T) {
	rounds := rounds(t, 60)
	w, random := New(t), seeded(t)
	in, out := w.load("peer")
	began := time.Now()
	count := make(map[string]int)
	for i := range rounds {
		w.pause(random, 150*time.Millisecond)
		how := []string{"command", "command", "traffic", "traffic", "snapshot"}[random.IntN(5)]
		count[how]++
		switch how {
		case "command":
			w.Hibernate("peer")
			w.pause(random, 20*time.Millisecond)
			w.Wake("peer")
		case "traffic":
			w.Hibernate("peer")
			w.Running("peer")
		case "snapshot":
			name := fmt.Sprintf("s%d", i)
			_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "peer", Name: name}, nil)
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.IsNil(w.API.RemoveSnapshot(t.Context(), name)))
		}
		qt.Assert(t, qt.IsNil(in.Stats().Err()), qt.Commentf("round %d, %s", i, how))
		qt.Assert(t, qt.IsNil(out.Stats().Err()), qt.Commentf("round %d, %s", i, how))
	}
	t.Logf("%d rounds (%v) in %v", rounds, count, time.Since(began).Round(time.Millisecond))
	w.unharmed(in, out)
}

// TestLoadSurvivesItsDaemon kills the daemon at random moments in the middle
// of operations under load.
func TestLoadSurvivesItsDaemon(t *testing.T) {
	rounds := max(1, rounds(t, 60)/6)
	w, random := New(t), seeded(t)
	in, out := w.load("peer")
	began := time.Now()
	for i := range rounds {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			// They may fail: their daemon is being killed.
			_, _ = w.API.Hibernate(t.Context(), &api.HibernateRequest{Name: "peer"}, nil)
			_, _ = w.API.Wake(t.Context(), &api.WakeRequest{Name: "peer"}, nil)
		}()
		w.pause(random, 400*time.Millisecond)
		qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), syscall.SIGKILL, host.Daemon{})))
		<-ended
		w.Dial()
		w.Running("peer")
		qt.Assert(t, qt.Equals(w.processes("peer"), 1))
		qt.Assert(t, qt.IsNil(in.Stats().Err()), qt.Commentf("round %d", i))
		qt.Assert(t, qt.IsNil(out.Stats().Err()), qt.Commentf("round %d", i))
	}
	t.Logf("%d daemons killed in %v", rounds, time.Since(began).Round(time.Millisecond))
	w.unharmed(in, out)
	w.nothingPartial()
}

// load runs an app that exchanges numbered bytes with the test, over
// connections that the test opens and over others that the app opens.
func (w *World) load(app string) (in, out *peer.Load) {
	w.t.Helper()
	ctx := w.t.Context()
	program, err := w.Install(ctx, "peer")
	qt.Assert(w.t, qt.IsNil(err))
	l, err := w.Listen(ctx, "tcp", "0.0.0.0:7100")
	qt.Assert(w.t, qt.IsNil(err))
	datagrams, err := w.ListenPacket(ctx, "udp", "0.0.0.0:7100")
	qt.Assert(w.t, qt.IsNil(err))
	w.Run(&api.RunRequest{Name: app, Endpoint: "10.77.0.7", Args: []string{
		program, "--listen", ":7000", "--connect", "10.77.0.1:7100",
		"--connections", strconv.Itoa(loadConnections / 2), "--flows", strconv.Itoa(loadFlows / 2),
	}})
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	out, err = peer.Await(ctx, peer.Source{TCP: l, Connections: loadConnections / 2, UDP: datagrams, Flows: loadFlows / 2})
	qt.Assert(w.t, qt.IsNil(err))
	w.t.Cleanup(out.Close)
	_ = w.Connect("10.77.0.7", 7000).Close()
	in, err = peer.Dial(ctx, w, peer.Target{
		TCP: "10.77.0.7:7000", Connections: loadConnections / 2, UDP: "10.77.0.7:7000", Flows: loadFlows / 2,
	})
	qt.Assert(w.t, qt.IsNil(err))
	w.t.Cleanup(in.Close)
	return in, out
}

// unharmed ends the loads in order and proves that nothing was wrong with them.
func (w *World) unharmed(loads ...*peer.Load) {
	w.t.Helper()
	for _, l := range loads {
		ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
		stats, err := l.Stop(ctx)
		cancel()
		w.t.Logf("%d connections, %d MB sent, %d MB received, longest silence %v; %d datagrams, %d lost, %d double, longest answer %v",
			stats.Connections, stats.SentBytes>>20, stats.ReceivedBytes>>20, stats.MaxStall.Round(time.Millisecond),
			stats.Datagrams, stats.Lost, stats.Duplicated, stats.MaxAnswer.Round(time.Millisecond))
		qt.Check(w.t, qt.IsNil(err))
		qt.Check(w.t, qt.IsTrue(stats.ReceivedBytes > 0 && stats.Datagrams > 0))
	}
}
