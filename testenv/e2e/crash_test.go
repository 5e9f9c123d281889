package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
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
	"create": {
		do: func(w *World) error {
			_, err := w.API.Run(w.t.Context(), redisRequest("copy", "10.77.0.8"))
			return err
		},
		undone: func(w *World) { w.gone("copy") },
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
			_, err := w.API.Wake(w.t.Context(), &api.WakeRequest{Name: "cache"}, nil)
			return err
		},
		undone: func(w *World) { w.once("cache", api.Status_STATUS_HELD) },
		done:   func(w *World) { w.once("cache", api.Status_STATUS_RUNNING) },
	},
	"drop": { // goes on after the answer
		before: func(w *World) { w.Hibernate("cache") },
		do: func(w *World) error {
			if _, err := w.API.Wake(w.t.Context(), &api.WakeRequest{Name: "cache"}, nil); err != nil {
				return err
			}
			var died error
			w.Until("the images are removed, or the daemon is dead", func() error {
				if _, died = w.API.List(w.t.Context()); died != nil {
					return nil
				}
				return w.partial()
			})
			return died
		},
		done: func(w *World) { w.once("cache", api.Status_STATUS_RUNNING) },
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
	"restack": {
		before: func(w *World) { w.Hibernate("cache") },
		do: func(w *World) error {
			_, err := w.API.TakeSnapshot(w.t.Context(), &api.SnapshotRequest{App: "cache", Name: "s1"}, nil)
			return err
		},
		undone: func(w *World) {
			qt.Assert(w.t, qt.HasLen(w.snapshots(), 0))
			w.once("cache", api.Status_STATUS_HELD)
		},
	},
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
	"template": {
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
		done: func(w *World) { w.clone("t", "copy", nil); w.once("copy", api.Status_STATUS_RUNNING) },
	},
	"clone": {
		before: func(w *World) { w.template("t", "cache", "") },
		do:     func(w *World) error { return cloneThree(w.t.Context(), w, 0) },
		undone: func(w *World) { w.onlyCache(); w.clones(&api.CloneRequest{Template: "t", Count: 3}) },
	},
	"pool": {
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
	"handout": {
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

// finished are the points after which a restarted daemon finishes the
// operation whose daemon died there; before them it undoes it.
var finished = map[fault.Name]bool{
	fault.HibernateAfterKill: true, fault.HibernateAfterArm: true,
	fault.WakeAfterRestore: true, fault.WakeAfterCommit: true, fault.DropBeforeRemoval: true,
	fault.SnapshotAfterCommit: true,
	fault.TemplateAfterCommit: true, fault.HandoutAfterCommit: true,
	fault.RemoveAfterRecord: true, fault.RemoveAfterKill: true,
	fault.RemoveAfterDetach: true, fault.RemoveAfterSandbox: true, fault.RemoveBeforeSweep: true,
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

// noWayBack are the points at which an error comes too late to undo the
// operation, which is finished.
var noWayBack = map[fault.Name]bool{
	fault.HibernateAfterKill: true, fault.HibernateAfterArm: true,
	fault.WakeAfterRestore: true, fault.WakeAfterCommit: true, fault.DropBeforeRemoval: true,
}

func TestEveryPointHasAStage(t *testing.T) {
	for _, name := range fault.Names() {
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

func operationOf(name fault.Name) string {
	op, _, _ := strings.Cut(string(name), ".")
	return op
}

// TestCrashAtEveryPoint kills the daemon at each point of each operation.
func TestCrashAtEveryPoint(t *testing.T) {
	for _, name := range fault.Names() {
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
			if finished[name] {
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
	for _, name := range fault.Names() {
		t.Run(string(name), func(t *testing.T) {
			w, s, clients := atPoint(t, name, gate.Fail(name))
			err := s.do(w)
			qt.Assert(t, qt.StringContains(w.DaemonLog(), "at "+string(name)+": injected fault"))
			if noWayBack[name] {
				qt.Assert(t, qt.IsNil(err))
			} else {
				qt.Assert(t, qt.ErrorMatches(err, `(?s).*at `+string(name)+`: injected fault.*`))
			}
			w.nothingPartial()
			qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), syscall.SIGTERM, host.Daemon{})))
			w.Dial()
			if noWayBack[name] || operationOf(name) == "remove" {
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

// once proves that an app has a status, and one tree of processes if it runs
// and none if it is held, whatever its daemon believes.
func (w *World) once(app string, want api.Status) {
	w.t.Helper()
	a := w.Show(app)
	qt.Assert(w.t, qt.Equals(a.GetStatus(), want))
	n := 1
	if want == api.Status_STATUS_HELD {
		n = 0
	}
	w.Until(app+" has its processes", func() error {
		if got := w.processes(app); got != n {
			return errors.New("it has others")
		}
		return nil
	})
}

// processes counts the first processes of pid namespaces in an app's cgroup:
// the live copies of the app.
func (w *World) processes(app string) int {
	w.t.Helper()
	pids, err := w.Pids()
	qt.Assert(w.t, qt.IsNil(err))
	n := 0
	for _, pid := range pids {
		if cgroupOf(pid) == app && isInit(pid) {
			n++
		}
	}
	return n
}

// gone proves that an app is not there, and that its name and endpoint are free.
func (w *World) gone(app string) {
	w.t.Helper()
	apps, err := w.API.List(w.t.Context())
	qt.Assert(w.t, qt.IsNil(err))
	for _, a := range apps {
		qt.Assert(w.t, qt.Not(qt.Equals(a.GetName(), app)))
	}
	qt.Assert(w.t, qt.Equals(w.processes(app), 0))
	w.Run(redisRequest(app, "10.77.0.8"))
	c := w.redis("10.77.0.8")
	qt.Assert(w.t, qt.Equals(c.do("PING"), "+PONG"))
}

func (w *World) snapshots() []string {
	w.t.Helper()
	all, err := w.API.ListSnapshots(w.t.Context())
	qt.Assert(w.t, qt.IsNil(err))
	names := make([]string, 0, len(all))
	for _, s := range all {
		names = append(names, s.GetName())
	}
	return names
}

// nothingPartial proves that nothing half written or half removed is left, as
// soon as the last operation has cleaned up.
func (w *World) nothingPartial() {
	w.t.Helper()
	w.Until("nothing partial is left", w.partial)
	w.Until("memory files are those that are needed", w.memoryFiles)
}

// memoryFiles proves that every memory file that a snapshot, a held app or a running
// one needs is there, and no other.
func (w *World) memoryFiles() error {
	state, found := w.Outside(w.StateDir()), make(map[string]bool)
	stored, err := os.ReadDir(filepath.Join(state, "memory"))
	if err != nil {
		return err
	}
	for _, e := range stored {
		found[e.Name()] = true
	}
	needed := make(map[string]bool)
	for _, pattern := range []string{"snapshots/*/manifest.json", "apps/*/hibernation/manifest.json", "apps/*/app.json"} {
		names, err := filepath.Glob(filepath.Join(state, pattern))
		if err != nil {
			return err
		}
		for _, name := range names {
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			var has struct {
				Memory []struct {
					SHA256 string `json:"sha256"`
				} `json:"memory"`
			}
			if err := json.Unmarshal(b, &has); err != nil {
				return err
			}
			for _, f := range has.Memory {
				if needed[f.SHA256] = true; !found[f.SHA256] {
					return fmt.Errorf("%s names %s, which is not there", name, f.SHA256)
				}
			}
		}
	}
	if len(found) != len(needed) {
		return fmt.Errorf("%d memory files for %d that are needed", len(found), len(needed))
	}
	return nil
}

func (w *World) partial() error {
	for _, dir := range []string{w.Outside(w.StateDir()), w.Outside(host.RunDir)} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return nil
			case err != nil:
				return err
			case strings.HasPrefix(d.Name(), ".partial-") || strings.HasSuffix(d.Name(), ".json.new"):
				return fmt.Errorf("left behind: %s", path)
			case d.Name() == "root" || d.Name() == "storage" || d.Name() == "dev":
				return fs.SkipDir
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// cgroupOf is the last element of a process's cgroup, or "" if it has ended.
func cgroupOf(pid int) string {
	for line := range strings.Lines(procFile(pid, "cgroup")) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return filepath.Base(path)
		}
	}
	return ""
}

// isInit tells whether a live process is the first of a pid namespace.
func isInit(pid int) bool {
	zombie, init := false, false
	for line := range strings.Lines(procFile(pid, "status")) {
		f := strings.Fields(line)
		if len(f) > 1 && f[0] == "State:" {
			zombie = f[1] == "Z" || f[1] == "X"
		}
		if len(f) > 2 && f[0] == "NSpid:" {
			init = f[len(f)-1] == "1"
		}
	}
	return init && !zombie
}

func procFile(pid int, name string) string {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), name))
	if err != nil {
		return "" // it ended meanwhile
	}
	return string(b)
}
