package netns_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/netns"
)

func newNS(t *testing.T) *netns.NS {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	ns, err := netns.New()
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { ns.Close() })
	return ns
}

func current(t *testing.T) uint64 {
	t.Helper()
	ns, err := netns.Current()
	qt.Assert(t, qt.IsNil(err))
	defer ns.Close()
	return ns.Inode()
}

func TestNewHasOnlyLoopback(t *testing.T) {
	home := current(t)
	ns := newNS(t)
	qt.Check(t, qt.Not(qt.Equals(ns.Inode(), home)))
	qt.Check(t, qt.Equals(current(t), home))
	var names []string
	qt.Assert(t, qt.IsNil(ns.Do(func() error {
		list, err := net.Interfaces()
		for _, i := range list {
			names = append(names, i.Name+" "+i.Flags.String())
		}
		return err
	})))
	qt.Check(t, qt.DeepEquals(names, []string{"lo up|loopback|running"}))
}

func TestDo(t *testing.T) {
	home := current(t)
	a, b := newNS(t), newNS(t)
	qt.Assert(t, qt.IsNil(a.Do(func() error {
		qt.Check(t, qt.Equals(current(t), a.Inode()))
		err := b.Do(func() error {
			qt.Check(t, qt.Equals(current(t), b.Inode()))
			return nil
		})
		qt.Check(t, qt.Equals(current(t), a.Inode()))
		return err
	})))
	qt.Check(t, qt.Equals(current(t), home))
	sentinel := errors.New("sentinel")
	qt.Check(t, qt.Equals(a.Do(func() error { return sentinel }), sentinel))
	qt.Assert(t, qt.IsNil(a.Close()))
	qt.Assert(t, qt.IsNil(a.Close()))
	qt.Check(t, qt.IsNil(a.File()))
	qt.Check(t, qt.ErrorIs(a.Do(func() error { t.Error("entered a closed namespace"); return nil }), fs.ErrClosed))
}

// Many at once, from every thread that the scheduler likes: nobody is left in a
// wrong namespace, the main thread least of all.
func TestDoEverywhere(t *testing.T) {
	home := current(t)
	spaces := []*netns.NS{newNS(t), newNS(t), newNS(t)}
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			ns := spaces[i%len(spaces)]
			err := ns.Do(func() error {
				runtime.Gosched()
				here, err := netns.Current()
				if err != nil {
					return err
				}
				defer here.Close()
				if here.Inode() != ns.Inode() || unix.Gettid() == unix.Getpid() {
					return fmt.Errorf("thread %d is in net:[%d], not net:[%d]", unix.Gettid(), here.Inode(), ns.Inode())
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	tasks, err := os.ReadDir("/proc/self/task")
	qt.Assert(t, qt.IsNil(err))
	for _, task := range tasks {
		link, err := os.Readlink("/proc/self/task/" + task.Name() + "/ns/net")
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(link, fmt.Sprintf("net:[%d]", home)), qt.Commentf("thread %s", task.Name()))
	}
}

func TestDoPanicsInCaller(t *testing.T) {
	home := current(t)
	ns := newNS(t)
	func() {
		defer func() {
			qt.Check(t, qt.IsTrue(strings.HasPrefix(fmt.Sprint(recover()), "boom\n")))
		}()
		ns.Do(func() error { panic("boom") })
	}()
	qt.Check(t, qt.Equals(current(t), home))

	returned, exited := false, make(chan struct{})
	go func() {
		defer close(exited)
		ns.Do(func() error { runtime.Goexit(); return nil })
		returned = true
	}()
	<-exited
	qt.Check(t, qt.IsFalse(returned))
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	empty, fifo := filepath.Join(dir, "empty"), filepath.Join(dir, "fifo")
	qt.Assert(t, qt.IsNil(os.WriteFile(empty, nil, 0o600)))
	qt.Assert(t, qt.IsNil(unix.Mkfifo(fifo, 0o600)))
	for name, test := range map[string]struct {
		path string
		want error
	}{
		"missing":         {filepath.Join(dir, "missing"), fs.ErrNotExist},
		"file":            {empty, netns.ErrNotNetNS},
		"fifo":            {fifo, netns.ErrNotNetNS},
		"folder":          {dir, netns.ErrNotNetNS},
		"other namespace": {"/proc/self/ns/mnt", netns.ErrNotNetNS},
		"namespace":       {fmt.Sprintf("/proc/%d/ns/net", os.Getpid()), nil},
	} {
		t.Run(name, func(t *testing.T) {
			ns, err := netns.Open(test.path)
			qt.Check(t, qt.ErrorIs(err, test.want))
			if err == nil {
				qt.Check(t, qt.Equals(ns.Inode(), current(t)))
				qt.Check(t, qt.IsNil(ns.Close()))
			}
		})
	}
}

func TestBind(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ns")
	ns, other := newNS(t), newNS(t)
	qt.Assert(t, qt.IsNil(netns.Unbind(path)), qt.Commentf("nothing there"))
	qt.Assert(t, qt.IsNil(ns.Bind(path)))
	defer netns.Unbind(path)
	qt.Check(t, qt.IsNil(ns.Bind(path)), qt.Commentf("a second time"))
	qt.Check(t, qt.ErrorIs(other.Bind(path), netns.ErrBound))

	inode := ns.Inode()
	qt.Assert(t, qt.IsNil(ns.Close()))
	kept, err := netns.Open(path)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(kept.Inode(), inode))
	qt.Check(t, qt.IsNil(kept.Close()))

	qt.Assert(t, qt.IsNil(netns.Unbind(path)))
	_, err = os.Lstat(path)
	qt.Check(t, qt.ErrorIs(err, fs.ErrNotExist))
	qt.Check(t, qt.IsNil(netns.Unbind(path)))
}

// What a kill between the two steps of Bind or Unbind leaves.
func TestBindHalfMade(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "ns")
	ns := newNS(t)
	qt.Assert(t, qt.IsNil(os.WriteFile(path, nil, 0o600)))
	qt.Assert(t, qt.IsNil(ns.Bind(path)))
	qt.Assert(t, qt.IsNil(unix.Unmount(path, unix.MNT_DETACH)))
	qt.Assert(t, qt.IsNil(netns.Unbind(path)))

	precious := filepath.Join(dir, "precious")
	qt.Assert(t, qt.IsNil(os.WriteFile(precious, []byte("data"), 0o600)))
	link := filepath.Join(dir, "link")
	qt.Assert(t, qt.IsNil(os.Symlink(precious, link)))
	for _, p := range []string{precious, link} {
		qt.Check(t, qt.IsNotNil(ns.Bind(p)), qt.Commentf(p))
		qt.Check(t, qt.IsNotNil(netns.Unbind(p)), qt.Commentf(p))
	}
	raw, err := os.ReadFile(precious)
	qt.Check(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(string(raw), "data"))
}

func BenchmarkDo(b *testing.B) {
	ns, err := netns.Current()
	qt.Assert(b, qt.IsNil(err))
	defer ns.Close()
	if os.Geteuid() != 0 {
		b.Skip("needs root: enters network namespaces")
	}
	for b.Loop() {
		qt.Assert(b, qt.IsNil(ns.Do(func() error { return nil })))
	}
}
