package holder_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/holder"
)

// keep runs a keeper, and its holders, until the test ends.
func keep(t *testing.T, change func(*holder.KeeperOptions)) *holder.Keeper {
	t.Helper()
	dir := t.TempDir()
	exe, err := os.Executable()
	qt.Assert(t, qt.IsNil(err))
	opt := holder.KeeperOptions{
		Exe: exe, Socket: filepath.Join(dir, "holder.sock"), LogPath: filepath.Join(dir, "log"), Log: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&opt)
	}
	k, err := holder.Keep(t.Context(), opt)
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { end(t, k) })
	return k
}

// end ends a keeper and its holder, unless another keeper has ended that.
func end(t *testing.T, k *holder.Keeper) {
	t.Helper()
	pid := k.PID()
	qt.Check(t, qt.IsNil(k.Close()))
	if pid == 0 || syscall.Kill(pid, syscall.SIGKILL) != nil {
		return
	}
	_, err := syscall.Wait4(pid, nil, 0, nil)
	qt.Check(t, qt.IsNil(err))
}

func kill(t *testing.T, pid int) {
	t.Helper()
	qt.Assert(t, qt.IsNil(syscall.Kill(pid, syscall.SIGKILL)))
}

func TestKeeper(t *testing.T) {
	testStore(t, func(t *testing.T) holder.Store {
		t.Helper()
		return keep(t, nil)
	})
}

// source is what a caller has of its own, to fill a new holder with.
type source struct {
	mu       sync.Mutex
	apps     map[string][]holder.Item
	refilled chan struct{}
}

func newSource() *source {
	return &source{apps: map[string][]holder.Item{}, refilled: make(chan struct{}, 100)}
}

func (s *source) has(app string, items []holder.Item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apps[app] = items
}

func (s *source) refill(ctx context.Context, to holder.Store) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for app, items := range s.apps {
		if err := to.Put(ctx, app, items); err != nil {
			return err
		}
	}
	s.refilled <- struct{}{}
	return nil
}

// TestKeeperRefills kills the holder again and again: each time another one has
// all that the last one had.
func TestKeeperRefills(t *testing.T) {
	s := newSource()
	k := keep(t, func(o *holder.KeeperOptions) { o.Refill = s.refill })
	a, inodesA := pipes(t, "a", 300)
	b, inodesB := pipes(t, "b", 2)
	s.has("a", a)
	s.has("b", b)
	qt.Assert(t, qt.IsNil(k.Put(t.Context(), "a", a)))
	qt.Assert(t, qt.IsNil(k.Put(t.Context(), "b", b)))
	for range 3 {
		old := k.PID()
		kill(t, old)
		<-s.refilled
		qt.Assert(t, qt.Not(qt.Equals(k.PID(), old)))
		check(t, k, "a", a, inodesA)
		check(t, k, "b", b, inodesB)
		// It was a child: it has been reaped.
		qt.Assert(t, qt.ErrorIs(syscall.Kill(old, 0), unix.ESRCH))
	}
}

// TestKeeperRequestsOutliveTheHolder kills it under requests that go on all the
// time: none fails, and what was put last is there.
func TestKeeperRequestsOutliveTheHolder(t *testing.T) {
	s := newSource()
	k := keep(t, func(o *holder.KeeperOptions) { o.Refill = s.refill })
	items, inodes := pipes(t, "a", 700)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 3 {
		app := "app" + strconv.Itoa(i)
		wg.Go(func() {
			for {
				qt.Check(t, qt.IsNil(k.Put(t.Context(), app, items)))
				_, err := k.List(t.Context())
				qt.Check(t, qt.IsNil(err))
				qt.Check(t, qt.IsNil(k.Drop(t.Context(), app)))
				select {
				case <-stop:
					qt.Check(t, qt.IsNil(k.Put(t.Context(), app, items)))
					return
				default:
				}
			}
		})
	}
	for range 5 {
		kill(t, k.PID())
		<-s.refilled
	}
	close(stop)
	wg.Wait()
	for i := range 3 {
		check(t, k, "app"+strconv.Itoa(i), items, inodes)
	}
}

// TestKeeperRefillAgain has a refill fail: the same holder is filled later.
func TestKeeperRefillAgain(t *testing.T) {
	s := newSource()
	fails := 2
	k := keep(t, func(o *holder.KeeperOptions) {
		o.Refill = func(ctx context.Context, to holder.Store) error {
			if fails--; fails >= 0 {
				return errors.New("not now")
			}
			return s.refill(ctx, to)
		}
	})
	items, inodes := pipes(t, "a", 3)
	s.has("a", items)
	kill(t, k.PID())
	<-s.refilled
	check(t, k, "a", items, inodes)
}

// TestKeeperDown takes away the program: requests say so at once, and go on when
// it is there again.
func TestKeeperDown(t *testing.T) {
	s := newSource()
	moved := filepath.Join(t.TempDir(), "holder")
	var exe string
	k := keep(t, func(o *holder.KeeperOptions) {
		exe = o.Exe
		qt.Assert(t, qt.IsNil(os.Symlink(exe, moved)))
		o.Exe, o.Refill = moved, s.refill
	})
	items, inodes := pipes(t, "a", 3)
	s.has("a", items)
	qt.Assert(t, qt.IsNil(os.Remove(moved)))
	kill(t, k.PID())
	// It waits for the first attempt, and then knows.
	err := k.Put(t.Context(), "a", items)
	qt.Assert(t, qt.ErrorIs(err, holder.ErrDown))
	qt.Assert(t, qt.ErrorMatches(err, `there is no holder: start holder: .*/holder: no such file or directory`))
	_, err = k.Get(t.Context(), "a")
	qt.Assert(t, qt.ErrorIs(err, holder.ErrDown))
	_, err = k.List(t.Context())
	qt.Assert(t, qt.ErrorIs(err, holder.ErrDown))
	qt.Assert(t, qt.IsNil(k.Drop(t.Context(), "a"))) // nothing keeps anything
	qt.Assert(t, qt.ErrorIs(k.Ready(t.Context()), holder.ErrDown))
	qt.Assert(t, qt.Equals(k.PID(), 0))

	qt.Assert(t, qt.IsNil(os.Symlink(exe, moved)))
	<-s.refilled
	qt.Assert(t, qt.IsNil(k.Ready(t.Context())))
	check(t, k, "a", items, inodes)
}

// TestKeeperFindsTheHolder has another keeper take over, as after a restart of
// the daemon, and replace the holder when it ends.
func TestKeeperFindsTheHolder(t *testing.T) {
	s := newSource()
	var opt holder.KeeperOptions
	first := keep(t, func(o *holder.KeeperOptions) { opt = *o })
	pid := first.PID()
	items, inodes := pipes(t, "a", 3)
	qt.Assert(t, qt.IsNil(first.Put(t.Context(), "a", items)))
	qt.Assert(t, qt.IsNil(first.Close()))

	opt.Refill = s.refill
	second, err := holder.Keep(t.Context(), opt)
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { end(t, second) })
	qt.Assert(t, qt.Equals(second.PID(), pid))
	check(t, second, "a", items, inodes)

	s.has("a", items)
	kill(t, pid)
	<-s.refilled
	check(t, second, "a", items, inodes)
	kill(t, second.PID())
	<-s.refilled
	check(t, second, "a", items, inodes)
}

// TestKeeperCancelled ends a request that waits for a holder.
func TestKeeperCancelled(t *testing.T) {
	k := keep(t, nil)
	pid := k.PID()
	// Stopped it neither answers nor ends.
	qt.Assert(t, qt.IsNil(syscall.Kill(pid, syscall.SIGSTOP)))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	items, _ := pipes(t, "a", 1)
	go func() { done <- k.Put(ctx, "a", items) }()
	cancel()
	qt.Assert(t, qt.ErrorIs(<-done, context.Canceled))
	qt.Assert(t, qt.IsNil(syscall.Kill(pid, syscall.SIGCONT)))
	qt.Assert(t, qt.IsNil(k.Put(t.Context(), "a", items)))
}
