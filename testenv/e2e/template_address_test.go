package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/gate"
	"github.com/snapctl/snapctl/testenv/host"
)

// TestPoolDoesNotTakeBackAnEndpoint has the pool filled between the moment in which
// a clone that stands ready gave its endpoint up and the one in which the app that
// asked for it has it.
func TestPoolDoesNotTakeBackAnEndpoint(t *testing.T) {
	w := New(t)
	w.actor(&api.RunRequest{Name: "web", Endpoint: actorEndpoint})
	w.template("t", "web", "")
	g := gate.New(t, w.Dir(), "remove.forgotten")
	qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), syscall.SIGTERM, host.Daemon{Env: gate.Env(g.Fault())})))
	w.Dial()
	w.pool("t", 1)
	lowest := "10.77.0.2"
	done := make(chan error, 1)
	go func() {
		_, err := w.API.Run(t.Context(), &api.RunRequest{Name: "own", Endpoint: lowest, Args: []string{"sleep", "inf"}})
		done <- err
	}()
	stop, err := g.Wait(t.Context())
	qt.Assert(t, qt.IsNil(err))
	w.pool("t", 2)
	// Nor does anybody get it who has not asked for it.
	other := w.Run(&api.RunRequest{Name: "other", Args: []string{"sleep", "inf"}})
	qt.Assert(t, qt.Not(qt.Equals(other.GetEndpoint(), lowest)))
	qt.Assert(t, qt.IsNil(stop.Continue()))
	qt.Assert(t, qt.IsNil(<-done))
	qt.Assert(t, qt.Equals(w.Show("own").GetEndpoint(), lowest))
	qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), syscall.SIGTERM, host.Daemon{})))
	w.Dial()
}

// TestPoolGivesUpItsAddresses has a pool use up a network of five addresses, and each
// of run, restore and clone get one all the same, until apps have them all.
func TestPoolGivesUpItsAddresses(t *testing.T) {
	w := newWorld(t, host.Config{}, func(h *host.Host) {
		networks := filepath.Join(h.Outside(h.StateDir()), "networks")
		qt.Assert(t, qt.IsNil(os.MkdirAll(networks, 0o700)))
		qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(networks, "small.json"), []byte(`{"Prefix4":"10.99.0.0/29","Prefix6":"fd77:736e:6199::/64"}`), 0o600)))
	})
	web := w.actor(&api.RunRequest{Name: "web", Network: "small"})
	w.template("t", "web", "")
	_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "web", Name: "s1"}, nil)
	qt.Assert(t, qt.IsNil(err))
	w.pool("t", 4)
	ends := map[string]bool{web.GetEndpoint(): true}
	another := func(a *api.App) {
		t.Helper()
		qt.Assert(t, qt.IsFalse(ends[a.GetEndpoint()]), qt.Commentf("%s", a.GetEndpoint()))
		ends[a.GetEndpoint()] = true
		qt.Assert(t, qt.Equals(a.GetStatus(), api.Status_STATUS_RUNNING))
	}
	another(w.Run(&api.RunRequest{Name: "one", Network: "small", Args: []string{"sleep", "inf"}}))
	taken := slices.IndexFunc([]string{"10.99.0.2", "10.99.0.3", "10.99.0.4", "10.99.0.5", "10.99.0.6"}, func(end string) bool { return !ends[end] })
	r, err := w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: "s1", As: "two", Endpoint: fmt.Sprintf("10.99.0.%d", taken+2)}, nil)
	qt.Assert(t, qt.IsNil(err))
	another(r.GetApp())
	for _, c := range w.clones(&api.CloneRequest{Template: "t", Count: 2, Pool: api.PoolUse_POOL_USE_NEVER}) {
		another(c.GetApp())
	}
	_, err = w.API.Run(t.Context(), &api.RunRequest{Name: "more", Network: "small", Args: []string{"sleep", "inf"}})
	qt.Assert(t, qt.ErrorMatches(err, `.*no address left in the pool.*`))
	for end := range ends {
		conn, err := w.DialContext(t.Context(), "tcp", net.JoinHostPort(end, "7000"))
		if end == w.Show("one").GetEndpoint() {
			qt.Assert(t, qt.IsNotNil(err))
			continue
		}
		qt.Assert(t, qt.IsNil(err), qt.Commentf("%s", end))
		qt.Assert(t, qt.Equals(newCaller(t, conn).ask("echo here"), "here"))
	}
	w.Until("nothing stands ready", func() error {
		if ready := w.poolOf(); len(ready) > 0 {
			return fmt.Errorf("%v", ready)
		}
		return nil
	})
	tmpl, err := w.API.ShowTemplate(t.Context(), "t")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsTrue(tmpl.GetPoolError() == "" || strings.Contains(tmpl.GetPoolError(), "no address left")))
}
