package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/gate"
	"github.com/snapctl/snapctl/testenv/host"
)

// TestDiskFull has no room for a snapshot or hibernation, then no room for
// anything, and proves that the app goes on and can be removed.
func TestDiskFull(t *testing.T) {
	w := newWorld(t, host.Config{}, func(h *host.Host) {
		qt.Assert(t, qt.IsNil(os.MkdirAll(h.StateDir(), 0o700)))
		run(t, h, "mount", "-t", "tmpfs", "-o", "size=16m", "none", h.StateDir())
	}, "redis-server", "mount")
	w.Run(redisRequest("cache", "10.77.0.7"))
	client := w.redis("10.77.0.7")
	qt.Assert(t, qt.Equals(client.do("SETRANGE big 30000000 x"), ":30000001"))
	count := 0
	goesOn := func() {
		t.Helper()
		count++
		qt.Assert(t, qt.Equals(client.do("INCR n"), fmt.Sprint(":", count)))
		w.once("cache", api.Status_STATUS_RUNNING)
		w.nothingPartial()
		qt.Assert(t, qt.HasLen(w.snapshots(), 0))
	}
	snapshot := func() error {
		_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "cache", Name: "s1"}, nil)
		return err
	}
	hibernate := func() error {
		_, err := w.API.Hibernate(t.Context(), &api.HibernateRequest{Name: "cache"}, nil)
		return err
	}
	qt.Assert(t, qt.ErrorMatches(snapshot(), "(?s).*No space left on device.*"))
	goesOn()
	qt.Assert(t, qt.ErrorMatches(hibernate(), "(?s).*No space left on device.*"))
	goesOn()

	ballast := filepath.Join(w.Outside(w.StateDir()), "ballast")
	fill(t, ballast)
	qt.Assert(t, qt.ErrorMatches(snapshot(), "(?s).*[Nn]o space left on device.*"))
	goesOn()
	qt.Assert(t, qt.ErrorMatches(hibernate(), "(?s).*[Nn]o space left on device.*"))
	goesOn()

	// With room it works again, and an app that is held wakes without room.
	qt.Assert(t, qt.IsNil(os.Remove(ballast)))
	run(t, w.Host, "mount", "-o", "remount,size=96m", w.StateDir())
	qt.Assert(t, qt.IsNil(hibernate()))
	fill(t, ballast)
	count++
	qt.Assert(t, qt.Equals(client.do("INCR n"), fmt.Sprint(":", count)))
	w.Running("cache")
	qt.Assert(t, qt.IsNil(os.Remove(ballast)))
	goesOn()

	fill(t, ballast)
	qt.Assert(t, qt.IsNil(w.API.Remove(t.Context(), &api.RemoveRequest{Name: "cache", Force: true})))
	qt.Assert(t, qt.Equals(w.processes("cache"), 0))
	qt.Assert(t, qt.IsNil(os.Remove(ballast)))
}

// fill writes until there is no room, to the last block.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	qt.Assert(t, qt.IsNil(err))
	defer f.Close()
	for _, size := range []int{1 << 20, 4096} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		qt.Assert(t, qt.ErrorIs(err, syscall.ENOSPC))
	}
}

func run(t *testing.T, h *host.Host, name string, args ...string) {
	t.Helper()
	r, err := host.Run(h.Command(t.Context(), name, args...))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(r.Code, 0), qt.Commentf("%s", r.Stderr))
}

// ailingCRIU is a CRIU that does nothing but fail while it is ill.
func ailingCRIU(t *testing.T) (path string, fall, heal func()) {
	t.Helper()
	dir := t.TempDir()
	ill := filepath.Join(dir, "ill")
	path = filepath.Join(dir, "criu")
	script := fmt.Sprintf(`#!/bin/sh
[ -e %s ] && exit 3
exec %s "$@"
`, ill, testenv.CRIUPath())
	qt.Assert(t, qt.IsNil(os.WriteFile(path, []byte(script), 0o755)))
	return path,
		func() { qt.Assert(t, qt.IsNil(os.WriteFile(ill, nil, 0o600))) },
		func() { qt.Assert(t, qt.IsNil(os.Remove(ill))) }
}

// TestCRIUFails has a CRIU that does not even start to work.
func TestCRIUFails(t *testing.T) {
	testenv.Need(t, testenv.CRIU)
	path, fall, heal := ailingCRIU(t)
	w := newWorld(t, host.Config{CRIU: path}, nil, "redis-server")
	w.Run(redisRequest("cache", "10.77.0.7"))
	client := w.redis("10.77.0.7")
	fall()
	_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "cache", Name: "s1"}, nil)
	qt.Assert(t, qt.ErrorMatches(err, "(?s).*CRIU could not save the processes.*exit status 3.*"))
	_, err = w.API.Hibernate(t.Context(), &api.HibernateRequest{Name: "cache"}, nil)
	qt.Assert(t, qt.ErrorMatches(err, "(?s).*CRIU could not save the processes.*exit status 3.*"))
	w.once("cache", api.Status_STATUS_RUNNING)
	qt.Assert(t, qt.Equals(client.do("INCR n"), ":1"))
	heal()
	w.Hibernate("cache")
	fall()
	_, err = w.API.Wake(t.Context(), &api.WakeRequest{Name: "cache"}, nil)
	qt.Assert(t, qt.ErrorMatches(err, "(?s)restore cache: .*"))
	w.once("cache", api.Status_STATUS_HELD)
	w.nothingPartial()
	heal()
	qt.Assert(t, qt.Equals(client.do("INCR n"), ":2"))
	w.Running("cache")
}

// TestCRIUIsKilledWhileItWakes kills CRIU at many moments of a restore: the
// app is woken whole or held on, and answers when CRIU is well again.
func TestCRIUIsKilledWhileItWakes(t *testing.T) {
	w := New(t, "redis-server")
	w.Run(redisRequest("cache", "10.77.0.7"))
	client := w.redis("10.77.0.7")
	random, failed := seeded(t), 0
	for i := range max(3, rounds(t, 60)/10) {
		w.Hibernate("cache")
		ended := make(chan error, 1)
		go func() {
			_, err := w.API.Wake(t.Context(), &api.WakeRequest{Name: "cache"}, nil)
			ended <- err
		}()
		w.pause(random, 60*time.Millisecond)
		w.killCRIU()
		if <-ended != nil {
			failed++
			w.once("cache", api.Status_STATUS_HELD)
		}
		w.nothingPartial()
		qt.Assert(t, qt.Equals(client.do("INCR n"), fmt.Sprintf(":%d", i+1)))
		w.Running("cache")
	}
	t.Logf("%d wakes failed", failed)
}

// TestCRIUIsKilledWhileItSaves kills CRIU when it has saved the processes and
// waits to be told to go on: also when it is tried once more, without shortcuts.
func TestCRIUIsKilledWhileItSaves(t *testing.T) {
	for _, point := range []fault.Name{"hibernate.dumped", "hibernate.saved", "snapshot.dumped"} {
		t.Run(string(point), func(t *testing.T) {
			w := New(t, "redis-server")
			g := gate.New(t, w.Dir(), point)
			w.Run(redisRequest("cache", "10.77.0.7"))
			client := w.redis("10.77.0.7")
			qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), syscall.SIGTERM, host.Daemon{Env: gate.Env(g.Fault())})))
			w.Dial()
			ended := make(chan error, 1)
			go func() { ended <- stages[operationOf(point)].do(w) }()
			for range 2 {
				stop, err := g.Wait(t.Context())
				qt.Assert(t, qt.IsNil(err))
				qt.Assert(t, qt.IsTrue(w.killCRIU() > 0))
				qt.Assert(t, qt.IsNil(stop.Continue()))
			}
			qt.Assert(t, qt.ErrorMatches(<-ended, "(?s).*CRIU could not save the processes.*"))
			qt.Assert(t, qt.Equals(client.do("INCR n"), ":1"))
			w.once("cache", api.Status_STATUS_RUNNING)
			w.nothingPartial()
			qt.Assert(t, qt.HasLen(w.snapshots(), 0))
		})
	}
}

// killCRIU kills every CRIU of the host and returns how many there were.
func (w *World) killCRIU() int {
	w.t.Helper()
	pids, err := w.Pids()
	qt.Assert(w.t, qt.IsNil(err))
	n := 0
	for _, pid := range pids {
		// It shows what it does as its command line.
		if args := procFile(pid, "cmdline"); strings.Contains(args, "\x00swrk\x00") || strings.Contains(args, " --rpc") {
			n++
			qt.Assert(w.t, qt.IsNil(syscall.Kill(pid, syscall.SIGKILL)))
		}
	}
	return n
}
