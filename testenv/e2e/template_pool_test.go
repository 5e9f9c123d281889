package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sync/errgroup"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/host"
)

// poolOf lists the first processes of clones that stand ready.
func (w *World) poolOf() []int {
	w.t.Helper()
	pids, err := w.Pids()
	qt.Assert(w.t, qt.IsNil(err))
	apps, err := w.API.List(w.t.Context())
	qt.Assert(w.t, qt.IsNil(err))
	out := make(map[int]bool) // those that were handed out keep their cgroup's name
	for _, a := range apps {
		out[int(a.GetPid())] = true
	}
	var ready []int
	for _, pid := range pids {
		if ok, err := filepath.Match("_pool-*", cgroupOf(pid)); err == nil && ok && isInit(pid) && !out[pid] {
			ready = append(ready, pid)
		}
	}
	return ready
}

// TestPool makes a pool of a program that counts in a file all the time: what
// stands ready has not counted on, and answers nobody.
func TestPool(t *testing.T) {
	w := New(t)
	shared := w.hostDir("shared")
	w.actor(&api.RunRequest{Name: "web", Endpoint: "10.77.0.2", Binds: []*api.Bind{{Source: shared, Destination: "/shared"}}})
	c := w.caller("10.77.0.2")
	qt.Assert(t, qt.Equals(c.ask("tick /shared/ticks"), "ok"))
	w.Until("it ticks", func() error {
		if ask := c.ask("size /shared/ticks"); ask == "0" {
			return fmt.Errorf("no tick")
		}
		return nil
	})
	w.template("t", "web", "")
	w.remove("web")
	ticks, err := filepath.Glob(filepath.Join(shared, "*"))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(ticks, 1))
	size := func() string { return w.runs("stat", "-c", "%s", ticks[0]) }
	before := size()
	w.pool("t", 3)
	qt.Assert(t, qt.HasLen(w.poolOf(), 3))
	qt.Assert(t, qt.Equals(size(), before))
	qt.Assert(t, qt.HasLen(w.names(), 0))
	// Nobody is at its endpoint, and whoever asks for one gets it.
	for n := 2; n <= 5; n++ {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		conn, err := w.DialContext(ctx, "tcp", fmt.Sprintf("10.77.0.%d:7000", n))
		cancel()
		qt.Assert(t, qt.IsNotNil(err), qt.Commentf("%v", conn))
	}
	qt.Assert(t, qt.Equals(size(), before))
	w.actor(&api.RunRequest{Name: "own", Endpoint: "10.77.0.2"})
	w.pooled("t", 3)

	first := w.clones(&api.CloneRequest{Template: "t", Count: 2, Pool: api.PoolUse_POOL_USE_ONLY})
	for i, r := range first {
		qt.Assert(t, qt.IsTrue(r.GetFromPool()))
		qt.Assert(t, qt.Equals(r.GetName(), fmt.Sprintf("t-%d", i+1)))
		qt.Assert(t, qt.Equals(w.caller(r.GetApp().GetEndpoint()).ask("instance"), r.GetName()))
	}
	w.Until("they tick", func() error {
		if size() == before {
			return fmt.Errorf("no tick")
		}
		return nil
	})
	w.pooled("t", 3)
	never := w.clones(&api.CloneRequest{Template: "t", Pool: api.PoolUse_POOL_USE_NEVER})[0]
	qt.Assert(t, qt.IsFalse(never.GetFromPool()))
	_, err = w.tryClones(&api.CloneRequest{Template: "t", Pool: api.PoolUse_POOL_USE_ONLY, Storage: api.Storage_STORAGE_PRIVATE})
	qt.Assert(t, qt.IsNotNil(err))

	// Apps of the pool are apps, hibernate and outlive a daemon; what stands ready
	// does not, and is made anew.
	w.Hibernate("t-1")
	ready := w.poolOf()
	qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), syscall.SIGKILL, host.Daemon{})))
	w.Dial()
	w.pooled("t", 3)
	for _, pid := range ready {
		qt.Assert(t, qt.IsFalse(isInit(pid)))
	}
	for _, r := range first {
		qt.Assert(t, qt.Equals(w.caller(r.GetApp().GetEndpoint()).ask("instance"), r.GetName()))
		w.Running(r.GetName())
	}
	// One that dies is replaced.
	dead := w.poolOf()[0]
	qt.Assert(t, qt.IsNil(syscall.Kill(dead, syscall.SIGKILL)))
	w.Until("it is replaced", func() error {
		ready := w.poolOf()
		if slices.Contains(ready, dead) {
			return fmt.Errorf("it is there")
		}
		if len(ready) != 3 {
			return fmt.Errorf("%d", len(ready))
		}
		return nil
	})
	w.pool("t", 1)
	w.Until("the pool is smaller", func() error {
		if n := len(w.poolOf()); n != 1 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	// More than stand ready: only those is too few, and nothing is left of the try.
	names := w.names()
	_, err = w.tryClones(&api.CloneRequest{Template: "t", Count: 3, Pool: api.PoolUse_POOL_USE_ONLY})
	qt.Assert(t, qt.ErrorMatches(err, `(?s).*no clone stands ready.*`))
	qt.Assert(t, qt.DeepEquals(w.names(), names))
	w.pooled("t", 1)
	mixed := w.clones(&api.CloneRequest{Template: "t", Count: 2})
	qt.Assert(t, qt.IsTrue(mixed[0].GetFromPool()))
	for _, r := range mixed {
		qt.Assert(t, qt.Equals(w.caller(r.GetApp().GetEndpoint()).ask("instance"), r.GetName()))
	}

	w.pooled("t", 1)
	_, err = w.API.SetPool(t.Context(), &api.SetPoolRequest{Template: "t", Size: 0})
	qt.Assert(t, qt.IsNil(err))
	w.pooled("t", 0)
	w.pool("t", 2)
	w.remove(w.names()...)
	qt.Assert(t, qt.IsNil(w.API.RemoveTemplate(t.Context(), "t")))
	qt.Assert(t, qt.HasLen(w.poolOf(), 0))
	w.empty()
}

// TestPoolIsOfItsTemplate makes another template of the same name at once.
func TestPoolIsOfItsTemplate(t *testing.T) {
	w := New(t)
	w.actor(&api.RunRequest{Name: "web", Endpoint: actorEndpoint})
	c := w.caller(actorEndpoint)
	qt.Assert(t, qt.Equals(c.ask("write /tmp/file old"), "ok"))
	w.template("t", "web", "")
	w.pool("t", 2)
	qt.Assert(t, qt.Equals(c.ask("write /tmp/file new"), "ok"))
	qt.Assert(t, qt.IsNil(w.API.RemoveTemplate(t.Context(), "t")))
	w.template("t", "web", "")
	r := w.clones(&api.CloneRequest{Template: "t"})[0]
	qt.Assert(t, qt.Equals(newCaller(t, w.Connect(r.GetApp().GetEndpoint(), 7000)).ask("read /tmp/file"), "new"))
	w.RemoveAll()
	w.empty()
}

// TestPoolTellsWhoItIs has a frozen program wait for the file that tells who it is,
// which is written when the clone is handed out, and gives each a machine id before.
func TestPoolTellsWhoItIs(t *testing.T) {
	w := New(t)
	w.actor(&api.RunRequest{Name: "web", Endpoint: actorEndpoint})
	original := w.caller(actorEndpoint)
	original.tell("mkdir /run/snapctl", "watch /run/snapctl/instance.json")
	id := strings.Repeat("0", 32)
	original.tell("write /etc/machine-id " + id)
	w.template("t", "web", "{machine_id: unique}")
	w.pool("t", 2)
	ids := map[string]bool{id: true}
	for _, r := range w.clones(&api.CloneRequest{Template: "t", Count: 2, Pool: api.PoolUse_POOL_USE_ONLY}) {
		c := w.caller(r.GetApp().GetEndpoint())
		qt.Assert(t, qt.Equals(c.instance().Name, r.GetName()))
		qt.Assert(t, qt.Equals(c.instance().Generation, r.GetApp().GetGeneration()))
		w.Until("it notices", func() error {
			if n := c.ask("watched"); n == "0" {
				return fmt.Errorf("no event")
			}
			return nil
		})
		id := strings.TrimSpace(c.ask("read /etc/machine-id"))
		qt.Assert(t, qt.Matches(id, `[0-9a-f]{32}`))
		qt.Assert(t, qt.IsFalse(ids[id]))
		ids[id] = true
	}
	w.RemoveAll()
	w.empty()
}

// TestHandedOutAndAtOnce does something with clones of a pool as soon as they are
// there, before they are on record for good, and kills the daemon.
func TestHandedOutAndAtOnce(t *testing.T) {
	w := New(t)
	w.actor(&api.RunRequest{Name: "web", Endpoint: actorEndpoint})
	original := w.caller(actorEndpoint)
	original.tell("write /tmp/file frozen")
	w.template("t", "web", "")
	w.pool("t", 5)
	names := []string{"held", "saved", "removed", "stopped", "running"}
	ends := make(map[string]string)
	for _, r := range w.clones(&api.CloneRequest{Template: "t", Names: names, Pool: api.PoolUse_POOL_USE_ONLY}) {
		ends[r.GetName()] = r.GetApp().GetEndpoint()
	}
	ctx := t.Context()
	var g errgroup.Group
	g.Go(func() error {
		_, err := w.API.Hibernate(ctx, &api.HibernateRequest{Name: "held"}, nil)
		return err
	})
	g.Go(func() error {
		_, err := w.API.TakeSnapshot(ctx, &api.SnapshotRequest{App: "saved", Name: "s"}, nil)
		return err
	})
	g.Go(func() error { return w.API.Remove(ctx, &api.RemoveRequest{Name: "removed", Force: true}) })
	g.Go(func() error {
		_, err := w.API.Stop(ctx, &api.StopRequest{Name: "stopped", Signal: "KILL"})
		return err
	})
	qt.Assert(t, qt.IsNil(g.Wait()))
	qt.Assert(t, qt.IsNil(w.RestartDaemon(ctx, syscall.SIGKILL, host.Daemon{})))
	w.Dial()
	qt.Assert(t, qt.DeepEquals(w.names(), []string{"held", "running", "saved", "stopped", "web"}))
	qt.Assert(t, qt.Equals(w.Show("held").GetStatus(), api.Status_STATUS_HELD))
	qt.Assert(t, qt.Equals(w.Show("stopped").GetStatus(), api.Status_STATUS_STOPPED))
	_, err := w.API.Restore(ctx, &api.RestoreRequest{Snapshot: "s", As: "again", Endpoint: "10.77.1.1"}, nil)
	qt.Assert(t, qt.IsNil(err))
	for name, end := range map[string]string{"held": ends["held"], "saved": ends["saved"], "running": ends["running"], "again": "10.77.1.1"} {
		c := w.caller(end)
		qt.Assert(t, qt.Equals(c.ask("instance"), name))
		qt.Assert(t, qt.Equals(c.ask("read /tmp/file"), "frozen"))
	}
	w.RemoveAll()
	w.empty()
}
