package e2e

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/testenv/gate"
	"github.com/snapctl/snapctl/testenv/host"
)

// hibernating is an app whose hibernation waits at a gate.
type hibernating struct {
	*World
	client *redis
	cancel context.CancelFunc // of the request
	stop   *gate.Stop
	ended  chan error
}

// hibernateUpTo runs redis as "cache" and hibernates it as far as a point.
func hibernateUpTo(t *testing.T, point fault.Name, timeout time.Duration) *hibernating {
	t.Helper()
	w := New(t, "redis-server")
	g := gate.New(t, w.Dir(), point)
	w.Run(redisRequest("cache", "10.77.0.7"))
	h := &hibernating{World: w, client: w.redis("10.77.0.7"), ended: make(chan error, 1)}
	qt.Assert(t, qt.Equals(h.client.do("INCR n"), ":1"))
	qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), syscall.SIGTERM, host.Daemon{Env: gate.Env(g.Fault())})))
	w.Dial()
	ctx, cancel := context.WithCancel(t.Context())
	h.cancel = cancel
	t.Cleanup(cancel)
	req := &api.HibernateRequest{Name: "cache"}
	if timeout > 0 {
		req.Timeout = durationpb.New(timeout)
	}
	go func() {
		_, err := w.API.Hibernate(ctx, req, nil)
		h.ended <- err
	}()
	var err error
	h.stop, err = g.Wait(t.Context())
	qt.Assert(t, qt.IsNil(err))
	return h
}

// unchanged proves that the app is as it was before.
func (h *hibernating) unchanged() {
	h.t.Helper()
	h.Running("cache")
	h.once("cache", api.Status_STATUS_RUNNING)
	qt.Assert(h.t, qt.Equals(h.client.do("INCR n"), ":2"))
	h.nothingPartial()
}

var hibernatePoints = []fault.Name{
	"hibernate.begun", "hibernate.frozen", "hibernate.held",
	"hibernate.dumped", "hibernate.saved",
}

func TestCancelledHibernateChangesNothing(t *testing.T) {
	for _, point := range hibernatePoints {
		t.Run(string(point), func(t *testing.T) {
			h := hibernateUpTo(t, point, 0)
			h.cancel()
			qt.Assert(t, qt.IsNotNil(<-h.ended))
			h.unchanged()
		})
	}
}

func TestHibernateOutOfTimeChangesNothing(t *testing.T) {
	h := hibernateUpTo(t, "hibernate.dumped", 2*time.Second)
	qt.Assert(t, qt.ErrorMatches(<-h.ended, "(?s).*deadline exceeded.*"))
	h.unchanged()
}

// TestAppEndsDuringHibernate kills the app when it is frozen: it has stopped
// then, and nothing of the hibernation is left.
func TestAppEndsDuringHibernate(t *testing.T) {
	for _, point := range []fault.Name{"hibernate.begun", "hibernate.frozen", "hibernate.held"} {
		t.Run(string(point), func(t *testing.T) {
			h := hibernateUpTo(t, point, 0)
			pids, err := h.Pids()
			qt.Assert(t, qt.IsNil(err))
			for _, pid := range pids {
				if cgroupOf(pid) == "cache" && isInit(pid) {
					qt.Assert(t, qt.IsNil(syscall.Kill(pid, syscall.SIGKILL)))
				}
			}
			h.Until("the app is gone", func() error {
				if n := h.processes("cache"); n != 0 {
					return fmt.Errorf("%d of it are left", n)
				}
				return nil
			})
			qt.Assert(t, qt.IsNil(h.stop.Continue()))
			qt.Assert(t, qt.IsNotNil(<-h.ended))
			h.Until("it is stopped", func() error {
				if s := h.Show("cache").GetStatus(); s != api.Status_STATUS_STOPPED {
					return fmt.Errorf("it is %s", s)
				}
				return nil
			})
			h.nothingPartial()
			_, err = h.API.Wake(t.Context(), &api.WakeRequest{Name: "cache"}, nil)
			qt.Assert(t, qt.IsNotNil(err))
		})
	}
}

// TestOperationsQueue starts others while one is under way: who can't wait is
// told what is in the way, the rest have their turn.
func TestOperationsQueue(t *testing.T) {
	tests := map[string]struct {
		do   func(w *World) error
		want func(t *testing.T, h *hibernating)
	}{
		"rm --force": {
			func(w *World) error {
				return w.API.Remove(w.t.Context(), &api.RemoveRequest{Name: "cache", Force: true})
			},
			func(t *testing.T, h *hibernating) {
				t.Helper()
				apps, err := h.API.List(t.Context())
				qt.Assert(t, qt.IsNil(err))
				qt.Assert(t, qt.HasLen(apps, 0))
				qt.Assert(t, qt.Equals(h.processes("cache"), 0))
			},
		},
		"stop": {
			func(w *World) error {
				_, err := w.API.Stop(w.t.Context(), &api.StopRequest{Name: "cache"})
				return err
			},
			func(t *testing.T, h *hibernating) {
				t.Helper()
				qt.Assert(t, qt.Equals(h.Show("cache").GetStatus(), api.Status_STATUS_STOPPED))
				qt.Assert(t, qt.Equals(h.processes("cache"), 0))
			},
		},
		"wake": {
			func(w *World) error {
				_, err := w.API.Wake(w.t.Context(), &api.WakeRequest{Name: "cache"}, nil)
				return err
			},
			func(_ *testing.T, h *hibernating) { h.unchanged() },
		},
		"hibernate": {
			func(w *World) error {
				_, err := w.API.Hibernate(w.t.Context(), &api.HibernateRequest{Name: "cache"}, nil)
				return err
			},
			func(_ *testing.T, h *hibernating) { h.once("cache", api.Status_STATUS_HELD) },
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := hibernateUpTo(t, "hibernate.held", 0)
			_, err := h.API.Wake(t.Context(), &api.WakeRequest{Name: "cache", Timeout: durationpb.New(100 * time.Millisecond)}, nil)
			qt.Assert(t, qt.ErrorMatches(err, "(?s).*hibernate is going on.*"))
			queued := make(chan error, 1)
			go func() { queued <- tt.do(h.World) }()
			qt.Assert(t, qt.IsNil(h.stop.Continue()))
			// Who is first is chance, unless it was the one that is under way.
			qt.Assert(t, qt.IsNil(<-h.ended))
			qt.Assert(t, qt.IsNil(<-queued))
			tt.want(t, h)
		})
	}
}

// TestBusyAppIsSaved hibernates an app that forks, executes, and opens and
// closes connections all the time.
func TestBusyAppIsSaved(t *testing.T) {
	w := New(t, "redis-server", "redis-cli")
	w.Run(&api.RunRequest{Name: "busy", Endpoint: "10.77.0.7", Args: []string{
		"sh", "-c",
		"redis-server --save '' --protected-mode no & while :; do redis-cli INCR rounds >/dev/null; (sh -c 'exit 0' & sh -c 'exit 0'; wait); done",
	}})
	client := w.redis("10.77.0.7")
	w.Until("it works", func() error {
		if client.do("EXISTS rounds") != ":1" {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	random := seeded(t)
	for i := range max(3, rounds(t, 60)/15) {
		w.pause(random, 60*time.Millisecond)
		w.Hibernate("busy")
		qt.Assert(t, qt.Equals(client.do("INCR n"), fmt.Sprintf(":%d", i+1)))
		w.Running("busy")
	}
}

// TestHibernateRightAfterWake hibernates an app again before the images that it was
// woken from are removed.
func TestHibernateRightAfterWake(t *testing.T) {
	w := New(t, "redis-server")
	g := gate.New(t, w.Dir(), "wake.dropped")
	w.Run(redisRequest("cache", "10.77.0.7"))
	client := w.redis("10.77.0.7")
	qt.Assert(t, qt.Equals(client.do("INCR n"), ":1"))
	qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), syscall.SIGTERM, host.Daemon{Env: gate.Env(g.Fault())})))
	w.Dial()
	w.Hibernate("cache")
	w.Wake("cache")
	stop, err := g.Wait(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNotNil(w.partial()))
	w.Hibernate("cache")
	w.once("cache", api.Status_STATUS_HELD)
	qt.Assert(t, qt.IsNil(stop.Continue()))
	w.Until("the old images are removed", w.partial)
	open(t, g)
	qt.Assert(t, qt.Equals(client.do("INCR n"), ":2")) // wakes it
	w.Running("cache")
	w.nothingPartial()
}
