package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/testenv/gate"
	"github.com/snapctl/snapctl/testenv/host"
)

// TestAllOrNone has requests for clones fail in the middle in every way.
func TestAllOrNone(t *testing.T) {
	w := New(t)
	w.actor(&api.RunRequest{Name: "web", Endpoint: actorEndpoint})
	w.caller(actorEndpoint)
	// The fourth one fails, another takes for ever.
	w.template("t", "web", `{run: [{args: [/bin/sh, -c, 'test {{ .Number }} != 4 && { test {{ .Number }} != 209 || sleep 1000; }']}]}`)
	plain := func() {
		t.Helper()
		w.settled()
		qt.Assert(t, qt.DeepEquals(w.names(), []string{"web"}))
		w.nothingPartial()
		w.empties("batches")
	}
	_, err := w.tryClones(&api.CloneRequest{Template: "t", Count: 6})
	qt.Assert(t, qt.ErrorMatches(err, `(?s).*t-4.*exit status 1.*`))
	plain()
	all, err := w.tryClones(&api.CloneRequest{Template: "t", Count: 6, KeepGoing: true})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(all, 6))
	qt.Assert(t, qt.DeepEquals(w.names(), []string{"t-1", "t-2", "t-3", "t-5", "t-6", "web"}))
	for _, r := range all {
		qt.Assert(t, qt.Equals(client.CloneError(r) == nil, r.GetName() != "t-4"))
	}
	w.remove("t-1", "t-2", "t-3", "t-5", "t-6")

	// The client hangs up when three are made.
	ctx, cancel := context.WithCancel(t.Context())
	made := 0
	_, err = w.API.Clone(ctx, &api.CloneRequest{Template: "t", Count: 20, Start: 100}, client.CloneWatch{Result: func(*api.CloneResult) {
		if made++; made == 3 {
			cancel()
		}
	}})
	cancel()
	qt.Assert(t, qt.IsNotNil(err))
	w.Until("all are undone", func() error {
		if names := w.names(); len(names) > 1 {
			return fmt.Errorf("there are %v", names)
		}
		return nil
	})
	plain()
	_, err = w.API.Clone(t.Context(), &api.CloneRequest{Template: "t", Count: 20, Start: 200, Timeout: durationpb.New(400e6)}, client.CloneWatch{})
	qt.Assert(t, qt.ErrorIs(err, context.DeadlineExceeded))
	plain()

	// The daemon is told to end when two are made, before the others.
	made = 0
	killed := make(chan error, 1)
	_, err = w.API.Clone(t.Context(), &api.CloneRequest{Template: "t", Count: 20, Start: 100}, client.CloneWatch{Result: func(*api.CloneResult) {
		if made++; made == 2 {
			go func() { killed <- w.KillDaemon(t.Context(), syscall.SIGTERM) }()
		}
	}})
	qt.Assert(t, qt.IsNotNil(err))
	qt.Assert(t, qt.IsNil(<-killed))
	qt.Assert(t, qt.IsNil(w.StartDaemon(t.Context(), host.Daemon{})))
	w.Dial()
	plain()

	// What is taken, is.
	w.clone("t", "mine", nil)
	for name, req := range map[string]*api.CloneRequest{
		"name":     {Names: []string{"a", "mine"}},
		"twice":    {Names: []string{"a", "a"}},
		"endpoint": {Names: []string{"a", "b"}, Endpoints: []string{"10.77.0.90", actorEndpoint}},
		"number":   {NamePattern: "x-{n}", Start: 1},
		"bad name": {Names: []string{"a", "../b"}},
	} {
		req.Template = "t"
		_, err := w.tryClones(req)
		qt.Assert(t, qt.IsNotNil(err), qt.Commentf("%s", name))
		qt.Assert(t, qt.DeepEquals(w.names(), []string{"mine", "web"}), qt.Commentf("%s", name))
	}
	w.RemoveAll()
	w.empty()
}

// TestUnfinishedCloneInUse kills the daemon while somebody saves or wakes a clone of
// a request that is not over: none is left.
func TestUnfinishedCloneInUse(t *testing.T) {
	for _, name := range []fault.Name{"snapshot.dumped", "hibernate.frozen", "hibernate.ended", "wake.resuming"} {
		t.Run(string(name), func(t *testing.T) {
			w := New(t)
			w.actor(&api.RunRequest{Name: "web", Endpoint: actorEndpoint})
			w.caller(actorEndpoint)
			w.template("t", "web", `{run: [{args: [/bin/sh, -c, 'test {{ .Number }} = 1 || sleep 1000'], timeout: 10m}]}`)
			qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), syscall.SIGTERM, host.Daemon{Env: gate.Env(gate.Kill(name))})))
			w.Dial()
			ended := make(chan error, 1)
			go func() {
				_, err := w.tryClones(&api.CloneRequest{Template: "t", Count: 2})
				ended <- err
			}()
			w.Until("the first one runs", func() error {
				a, err := w.API.Show(t.Context(), "t-1")
				if err == nil && a.GetStatus() != api.Status_STATUS_RUNNING {
					err = errors.New("it is made")
				}
				return err
			})
			var err error
			switch operationOf(name) {
			case "snapshot":
				_, err = w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "t-1"}, nil)
			case "wake":
				w.Hibernate("t-1")
				_, err = w.API.Wake(t.Context(), &api.WakeRequest{Name: "t-1"}, nil)
			default:
				_, err = w.API.Hibernate(t.Context(), &api.HibernateRequest{Name: "t-1"}, nil)
			}
			qt.Assert(t, qt.IsNotNil(err))
			qt.Assert(t, qt.IsNotNil(<-ended))
			_, err = w.WaitDaemon(t.Context())
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.IsNil(w.StartDaemon(t.Context(), host.Daemon{})))
			w.Dial()
			w.settled()
			qt.Assert(t, qt.DeepEquals(w.names(), []string{"web"}))
			w.nothingPartial()
			w.empties("batches")
			w.RemoveAll()
			w.empty()
		})
	}
}

// TestRequestsAtOnce has many clients ask for clones, pools and tables, and remove
// what they got, all at the same time.
func TestRequestsAtOnce(t *testing.T) {
	w := New(t)
	w.actor(&api.RunRequest{Name: "web", Endpoint: actorEndpoint})
	c := w.caller(actorEndpoint)
	w.template("t", "web", "")
	// The same names: one of both has all, the other none.
	outcomes := make(chan error, 2)
	for _, names := range [][]string{{"a", "b", "c"}, {"c", "b", "a"}} {
		go func() {
			_, err := w.API.Clone(t.Context(), &api.CloneRequest{Template: "t", Names: names}, client.CloneWatch{})
			outcomes <- err
		}()
	}
	failed := 0
	for range 2 {
		if err := <-outcomes; err != nil {
			qt.Assert(t, qt.ErrorIs(err, errdefs.ErrAlreadyExists))
			failed++
		}
	}
	qt.Assert(t, qt.Equals(failed, 1))
	qt.Assert(t, qt.DeepEquals(w.names(), []string{"a", "b", "c", "web"}))
	w.remove("a", "b", "c")

	_, err := w.API.SetPool(t.Context(), &api.SetPoolRequest{Template: "t", Size: 2})
	qt.Assert(t, qt.IsNil(err))
	ctx, cancel := context.WithCancel(t.Context())
	var shows, clones sync.WaitGroup
	for range 2 {
		shows.Go(func() {
			for size := int32(0); ctx.Err() == nil; size = (size + 1) % 4 {
				apps, err := w.API.List(ctx)
				if err != nil {
					continue
				}
				for _, a := range apps {
					_, _ = w.API.IDs(ctx, a.GetName()) // it may be gone
				}
				_, _ = w.API.VemTable(ctx, &api.VemTableRequest{})
				_, _ = w.API.ListTemplates(ctx)
				_, _ = w.API.SetPool(ctx, &api.SetPoolRequest{Template: "t", Size: size})
			}
		})
	}
	numbers := make(chan error, 100)
	for client := range 4 {
		clones.Go(func() {
			for range 4 {
				numbers <- w.storm(t, client)
			}
		})
	}
	clones.Wait()
	cancel()
	shows.Wait()
	close(numbers)
	for err := range numbers {
		qt.Check(t, qt.IsNil(err))
	}
	// The template can't go while clones are made of it, or before they have gone.
	ended := make(chan error, 1)
	go func() {
		_, err := w.tryClones(&api.CloneRequest{Template: "t", Count: 3, Pool: api.PoolUse_POOL_USE_NEVER})
		ended <- err
	}()
	err = w.API.RemoveTemplate(t.Context(), "t")
	made := <-ended
	qt.Assert(t, qt.IsTrue(err == nil && errors.Is(made, errdefs.ErrNotFound) || err != nil && made == nil), qt.Commentf("%v, %v", err, made))
	qt.Assert(t, qt.Equals(c.ask("echo still"), "still"))
	qt.Assert(t, qt.IsFalse(strings.Contains(w.DaemonLog(), "DATA RACE")))
	w.RemoveAll()
	w.empty()
}

// storm makes clones, looks whether they are those, and removes them.
func (w *World) storm(t *testing.T, n int) error {
	t.Helper()
	ctx := t.Context()
	var made []*api.App
	_, err := w.API.Clone(ctx, &api.CloneRequest{Template: "t", Count: 2, NamePattern: fmt.Sprintf("c%d-{n}", n)}, client.CloneWatch{
		Result: func(r *api.CloneResult) { made = append(made, r.GetApp()) },
	})
	if err != nil {
		return err
	}
	for _, a := range made {
		conn, err := w.DialContext(ctx, "tcp", a.GetEndpoint()+":7000")
		if err != nil {
			return fmt.Errorf("clone %s: %w", a.GetName(), err)
		}
		c := newCaller(t, conn)
		if got := c.ask("instance"); got != a.GetName() {
			return fmt.Errorf("at %s is %s, not %s", a.GetEndpoint(), got, a.GetName())
		}
		c.close()
		if err := w.API.Remove(ctx, &api.RemoveRequest{Name: a.GetName(), Force: true}); err != nil {
			return err
		}
	}
	return nil
}

// TestRemovedTwice removes a clone by two clients, and makes another one of the
// same name as soon as the first has succeeded: it is not the second's.
func TestRemovedTwice(t *testing.T) {
	w := New(t)
	w.actor(&api.RunRequest{Name: "web", Endpoint: actorEndpoint})
	w.caller(actorEndpoint)
	w.template("t", "web", "")
	for range 8 {
		w.clone("t", "x", nil)
		removed := make(chan error, 2)
		for range 2 {
			go func() { removed <- w.API.Remove(t.Context(), &api.RemoveRequest{Name: "x", Force: true}) }()
		}
		first := <-removed
		made, err := w.tryClones(&api.CloneRequest{Template: "t", Names: []string{"x"}})
		second := <-removed
		if first == nil && second == nil { // one came so late that it met the new app
			w.settled()
			if slices.Contains(w.names(), "x") {
				w.remove("x")
			}
			continue
		}
		qt.Assert(t, qt.ErrorIs(cmp.Or(first, second), errdefs.ErrNotFound))
		qt.Assert(t, qt.IsTrue(first == nil || second == nil))
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.Equals(w.caller(made[0].GetApp().GetEndpoint()).ask("instance"), "x"))
		w.remove("x")
	}
	w.RemoveAll()
	w.empty()
}
