package e2e

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/testenv/gate"
)

// breakable are the operations of crash_test.go, as a client that has no time
// begins them. A timeout of 0 is the daemon's own.
var breakable = map[string]func(ctx context.Context, w *World, timeout time.Duration) error{
	"run": func(ctx context.Context, w *World, _ time.Duration) error {
		_, err := w.API.Run(ctx, redisRequest("copy", "10.77.0.8"))
		return err
	},
	"hibernate": func(ctx context.Context, w *World, timeout time.Duration) error {
		_, err := w.API.Hibernate(ctx, &api.HibernateRequest{Name: "cache", Timeout: durationpb.New(timeout)}, nil)
		return err
	},
	"wake": func(ctx context.Context, w *World, timeout time.Duration) error {
		_, err := w.API.Wake(ctx, &api.WakeRequest{Name: "cache", Timeout: durationpb.New(timeout)}, nil)
		return err
	},
	"snapshot": func(ctx context.Context, w *World, timeout time.Duration) error {
		_, err := w.API.TakeSnapshot(ctx, &api.SnapshotRequest{App: "cache", Name: "s1", Timeout: durationpb.New(timeout)}, nil)
		return err
	},
	"restore": func(ctx context.Context, w *World, timeout time.Duration) error {
		req := &api.RestoreRequest{Snapshot: "s1", As: "copy", Endpoint: "10.77.0.8", Timeout: durationpb.New(timeout)}
		_, err := w.API.Restore(ctx, req, nil)
		return err
	},
	"create-template": func(ctx context.Context, w *World, timeout time.Duration) error {
		req := &api.CreateTemplateRequest{Name: "t", App: "cache", Timeout: durationpb.New(timeout)}
		_, err := w.API.CreateTemplate(ctx, req, nil)
		return err
	},
	"clone": cloneThree, "clone-request": cloneThree,
}

// pausedAt makes a world whose daemon waits at a gate, the first time that it
// comes there.
func pausedAt(t *testing.T, name fault.Name) (*World, stage, []*redis, *gate.Gate) {
	t.Helper()
	dir, err := os.MkdirTemp("", "gate") //nolint:usetesting // a socket's path is short
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(os.RemoveAll(dir))) })
	g := gate.New(t, dir, name)
	w, s, clients := atPoint(t, name, g.Fault())
	return w, s, clients, g
}

// open lets all through a gate from now on.
func open(t *testing.T, g *gate.Gate) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			stop, err := g.Wait(ctx)
			if ctx.Err() != nil {
				return
			}
			if err == nil { // else it was gone before it said where it is
				_ = stop.Continue() // it may be gone
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
}

// settled waits until the daemon does nothing to any app.
func (w *World) settled() {
	w.t.Helper()
	w.Until("all operations are over", func() error {
		apps, err := w.API.List(w.t.Context())
		qt.Assert(w.t, qt.IsNil(err))
		for _, a := range apps {
			if op := a.GetOperation(); op != "" {
				return fmt.Errorf("%s of %s goes on", op, a.GetName())
			}
		}
		return nil
	})
}

// TestCancelAtEveryPoint has the client of an operation hang up while the
// daemon is at each of its points. What can be undone is; the daemon goes on.
func TestCancelAtEveryPoint(t *testing.T) {
	for _, name := range somePoints(t, points()) {
		do := breakable[operationOf(name)]
		if do == nil || name == "wake.dropped" {
			continue // nothing ends a removal, or what comes after the answer
		}
		t.Run(string(name), func(t *testing.T) {
			w, s, clients, g := pausedAt(t, name)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan error, 1)
			go func() { ended <- do(ctx, w, 0) }()
			stop, err := g.Wait(t.Context())
			qt.Assert(t, qt.IsNil(err))
			cancel()
			qt.Assert(t, qt.IsNotNil(<-ended))
			late, part := committed(name)
			if late {
				qt.Assert(t, qt.IsNil(stop.Continue()))
			}
			open(t, g)
			if operationOf(name) == "clone-request" && !late {
				w.onlyCacheSoon() // nobody has any app's turn at these points
			}
			w.settled()
			switch {
			case late && !part, late && len(w.names()) > 1: // it may learn of it when all is done
				s.done(w)
			default:
				s.undone(w)
			}
			goesOn(w, clients)
		})
	}
}

// TestTimeout gives operations less time than they take.
func TestTimeout(t *testing.T) {
	for _, name := range []fault.Name{"hibernate.dumped", "wake.starting", "snapshot.dumped", "restore.furnished", "clone.restored"} {
		t.Run(string(name), func(t *testing.T) {
			w, s, clients, g := pausedAt(t, name)
			// Long enough to get to the point, where it stays.
			err := breakable[operationOf(name)](t.Context(), w, 3*time.Second)
			qt.Assert(t, qt.ErrorIs(err, context.DeadlineExceeded))
			stop, err := g.Wait(t.Context()) // it was there
			qt.Assert(t, qt.IsNil(err))
			_ = stop.Continue() // and is gone
			open(t, g)
			w.settled()
			s.undone(w)
			goesOn(w, clients)
		})
	}
}

// TestBusy has an operation wait for another one, with less patience than that.
func TestBusy(t *testing.T) {
	w, _, clients, g := pausedAt(t, "hibernate.dumped")
	ended := make(chan error, 1)
	go func() { ended <- breakable["hibernate"](t.Context(), w, 0) }()
	stop, err := g.Wait(t.Context())
	qt.Assert(t, qt.IsNil(err))
	_, err = w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "cache", Timeout: durationpb.New(200 * time.Millisecond)}, nil)
	qt.Assert(t, qt.ErrorMatches(err, `(?s).*busy: hibernate is going on.*`))
	r := w.CLI("--timeout", "200ms", "wake", "cache")
	qt.Assert(t, qt.Equals(r.Code, 1))
	qt.Assert(t, qt.StringContains(r.Stderr, "busy: hibernate is going on"))
	w.OK("ps") // what shows does not wait
	w.OK("vem", "table", "cache")
	qt.Assert(t, qt.IsNil(stop.Continue()))
	qt.Assert(t, qt.IsNil(<-ended))
	open(t, g)
	goesOn(w, clients)
}
