package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/testenv/gate"
	"github.com/snapctl/snapctl/testenv/host"
)

// stage is an operation with fault points in it, and what surrounds it.
type stage struct {
	before func(w *World) // on a daemon without a plan; the app "cache" runs
	do     func(w *World) error
	undone func(w *World) // checks that it never happened
	done   func(w *World) // checks that it happened
}

// stages are the operations, by the first word of their points' names.
var stages = map[string]stage{
	"run": {
		do: func(w *World) error {
			_, err := w.API.Run(w.t.Context(), redisRequest("copy", "10.77.0.8"))
			return err
		},
		undone: func(w *World) { w.gone("copy") },
		done:   func(w *World) { w.once("copy", api.Status_STATUS_RUNNING) },
	},
	"hibernate": {
		do: func(w *World) error {
			_, err := w.API.Hibernate(w.t.Context(), &api.HibernateRequest{Name: "cache"}, nil)
			return err
		},
		undone: func(w *World) { w.once("cache", api.Status_STATUS_RUNNING) },
		done:   func(w *World) { w.once("cache", api.Status_STATUS_HELD) },
	},
	"wake": {
		before: func(w *World) { w.Hibernate("cache") },
		do: func(w *World) error {
			if _, err := w.API.Wake(w.t.Context(), &api.WakeRequest{Name: "cache"}, nil); err != nil {
				return err
			}
			var died error // it goes on after the answer
			w.Until("the images are removed, or the daemon is dead", func() error {
				if _, died = w.API.List(w.t.Context()); died != nil {
					return nil
				}
				return w.partial()
			})
			return died
		},
		undone: func(w *World) { w.once("cache", api.Status_STATUS_HELD) },
		done:   func(w *World) { w.once("cache", api.Status_STATUS_RUNNING) },
	},
	"snapshot": {
		do: func(w *World) error {
			_, err := w.API.TakeSnapshot(w.t.Context(), &api.SnapshotRequest{App: "cache", Name: "s1"}, nil)
			return err
		},
		undone: func(w *World) { qt.Assert(w.t, qt.HasLen(w.snapshots(), 0)) },
		done: func(w *World) {
			qt.Assert(w.t, qt.DeepEquals(w.snapshots(), []string{"s1"}))
			_, err := w.API.Restore(w.t.Context(), &api.RestoreRequest{Snapshot: "s1", As: "copy", Endpoint: "10.77.0.8"}, nil)
			qt.Assert(w.t, qt.IsNil(err))
			w.once("copy", api.Status_STATUS_RUNNING)
		},
	},
	"save":    saving,
	"restack": saving, // is part of it
	"restore": {
		before: func(w *World) {
			_, err := w.API.TakeSnapshot(w.t.Context(), &api.SnapshotRequest{App: "cache", Name: "s1"}, nil)
			qt.Assert(w.t, qt.IsNil(err))
		},
		do: func(w *World) error {
			_, err := w.API.Restore(w.t.Context(), &api.RestoreRequest{Snapshot: "s1", As: "copy", Endpoint: "10.77.0.8"}, nil)
			return err
		},
		undone: func(w *World) { w.gone("copy") },
		done:   func(w *World) { w.once("copy", api.Status_STATUS_RUNNING) },
	},
	"create-template": {
		do: func(w *World) error {
			_, err := w.API.CreateTemplate(w.t.Context(), &api.CreateTemplateRequest{Name: "t", App: "cache"}, nil)
			return err
		},
		undone: func(w *World) {
			_, err := w.API.ShowTemplate(w.t.Context(), "t")
			qt.Assert(w.t, qt.ErrorIs(err, errdefs.ErrNotFound))
			qt.Assert(w.t, qt.HasLen(w.snapshots(), 0))
			w.empties("templates", "snapshots", "layers") // the app itself may map memory
		},
		done: func(w *World) {
			w.Until("the template is there", func() error { // nobody has any app's turn at the last point
				_, err := w.API.ShowTemplate(w.t.Context(), "t")
				return err
			})
			w.clone("t", "copy", nil)
			w.once("copy", api.Status_STATUS_RUNNING)
		},
	},
	"clone":         cloningThree, // is part of the next one
	"clone-request": cloningThree,
	"fill-pool": {
		before: func(w *World) { w.template("t", "cache", ""); w.clone("t", "copy", nil) },
		do: func(w *World) error {
			if _, err := w.API.SetPool(w.t.Context(), &api.SetPoolRequest{Template: "t", Size: 1}); err != nil {
				return err
			}
			var failure error
			w.Until("the pool has failed", func() error {
				t, err := w.API.ShowTemplate(w.t.Context(), "t")
				if err == nil && t.GetPoolError() == "" {
					return errors.New("it has not")
				}
				if failure = err; err == nil {
					failure = errors.New(t.GetPoolError())
				}
				return nil
			})
			return failure
		},
		undone: func(w *World) {
			w.pooled("t", 1)
			w.once("copy", api.Status_STATUS_RUNNING)
			r := w.clones(&api.CloneRequest{Template: "t", Pool: api.PoolUse_POOL_USE_ONLY})[0]
			qt.Assert(w.t, qt.Equals(w.redis(r.GetApp().GetEndpoint()).do("INCR n"), ":3"))
		},
	},
	"hand-out": {
		before: func(w *World) { w.template("t", "cache", ""); w.clone("t", "copy", nil); w.pool("t", 1) },
		do: func(w *World) error {
			w.pooled("t", 1)
			_, err := w.API.Clone(w.t.Context(), &api.CloneRequest{Template: "t", Pool: api.PoolUse_POOL_USE_ONLY}, client.CloneWatch{})
			return err
		},
		undone: func(w *World) {
			w.once("copy", api.Status_STATUS_RUNNING)
			w.pooled("t", 1)
			qt.Assert(w.t, qt.DeepEquals(w.names(), []string{"cache", "copy"}))
			r := w.clones(&api.CloneRequest{Template: "t", Pool: api.PoolUse_POOL_USE_ONLY})[0]
			qt.Assert(w.t, qt.Equals(r.GetName(), "t-2"))
		},
		done: func(w *World) {
			w.pooled("t", 1)
			qt.Assert(w.t, qt.DeepEquals(w.names(), []string{"cache", "copy", "t-2"}))
			qt.Assert(w.t, qt.Equals(w.redis(w.Show("t-2").GetEndpoint()).do("INCR n"), ":3"))
		},
	},
	"remove": {
		before: func(w *World) {
			w.Run(redisRequest("copy", "10.77.0.8"))
			w.mapMemory("copy", w.redis("10.77.0.8"))
		},
		do: func(w *World) error {
			return w.API.Remove(w.t.Context(), &api.RemoveRequest{Name: "copy", Force: true})
		},
		done: func(w *World) { w.gone("copy") },
	},
}

// saving saves a held app.
var saving = stage{
	before: func(w *World) { w.Hibernate("cache") },
	do: func(w *World) error {
		_, err := w.API.TakeSnapshot(w.t.Context(), &api.SnapshotRequest{App: "cache", Name: "s1"}, nil)
		return err
	},
	undone: func(w *World) {
		qt.Assert(w.t, qt.HasLen(w.snapshots(), 0))
		w.once("cache", api.Status_STATUS_HELD)
	},
	done: func(w *World) {
		qt.Assert(w.t, qt.DeepEquals(w.snapshots(), []string{"s1"}))
		w.once("cache", api.Status_STATUS_HELD)
		_, err := w.API.Restore(w.t.Context(), &api.RestoreRequest{Snapshot: "s1", As: "copy", Endpoint: "10.77.0.8"}, nil)
		qt.Assert(w.t, qt.IsNil(err))
		w.once("copy", api.Status_STATUS_RUNNING)
	},
}

// cloningThree makes three clones with one request.
var cloningThree = stage{
	before: func(w *World) { w.template("t", "cache", "") },
	do:     func(w *World) error { return cloneThree(w.t.Context(), w, 0) },
	undone: func(w *World) { w.onlyCache(); w.clones(&api.CloneRequest{Template: "t", Count: 3}) },
	done: func(w *World) {
		qt.Assert(w.t, qt.DeepEquals(w.names(), []string{"cache", "t-1", "t-2", "t-3"}))
		for _, name := range []string{"t-1", "t-2", "t-3"} {
			qt.Assert(w.t, qt.Equals(w.redis(w.Show(name).GetEndpoint()).do("INCR n"), ":3"))
		}
	},
}

// cloneThree makes three clones.
func cloneThree(ctx context.Context, w *World, timeout time.Duration) error {
	_, err := w.API.Clone(ctx, &api.CloneRequest{Template: "t", Count: 3, Timeout: durationpb.New(timeout)}, client.CloneWatch{})
	return err
}

// onlyCache proves that no other app is there, nor processes of one.
func (w *World) onlyCache() {
	w.t.Helper()
	qt.Assert(w.t, qt.DeepEquals(w.names(), []string{"cache"}))
	pids, err := w.Pids()
	qt.Assert(w.t, qt.IsNil(err))
	for _, pid := range pids {
		qt.Assert(w.t, qt.IsTrue(!isInit(pid) || cgroupOf(pid) == "cache"))
	}
}

func TestEveryPointHasAStage(t *testing.T) {
	for _, name := range points() {
		_, ok := stages[operationOf(name)]
		qt.Check(t, qt.IsTrue(ok), qt.Commentf("%s", name))
	}
}

// onlyCacheSoon waits until no other app is there.
func (w *World) onlyCacheSoon() {
	w.t.Helper()
	w.Until("the clones are undone", func() error {
		if names := w.names(); len(names) > 1 {
			return fmt.Errorf("there are %v", names)
		}
		return nil
	})
}

// TestCrashAtEveryPoint kills the daemon at each point of each operation.
func TestCrashAtEveryPoint(t *testing.T) {
	for _, name := range points() {
		t.Run(string(name), func(t *testing.T) {
			w, s, clients := atPoint(t, name, gate.Kill(name))
			qt.Assert(t, qt.IsNotNil(s.do(w)))
			state, err := w.WaitDaemon(t.Context())
			qt.Assert(t, qt.IsNil(err))
			status, ok := state.Sys().(syscall.WaitStatus)
			qt.Assert(t, qt.IsTrue(ok && status.Signal() == syscall.SIGKILL), qt.Commentf("the daemon never came to the point: %v", state))

			qt.Assert(t, qt.IsNil(w.StartDaemon(t.Context(), host.Daemon{})))
			w.Dial()
			w.nothingPartial()
			if late, part := committed(name); late && !part {
				s.done(w)
			} else {
				s.undone(w)
			}
			goesOn(w, clients)
		})
	}
}

// TestErrorAtEveryPoint fails each step of each operation.
func TestErrorAtEveryPoint(t *testing.T) {
	for _, name := range somePoints(t, points()) {
		t.Run(string(name), func(t *testing.T) {
			w, s, clients := atPoint(t, name, gate.Fail(name))
			err := s.do(w)
			w.Until("the daemon logs it", func() error { // after it has answered
				if !strings.Contains(w.DaemonLog(), "at "+string(name)+": injected fault") {
					return errors.New("it does not")
				}
				return nil
			})
			late, _ := committed(name)
			if late {
				qt.Assert(t, qt.IsNil(err))
			} else {
				qt.Assert(t, qt.ErrorMatches(err, `(?s).*at `+string(name)+`: injected fault.*`))
			}
			w.nothingPartial()
			qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), syscall.SIGTERM, host.Daemon{})))
			w.Dial()
			if late {
				s.done(w)
			} else {
				s.undone(w)
			}
			goesOn(w, clients)
		})
	}
}

// atPoint makes a world with the app "cache", two clients of it, and a daemon
// that follows a plan.
func atPoint(t *testing.T, name fault.Name, plan gate.Fault) (*World, stage, []*redis) {
	t.Helper()
	w := New(t, "redis-server")
	s := stages[operationOf(name)]
	w.Run(redisRequest("cache", "10.77.0.7"))
	clients := []*redis{w.redis("10.77.0.7"), w.redis("10.77.0.7")}
	qt.Assert(t, qt.Equals(clients[0].do("INCR n"), ":1"))
	clients[1].send("BLPOP queue 0")
	qt.Assert(t, qt.Equals(clients[0].do("INCR n"), ":2"))
	w.mapMemory("cache", clients[0])
	if s.before != nil {
		s.before(w)
	}
	qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), syscall.SIGTERM, host.Daemon{Env: gate.Env(plan)})))
	w.Dial()
	return w, s, clients
}

// mapMemory has a redis come to have memory files mapped.
func (w *World) mapMemory(app string, c *redis) {
	w.t.Helper()
	qt.Assert(w.t, qt.Equals(c.do("SETRANGE pad 4194303 x"), ":4194304"))
	w.Hibernate(app)
	qt.Assert(w.t, qt.IsTrue(len(w.saved("apps/"+app+"/hibernation")) > 0))
	w.Wake(app)
	w.mapped(1 << 20)
}

// goesOn proves that the clients are still connected to the one app, which
// can be hibernated and woken again.
func goesOn(w *World, clients []*redis) {
	w.t.Helper()
	qt.Assert(w.t, qt.Equals(clients[0].do("INCR n"), ":3"))
	w.Running("cache")
	w.Hibernate("cache")
	w.once("cache", api.Status_STATUS_HELD)
	qt.Assert(w.t, qt.IsTrue(len(w.saved("apps/cache/hibernation")) > 0)) // or memoryFiles proves nothing
	qt.Assert(w.t, qt.Equals(clients[0].do("RPUSH queue job"), ":1"))
	got := make([]string, 0, 5)
	for range 5 {
		got = append(got, clients[1].line())
	}
	qt.Assert(w.t, qt.DeepEquals(got, []string{"*2", "$5", "queue", "$3", "job"}))
	w.Running("cache")
	w.once("cache", api.Status_STATUS_RUNNING)
	w.nothingPartial()
}

func redisRequest(name, endpoint string) *api.RunRequest {
	return &api.RunRequest{Name: name, Endpoint: endpoint, Args: []string{"redis-server", "--save", "", "--protected-mode", "no"}}
}
