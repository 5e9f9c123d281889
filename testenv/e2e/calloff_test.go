package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/gate"
	"github.com/snapctl/snapctl/testenv/host"
)

// TestTrafficCallsOff has a request arrive while an app is being saved.
func TestTrafficCallsOff(t *testing.T) {
	ifQuiet := func(w *World) error {
		_, err := w.API.Hibernate(w.t.Context(), &api.HibernateRequest{Name: "cache", IfQuiet: true}, nil)
		return err
	}

	t.Run("by command", func(t *testing.T) {
		w, s, clients, g := pausedAt(t, "hibernate.frozen")
		ended := make(chan error, 1)
		go func() { ended <- ifQuiet(w) }()
		stop, err := g.Wait(t.Context())
		qt.Assert(t, qt.IsNil(err))
		clients[0].send("GET n")
		qt.Assert(t, qt.IsNil(stop.Continue()))
		qt.Assert(t, qt.ErrorMatches(<-ended, `(?s).*called off: traffic \(data\) came before it slept, and the app goes on.*`))
		open(t, g)
		qt.Assert(t, qt.Equals(clients[0].line(), "$1"))
		qt.Assert(t, qt.Equals(clients[0].line(), "2"))
		s.undone(w)
		qt.Assert(t, qt.Equals(w.Show("cache").GetCalledOff(), 1))
		qt.Assert(t, qt.StringContains(w.OK("show", "cache"), "called off"))
		qt.Assert(t, qt.IsNil(ifQuiet(w))) // and now nothing comes
		w.once("cache", api.Status_STATUS_HELD)
		qt.Assert(t, qt.Equals(clients[0].do("GET n"), "$1"))
		qt.Assert(t, qt.Equals(clients[0].line(), "2"))
		goesOn(w, clients)
	})

	// Without being told to give way, a hibernation goes on, and the app is woken.
	t.Run("or does not", func(t *testing.T) {
		w, _, clients, g := pausedAt(t, "hibernate.frozen")
		ended := make(chan error, 1)
		go func() { ended <- breakable["hibernate"](t.Context(), w, 0) }()
		stop, err := g.Wait(t.Context())
		qt.Assert(t, qt.IsNil(err))
		clients[0].send("GET n")
		qt.Assert(t, qt.IsNil(stop.Continue()))
		qt.Assert(t, qt.IsNil(<-ended))
		open(t, g)
		qt.Assert(t, qt.Equals(clients[0].line(), "$1"))
		qt.Assert(t, qt.Equals(clients[0].line(), "2"))
		qt.Assert(t, qt.Equals(w.Show("cache").GetCalledOff(), 0))
		goesOn(w, clients)
	})

	t.Run("of an idle app", func(t *testing.T) {
		w := New(t, "redis-server")
		dir, err := os.MkdirTemp("", "gate") //nolint:usetesting // a socket's path is short
		qt.Assert(t, qt.IsNil(err))
		t.Cleanup(func() { qt.Check(t, qt.IsNil(os.RemoveAll(dir))) })
		g := gate.New(t, dir, "hibernate.frozen")
		qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), syscall.SIGTERM, host.Daemon{Env: gate.Env(g.Fault())})))
		w.Dial()
		req := redisRequest("cache", "10.77.0.7")
		req.HibernateAfter = durationpb.New(300 * time.Millisecond)
		w.Run(req)
		c := w.redis("10.77.0.7")
		qt.Assert(t, qt.Equals(c.do("SET a 1"), "+OK"))
		stop, err := g.Wait(t.Context())
		qt.Assert(t, qt.IsNil(err))
		c.send("GET a")
		qt.Assert(t, qt.IsNil(stop.Continue()))
		open(t, g)
		qt.Assert(t, qt.Equals(c.line(), "$1"))
		qt.Assert(t, qt.Equals(c.line(), "1"))
		w.Until("it was called off", func() error {
			if n := w.Show("cache").GetCalledOff(); n != 1 {
				return fmt.Errorf("%d times", n)
			}
			return nil
		})
		w.Until("it sleeps when it is quiet", func() error {
			if s := w.Show("cache").GetStatus(); s != api.Status_STATUS_HELD {
				return fmt.Errorf("it is %s", s)
			}
			return nil
		})
		qt.Assert(t, qt.Equals(c.do("GET a"), "$1"))
		qt.Assert(t, qt.Equals(c.line(), "1"))
	})
}

// TestDumpGivesUp has the client of a hibernation hang up while much memory is copied, or while CRIU writes
// it: the app goes on with all that it had.
func TestDumpGivesUp(t *testing.T) {
	w := New(t, "redis-server")
	w.Run(redisRequest("cache", "10.77.0.7"))
	c := w.redis("10.77.0.7")
	const size = 256 << 20
	qt.Assert(t, qt.Equals(c.do(fmt.Sprintf("SETRANGE pad %d x", size-1)), fmt.Sprintf(":%d", size)))
	givesUp := func(files string) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := w.API.Hibernate(ctx, &api.HibernateRequest{Name: "cache"}, nil)
			ended <- err
		}()
		w.writesMemory(filepath.Join("apps", "cache", files), 1<<20)
		cancel()
		qt.Assert(t, qt.ErrorIs(<-ended, context.Canceled))
		w.settled()
		w.Running("cache")
		qt.Assert(t, qt.Equals(c.do(fmt.Sprintf("GETRANGE pad %d -1", size-1)), "$1"))
		qt.Assert(t, qt.Equals(c.line(), "x"))
		for _, left := range []string{"hibernation", ".partial-*"} {
			found, err := filepath.Glob(w.Outside(filepath.Join(w.StateDir(), "apps", "cache", left)))
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.HasLen(found, 0))
		}
	}
	for range 3 {
		givesUp(".partial-memory-*/memory-*")
	}
	qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), syscall.SIGTERM, host.Daemon{Args: []string{"--copy-ahead", "0"}})))
	w.Dial()
	for range 3 {
		givesUp(".partial-*/images/pages-*.img")
	}
	w.Hibernate("cache")
	qt.Assert(t, qt.Equals(c.do("STRLEN pad"), fmt.Sprintf(":%d", size)))
}

// writesMemory waits until one of some files below the state directory has so many bytes.
func (w *World) writesMemory(pattern string, bytes int64) {
	w.t.Helper()
	for {
		files, err := filepath.Glob(w.Outside(filepath.Join(w.StateDir(), pattern)))
		qt.Assert(w.t, qt.IsNil(err))
		for _, f := range files {
			info, err := os.Stat(f)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			qt.Assert(w.t, qt.IsNil(err))
			if info.Size() >= bytes {
				return
			}
		}
		qt.Assert(w.t, qt.IsNil(w.t.Context().Err()))
	}
}
