// Package e2e tests snapctl as its users meet it: a real daemon on a scratch
// host, real CRIU, real programs, real clients that stay connected.
//
// The tests are in the files named for what they prove; this one has what they
// share.
package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/testenv/leak"
)

// World is a scratch host with a running daemon and a client of it.
type World struct {
	*host.Host
	API *client.Client
	t   *testing.T
}

// New makes a world for a test. After the test everything is removed, and a
// leak of anything fails it.
func New(t *testing.T, programs ...string) *World {
	t.Helper()
	return newWorld(t, host.Config{}, nil, programs...)
}

// newWorld makes a world on a host that prepare, which may be nil, has changed.
func newWorld(t *testing.T, cfg host.Config, prepare func(*host.Host), programs ...string) *World {
	t.Helper()
	w := startWorld(t, cfg, prepare, programs...)
	// An idle daemon is the state to come back to.
	leak.Check(t, w.Host)
	t.Cleanup(w.RemoveAll)
	return w
}

// startWorld is newWorld without an end: the caller removes what is there, and looks for leaks.
func startWorld(t *testing.T, cfg host.Config, prepare func(*host.Host), programs ...string) *World {
	t.Helper()
	need := []testenv.Requirement{testenv.Root, testenv.CRIU}
	for _, p := range programs {
		need = append(need, testenv.Program(p))
	}
	testenv.Need(t, need...)
	watch(t)
	// One connection is enough, so that all tests prove that to hide them makes no difference.
	cfg.Args = append(cfg.Args, "--hide-connections", "1", "--copy-ahead", "1")
	h := host.New(t, cfg)
	if prepare != nil {
		prepare(h)
	}
	w := &World{Host: h, t: t}
	qt.Assert(t, qt.IsNil(h.StartDaemon(t.Context(), host.Daemon{})))
	w.Dial()
	return w
}

// Rounds is the environment variable that says how often a test that draws by
// chance repeats its operations: the short form of `make test` without it, the
// long one of `make soak` with it.
const Rounds = "SNAPCTL_TEST_ROUNDS"

// patience is longer than any test needs in its short form, see [Rounds].
const patience = 10 * time.Minute

// watch ends the test process if the test hangs, and names it at the end, below
// the goroutines, where a log that was cut at its beginning still has it.
func watch(t *testing.T) {
	t.Helper()
	if os.Getenv(Rounds) != "" {
		return
	}
	dog := time.AfterFunc(patience, func() {
		all := make([]byte, 4<<20)
		all = all[:runtime.Stack(all, true)]
		fmt.Fprintf(os.Stderr, "%s\n", all)
		panic(fmt.Sprintf("%s has not ended after %v", t.Name(), patience))
	})
	t.Cleanup(func() { dog.Stop() })
}

// Dial connects to the daemon, which may be a new one.
func (w *World) Dial() {
	w.t.Helper()
	w.dial(w.t.Context())
}

func (w *World) dial(ctx context.Context) {
	w.t.Helper()
	if w.API != nil {
		qt.Check(w.t, qt.IsNil(w.API.Close())) // it would connect to every later daemon too
	}
	c, err := client.Dial(ctx, w.Socket())
	qt.Assert(w.t, qt.IsNil(err))
	_, err = c.Version(ctx) // it connects with the first request
	qt.Assert(w.t, qt.IsNil(err))
	w.API = c
}

// RemoveAll removes every app, template and snapshot. It starts a daemon if none runs.
func (w *World) RemoveAll() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.t.Context()), time.Minute)
	defer cancel()
	if _, err := w.DaemonPID(); err != nil {
		qt.Check(w.t, qt.IsNil(w.StartDaemon(ctx, host.Daemon{})))
		w.dial(ctx) // the test's context has ended
	}
	apps, err := w.API.List(ctx)
	qt.Check(w.t, qt.IsNil(err))
	for _, a := range apps {
		qt.Check(w.t, qt.IsNil(w.API.Remove(ctx, &api.RemoveRequest{Name: a.GetName(), Force: true})))
	}
	templates, err := w.API.ListTemplates(ctx)
	qt.Check(w.t, qt.IsNil(err))
	for _, t := range templates {
		qt.Check(w.t, qt.IsNil(w.API.RemoveTemplate(ctx, t.GetName())))
	}
	snapshots, err := w.API.ListSnapshots(ctx)
	qt.Check(w.t, qt.IsNil(err))
	for _, s := range snapshots {
		qt.Check(w.t, qt.IsNil(w.API.RemoveSnapshot(ctx, s.GetName())))
	}
	w.emptied(ctx, append(w.memoryDirs(), w.keptFilesDir())...)
}

// Directories of what apps and snapshots share, each file of which is removed when
// nobody needs it any more.
func (w *World) memoryDirs() []string {
	return []string{filepath.Join(w.StateDir(), "memory"), host.RunDir + "/stubs/trees"}
}

func (w *World) keptFilesDir() string { return filepath.Join(w.StateDir(), "files") }

// noMemory waits until the daemon has removed all memory files and stubs. The app may be
// held all the same, and need its kept files, if its memory is in its images.
func (w *World) noMemory() {
	w.t.Helper()
	w.emptied(w.t.Context(), w.memoryDirs()...)
}

// emptied waits until the daemon has swept directories.
func (w *World) emptied(ctx context.Context, dirs ...string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for _, dir := range dirs {
		for {
			left, err := os.ReadDir(w.Outside(dir))
			qt.Assert(w.t, qt.IsNil(err))
			if len(left) == 0 {
				break
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				w.t.Fatalf("what nobody needs is left in %s: %v", dir, left)
			}
		}
	}
}

// Run runs an app and returns it.
func (w *World) Run(req *api.RunRequest) *api.App {
	w.t.Helper()
	a, err := w.API.Run(w.t.Context(), req)
	qt.Assert(w.t, qt.IsNil(err))
	qt.Assert(w.t, qt.Equals(a.GetStatus(), api.Status_STATUS_RUNNING))
	return a
}

// Hibernate hibernates an app and proves that no process of it is left.
func (w *World) Hibernate(app string) *api.Result {
	w.t.Helper()
	r, err := w.API.Hibernate(w.t.Context(), &api.HibernateRequest{Name: app}, nil)
	qt.Assert(w.t, qt.IsNil(err))
	return r
}

// Wake wakes an app by command.
func (w *World) Wake(app string) *api.Result {
	w.t.Helper()
	r, err := w.API.Wake(w.t.Context(), &api.WakeRequest{Name: app}, nil)
	qt.Assert(w.t, qt.IsNil(err))
	qt.Assert(w.t, qt.Equals(r.GetApp().GetStatus(), api.Status_STATUS_RUNNING))
	return r
}

// Show returns the app as the daemon sees it.
func (w *World) Show(app string) *api.App {
	w.t.Helper()
	a, err := w.API.Show(w.t.Context(), app)
	qt.Assert(w.t, qt.IsNil(err))
	return a
}

// Running waits until the app runs: it answers before its wake is recorded.
func (w *World) Running(app string) {
	w.t.Helper()
	w.Until(app+" runs", func() error {
		if s := w.Show(app).GetStatus(); s != api.Status_STATUS_RUNNING {
			return fmt.Errorf("it is %s", s)
		}
		return nil
	})
}

// Connect connects from the host, as soon as the app listens.
func (w *World) Connect(endpoint string, port int) net.Conn {
	w.t.Helper()
	addr := net.JoinHostPort(endpoint, fmt.Sprint(port))
	var conn net.Conn
	w.Until("connect to "+addr, func() (err error) {
		conn, err = w.DialContext(w.t.Context(), "tcp", addr)
		return err
	})
	w.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// Until repeats fn until it succeeds, for what announces itself by nothing else.
func (w *World) Until(what string, fn func() error) {
	w.t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := fn()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			w.t.Fatalf("%s: %v", what, err)
		case <-w.t.Context().Done():
			w.t.Fatalf("%s: %v", what, err)
		}
	}
}
