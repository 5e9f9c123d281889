package etcd_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/cluster"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/etcd"
	"github.com/snapctl/snapctl/vem/directory/member"
)

// open opens a store of an installation, as one of its hosts does.
func open(t *testing.T, in *cluster.Installation, change func(o *etcd.Options)) *etcd.Store {
	t.Helper()
	opt := etcd.Options{Endpoints: in.Endpoints(), TLS: in.TLS(t), Prefix: "/test/" + t.Name(), Log: in.Log}
	if change != nil {
		change(&opt)
	}
	s, err := etcd.Open(cluster.Ctx(t), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { qt.Check(t, qt.IsNil(s.Close())) })
	return s
}

func put(key, value string) directory.Txn {
	return directory.Txn{Puts: []directory.Put{{Key: key, Value: []byte(value)}}}
}

// listen accepts connections and never answers.
func TestInstallationsDoNotSeeEachOther(t *testing.T) {
	in := cluster.New(t, 1, nil)
	a := open(t, in, func(o *etcd.Options) { o.Prefix = "a" })
	b := open(t, in, func(o *etcd.Options) { o.Prefix = "ab" })
	ctx := cluster.Ctx(t)
	_, err := b.Commit(ctx, put("/x", "1"))
	qt.Assert(t, qt.IsNil(err))
	_, err = a.Get(ctx, "b/x")
	qt.Check(t, qt.ErrorIs(err, directory.ErrNotFound))
	entries, _, err := a.List(ctx, "")
	qt.Check(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(entries, 0))
}

// A list that takes several requests is of one revision.
func TestLongListIsOfOneRevision(t *testing.T) {
	in := cluster.New(t, 1, nil)
	s := open(t, in, nil)
	ctx := cluster.Ctx(t)
	const n = 2500
	for from := 0; from < n; from += directory.MaxTxn {
		var txn directory.Txn
		for i := from; i < min(n, from+directory.MaxTxn); i++ {
			txn.Puts = append(txn.Puts, directory.Put{Key: "n/" + strconv.Itoa(i)})
		}
		_, err := s.Commit(ctx, txn)
		qt.Assert(t, qt.IsNil(err))
	}
	// Each change keeps the number of entries.
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			_, err := s.Commit(ctx, directory.Txn{
				Puts:    []directory.Put{{Key: "n/" + strconv.Itoa(n+i)}},
				Deletes: []string{"n/" + strconv.Itoa(i)},
			})
			if !qt.Check(t, qt.IsNil(err)) {
				return
			}
		}
	})
	for range 10 {
		entries, revision, err := s.List(ctx, "n/")
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.HasLen(entries, n))
		qt.Check(t, qt.IsTrue(slices.IsSortedFunc(entries, func(a, b directory.Entry) int {
			if a.Revision > revision || b.Revision > revision {
				t.Errorf("an entry is newer than the list")
			}
			switch {
			case a.Key < b.Key:
				return -1
			case a.Key > b.Key:
				return 1
			}
			return 0
		})))
	}
	close(stop)
	wg.Wait()
}

// A member that stands still for longer than a lease drops it when it goes on. The entry comes
// back, calls end by their deadlines, and no watch misses a change.
func TestMemberStandsStill(t *testing.T) {
	in := cluster.New(t, 1, nil)
	h := in.Hosts[0]
	s := open(t, in, func(o *etcd.Options) { o.Timeout = time.Second })
	ctx := cluster.Ctx(t)

	entries, revision, err := s.List(ctx, "")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(entries, 0))
	watched, seen := follow(ctx, s, revision)

	alive, end := context.WithCancel(ctx)
	defer end()
	kept := make(chan error, 1)
	go func() { kept <- s.KeepAlive(alive, "alive", []byte("here"), time.Second) }()
	first := <-seen
	qt.Assert(t, qt.Equals(first.Key, "alive"))

	pid := h.Signal(t, unix.SIGSTOP)
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, err = s.Get(short, "alive")
	qt.Check(t, qt.ErrorIs(err, directory.ErrUnavailable))
	qt.Check(t, qt.ErrorIs(err, context.DeadlineExceeded))
	_, err = s.Commit(t.Context(), put("late", "1")) // its own deadline; may happen yet
	qt.Check(t, qt.ErrorIs(err, directory.ErrUnavailable))
	_, err = s.Commit(t.Context(), put("late", "2"))
	qt.Check(t, qt.ErrorIs(err, directory.ErrUnavailable))
	qt.Assert(t, qt.IsNil(unix.Kill(pid, unix.SIGCONT)))

	dropped, back := false, false
	for c := range seen {
		if c.Key == "alive" {
			dropped = dropped || c.Deleted
			back = !c.Deleted
		}
		if dropped && back {
			break
		}
	}
	qt.Check(t, qt.IsTrue(dropped))
	got, err := s.Get(ctx, "alive")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(string(got.Value), "here"))

	end()
	qt.Check(t, qt.ErrorIs(<-kept, context.Canceled))
	_, err = s.Get(ctx, "alive")
	qt.Check(t, qt.ErrorIs(err, directory.ErrNotFound))
	qt.Check(t, qt.IsNil(s.Close()))
	qt.Check(t, qt.ErrorIs(<-watched, directory.ErrUnavailable))
}

// follow sends each change of a watch, and then its error.
func follow(ctx context.Context, s *etcd.Store, after int64) (<-chan error, <-chan directory.Change) {
	next := s.Watch(ctx, "", after)
	done, seen := make(chan error, 1), make(chan directory.Change, 10000)
	go func() {
		defer close(seen)
		for {
			changes, err := next()
			if err != nil {
				done <- err
				return
			}
			for _, c := range changes {
				seen <- c
			}
		}
	}()
	return done, seen
}

// Three members, of which the leader is killed under writers: each compare-and-swap that was
// answered has happened once, and a watch has seen each change once and in order.
func TestLeaderIsKilledUnderWriters(t *testing.T) {
	in := cluster.New(t, 3, nil)
	ctx := cluster.Ctx(t)
	s := open(t, in, nil)
	_, err := s.Commit(ctx, put("counter", "0"))
	qt.Assert(t, qt.IsNil(err))
	_, revision, err := s.List(ctx, "")
	qt.Assert(t, qt.IsNil(err))
	done, seen := follow(ctx, s, revision)

	const writers, rounds = 4, 60
	var sure, unsure sync.Map // values by writer
	var wg sync.WaitGroup
	half := make(chan struct{})
	var once sync.Once
	for w := range writers {
		own := open(t, in, func(o *etcd.Options) { o.Prefix, o.Timeout = "/test/"+t.Name(), 2*time.Second })
		wg.Go(func() {
			for i := range rounds {
				if i == rounds/3 {
					once.Do(func() { close(half) })
				}
				value, known := swap(ctx, t, own)
				if known {
					sure.Store(value, w)
				} else {
					unsure.Store(value, w)
				}
			}
		})
	}
	<-half
	leader := slices.IndexFunc(in.Hosts, func(h *cluster.Host) bool {
		st, err := h.Status(ctx)
		return err == nil && st.Health.Leader == st.Health.ID && st.Healthy()
	})
	qt.Assert(t, qt.Not(qt.Equals(leader, -1)))
	in.Hosts[leader].Signal(t, unix.SIGKILL)
	wg.Wait()

	last, err := s.Get(ctx, "counter")
	qt.Assert(t, qt.IsNil(err))
	end, err := strconv.Atoi(string(last.Value))
	qt.Assert(t, qt.IsNil(err))
	want := 0
	for c := range seen {
		want++
		qt.Check(t, qt.Equals(string(c.Value), strconv.Itoa(want)))
		if c.Revision == last.Revision {
			break
		}
	}
	qt.Check(t, qt.Equals(want, end))
	answered, open := 0, 0
	sure.Range(func(k, _ any) bool { answered++; return true })
	unsure.Range(func(k, _ any) bool { open++; return true })
	t.Logf("counted to %d; %d answered, %d without an answer", end, answered, open)
	qt.Check(t, qt.IsTrue(answered <= end && end <= answered+open))
	qt.Check(t, qt.IsTrue(open < answered))
	// The member that was killed comes back by itself.
	qt.Check(t, qt.IsNil(in.Hosts[leader].Start(ctx)))
	select {
	case err := <-done:
		t.Error(err)
	default:
	}
}

// swap counts one up. It returns the value that it wrote, and whether that was answered.
func swap(ctx context.Context, t *testing.T, s *etcd.Store) (int, bool) {
	t.Helper()
	for {
		e, err := s.Get(ctx, "counter")
		if errors.Is(err, directory.ErrUnavailable) && ctx.Err() == nil {
			continue
		}
		if err != nil {
			t.Error(err)
			return 0, false
		}
		n, err := strconv.Atoi(string(e.Value))
		if err != nil {
			t.Error(err)
		}
		txn := put("counter", strconv.Itoa(n+1))
		txn.If = []directory.Condition{{Key: "counter", Revision: e.Revision}}
		_, err = s.Commit(ctx, txn)
		var conflict *directory.ConflictError
		switch {
		case err == nil:
			return n + 1, true
		case errors.As(err, &conflict):
			continue
		case errors.Is(err, directory.ErrUnavailable):
			return n + 1, false
		default:
			t.Error(err)
			return 0, false
		}
	}
}

// A directory whose disk was put back to an older state is noticed, by calls and by a watch.
func TestDirectoryThatWentBack(t *testing.T) {
	in := cluster.New(t, 1, nil)
	h := in.Hosts[0]
	s := open(t, in, nil)
	ctx := cluster.Ctx(t)
	_, err := s.Commit(ctx, put("a", "1"))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(h.Stop(ctx)))
	old := t.TempDir()
	copyDir(t, h.Config.DataDir(), old)
	qt.Assert(t, qt.IsNil(h.Start(ctx)))

	var revision int64
	for i := range 100 {
		revision, err = s.Commit(ctx, put("a", strconv.Itoa(i)))
		qt.Assert(t, qt.IsNil(err))
	}
	qt.Assert(t, qt.IsNil(h.Stop(ctx)))
	copyDir(t, old, h.Config.DataDir())
	qt.Assert(t, qt.IsNil(h.Start(ctx)))

	_, err = s.Get(ctx, "a")
	qt.Check(t, qt.ErrorIs(err, directory.ErrBehind))
	_, err = open(t, in, nil).Watch(ctx, "", revision)()
	qt.Check(t, qt.ErrorIs(err, directory.ErrBehind))
}

// A full directory can be read, entries can be deleted, and it takes entries again after it has
// been defragmented.
func TestFull(t *testing.T) {
	in := cluster.New(t, 1, func(c *member.Config) { c.QuotaBytes = 4 << 20 })
	s := open(t, in, nil)
	h := in.Hosts[0]
	ctx := cluster.Ctx(t)
	value := make([]byte, 100<<10)
	var keys []string
	fill := func() (err error) {
		for err == nil && len(keys) < 1000 {
			key := "n/" + strconv.Itoa(len(keys))
			if _, err = s.Commit(ctx, directory.Txn{Puts: []directory.Put{{Key: key, Value: value}}}); err == nil {
				keys = append(keys, key)
			}
		}
		return err
	}
	var st member.Status
	for full := error(nil); full == nil; { // how much of the file is free when it is full depends on when etcd commits
		qt.Assert(t, qt.ErrorIs(fill(), directory.ErrFull))
		var err error
		st, err = h.Status(ctx)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.IsTrue(st.Full))
		if full = h.Defragment(ctx); full != nil {
			qt.Assert(t, qt.ErrorIs(full, directory.ErrFull))
		}
	}

	_, err := s.Get(ctx, keys[0])
	qt.Check(t, qt.IsNil(err))
	_, err = s.Commit(ctx, directory.Txn{Deletes: keys})
	qt.Check(t, qt.IsNil(err))
	_, err = s.Commit(ctx, put("x", ""))
	qt.Check(t, qt.ErrorIs(err, directory.ErrFull))
	qt.Assert(t, qt.IsNil(h.Defragment(ctx)))
	_, err = s.Commit(ctx, put("x", ""))
	qt.Check(t, qt.IsNil(err))
	after, err := h.Status(ctx)
	qt.Check(t, qt.IsNil(err))
	qt.Check(t, qt.IsFalse(after.Full))
	qt.Check(t, qt.IsTrue(after.Size < st.Size), qt.Commentf("%d, before %d", after.Size, st.Size))
}

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	qt.Assert(t, qt.IsNil(os.RemoveAll(to)))
	qt.Assert(t, qt.IsNil(os.CopyFS(to, os.DirFS(from))))
}
