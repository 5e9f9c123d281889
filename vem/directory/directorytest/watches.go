package directorytest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/directory"
)

var watchTests = []test{
	{"watch", testWatch, nil},
	{"watch-past", testWatchPast, nil},
	{"watch-groups", testWatchGroups, nil},
	{"watch-prefix", testWatchPrefix, nil},
	{"watch-many", testWatchMany, nil},
	{"watch-slowly", testWatchSlowly, nil},
	{"list-and-watch", testListAndWatch, nil},
	{"watch-ends", testWatchEnds, nil},
	{"compacted", testCompacted, compact},
	{"watch-while-cut", testWatchWhileCut, cut},
}

func testWatch(h *harness) {
	after := h.put("a", "1")
	w := h.watch(h.ctx, "", after)
	for i := range 10 {
		rev := h.put("a", fmt.Sprint(i))
		qt.Assert(h, qt.Equals(w.expect(fmt.Sprintf("a=%d", i)), rev))
	}
	rev := h.remove("a")
	qt.Assert(h, qt.Equals(w.expect("-a"), rev))
	h.put("a", "again")
	w.expect("a=again")
}

// A watch tells the changes after any revision that is kept.
func testWatchPast(h *harness) {
	revisions := []int64{h.put("a", "1"), h.put("a", "2"), h.remove("a"), h.put("b", "3")}
	want := []string{"a=1", "a=2", "-a", "b=3"}
	for i, rev := range revisions {
		w := h.watch(h.ctx, "", rev)
		for _, change := range want[i+1:] {
			w.expect(change)
		}
	}
	w := h.watch(h.ctx, "", revisions[0]-1)
	for _, change := range want {
		w.expect(change)
	}
}

// What was changed together is told together, and nothing else with it.
func testWatchGroups(h *harness) {
	after := h.put("old", "")
	live := h.watch(h.ctx, "", after)
	want := [][]string{}
	for i := range 20 {
		var t directory.Txn
		var changes []string
		for j := range i + 1 {
			name := fmt.Sprintf("%02d", j)
			t.Puts = append(t.Puts, directory.Put{Key: h.key(name), Value: []byte(fmt.Sprint(i))})
			changes = append(changes, fmt.Sprintf("%s=%d", name, i))
		}
		if i == 10 {
			t.Deletes, changes = []string{h.key("old")}, append([]string{"-old"}, changes...)
		}
		h.commit(t)
		want = append(want, changes)
	}
	for _, w := range []*watcher{live, h.watch(h.ctx, "", after)} {
		for _, changes := range want {
			w.expect(changes...)
		}
	}
}

// A watch tells nothing of other keys, also if they were changed together with its own.
func testWatchPrefix(h *harness) {
	after := h.put("x", "")
	w, all := h.watch(h.ctx, "a/", after), h.watch(h.ctx, "", after)
	h.put("a", "1")
	h.put("a0", "2")
	h.commit(directory.Txn{Puts: []directory.Put{
		{Key: h.key("a/b"), Value: []byte("3")}, {Key: h.key("b"), Value: []byte("3")}, {Key: h.key("a/"), Value: []byte("3")},
	}})
	h.put("b", "4")
	h.remove("a/b")
	w.expect("a/=3", "a/b=3")
	w.expect("-a/b")
	for _, want := range [][]string{{"a=1"}, {"a0=2"}, {"a/=3", "a/b=3", "b=3"}, {"b=4"}, {"-a/b"}} {
		all.expect(want...)
	}
}

// Several watchers, of several stores and from several revisions, see the same.
func testWatchMany(h *harness) {
	const watchers, changes = 12, 60
	revisions := []int64{h.put("n", "start")}
	lists := make([][]string, watchers)
	errs := make([]error, watchers)
	var all sync.WaitGroup
	for i := range watchers {
		s := h.store
		if i%3 == 0 {
			s = h.another()
		}
		next := s.Watch(h.ctx, h.prefix, revisions[0])
		all.Go(func() { lists[i], errs[i] = collect(next, h.key("end")) })
	}
	for i := range changes {
		revisions = append(revisions, h.put("n", fmt.Sprint(i)))
	}
	h.put("end", "")
	all.Wait()
	for i := range watchers {
		qt.Assert(h, qt.IsNil(errs[i]))
		qt.Assert(h, qt.HasLen(lists[i], changes))
		qt.Assert(h, qt.DeepEquals(lists[i], lists[0]))
	}
	for _, from := range []int{1, changes / 2, changes} {
		list, err := collect(h.store.Watch(h.ctx, h.prefix, revisions[from]), h.key("end"))
		qt.Assert(h, qt.IsNil(err))
		qt.Assert(h, qt.DeepEquals(list, lists[0][from:]), qt.Commentf("from %d", from))
	}
}

// collect reads a watch until a key is put, and returns what came before.
func collect(next func() ([]directory.Change, error), end string) ([]string, error) {
	list := []string{}
	var last int64
	for {
		changes, err := next()
		if err != nil {
			return list, err
		}
		for _, c := range changes {
			if c.Revision < last || c.Revision != changes[0].Revision {
				return list, fmt.Errorf("revision %d of %s comes after %d", c.Revision, c.Key, last)
			}
			if c.Key == end {
				return list, nil
			}
			list = append(list, fmt.Sprintf("%d %s %t", c.Revision, c.Value, c.Deleted))
		}
		last = changes[0].Revision
	}
}

// A watcher that is slow holds up nobody, and misses nothing.
func testWatchSlowly(h *harness) {
	const changes = 500
	after := h.put("n", "start")
	w := h.watch(h.ctx, "", after)
	quick := h.watch(h.ctx, "", after)
	for i := range changes {
		h.put("n", fmt.Sprint(i))
	}
	for i := range changes {
		quick.expect(fmt.Sprintf("n=%d", i))
	}
	for i := range changes {
		w.expect(fmt.Sprintf("n=%d", i))
	}
}

// Between a list and the watch that goes on from it there is no gap, and nothing twice, while
// others write.
func testListAndWatch(h *harness) {
	const writers, rounds, writes = 4, 10, 100
	work := make(chan struct{}, rounds*writes)
	ctx, stop := context.WithCancel(h.ctx)
	defer stop()
	var all sync.WaitGroup
	for i := range writers {
		s := h.another()
		all.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-ctx.Done():
					return
				case <-work:
				}
				t := directory.Txn{Puts: []directory.Put{{Key: h.key(fmt.Sprintf("w%d/%d", i, n%7)), Value: []byte(fmt.Sprint(n))}}}
				if n%5 == 4 {
					t.Deletes = []string{h.key(fmt.Sprintf("w%d/%d", i, (n+3)%7))}
				}
				if _, err := s.Commit(ctx, t); err != nil && ctx.Err() == nil {
					h.Errorf("write: %v", err)
				}
			}
		})
	}
	defer all.Wait()
	defer stop()
	for round := range rounds {
		for range writes {
			work <- struct{}{}
		}
		entries, rev, err := h.store.List(h.ctx, h.prefix)
		qt.Assert(h, qt.IsNil(err))
		next := h.store.Watch(h.ctx, h.prefix, rev)
		now := make(map[string]string)
		for _, e := range entries {
			now[e.Key] = fmt.Sprint(e.Revision, " ", string(e.Value))
		}
		mark := h.put("mark", fmt.Sprint(round))
		for at := rev; at < mark; {
			changes, err := next()
			qt.Assert(h, qt.IsNil(err))
			qt.Assert(h, qt.IsTrue(changes[0].Revision > at), qt.Commentf("revision %d after %d", changes[0].Revision, at))
			at = changes[0].Revision
			for _, c := range changes {
				apply(now, c)
			}
		}
		// What the watch told is what a list at a later revision says, but for what came between.
		later, upto, err := h.store.List(h.ctx, h.prefix)
		qt.Assert(h, qt.IsNil(err))
		h.put("mark", "after")
		for at := mark; at < upto; {
			changes, err := next()
			qt.Assert(h, qt.IsNil(err))
			if at = changes[0].Revision; at > upto {
				break
			}
			for _, c := range changes {
				apply(now, c)
			}
		}
		want := make(map[string]string)
		for _, e := range later {
			want[e.Key] = fmt.Sprint(e.Revision, " ", string(e.Value))
		}
		qt.Assert(h, qt.DeepEquals(now, want), qt.Commentf("round %d", round))
	}
}

func apply(entries map[string]string, c directory.Change) {
	if c.Deleted {
		delete(entries, c.Key)
	} else {
		entries[c.Key] = fmt.Sprint(c.Revision, " ", string(c.Value))
	}
}

func testWatchEnds(h *harness) {
	after := h.put("a", "1")
	ctx, cancel := context.WithCancel(h.ctx)
	w, other := h.watch(ctx, "", after), h.watch(h.ctx, "", after)
	h.put("a", "2")
	w.expect("a=2")
	ended := make(chan error, 1)
	go func() {
		_, err := w.next()
		ended <- err
	}()
	cancel()
	select {
	case err := <-ended:
		qt.Check(h, qt.ErrorIs(err, context.Canceled))
	case <-h.ctx.Done():
		h.Fatal("a watch whose context has ended goes on")
	}
	_, err := w.next()
	qt.Check(h, qt.ErrorIs(err, context.Canceled))
	other.expect("a=2")
	_, err = h.store.Watch(ctx, h.prefix, after)()
	qt.Check(h, qt.ErrorIs(err, context.Canceled))
}

// A watch of what is not kept any more says so, and a new list goes on.
func testCompacted(h *harness) {
	after := h.put("a", "1")
	following := h.watch(h.ctx, "", after)
	h.put("a", "2")
	following.expect("a=2")
	h.put("a", "3")
	h.opt.Compact(h.T)
	_, err := h.store.Watch(h.ctx, h.prefix, after)()
	qt.Check(h, qt.ErrorIs(err, directory.ErrCompacted))
	got, rev := h.list("")
	qt.Check(h, qt.DeepEquals(got, []string{"a=3"}))
	w := h.watch(h.ctx, "", rev)
	h.put("a", "4")
	w.expect("a=4")
	// One that has followed may have been told in time.
	for want := []string{"a=3", "a=4"}; len(want) > 0; want = want[1:] {
		told, _, err := following.read()
		if errors.Is(err, directory.ErrCompacted) {
			return
		}
		qt.Assert(h, qt.IsNil(err))
		qt.Assert(h, qt.DeepEquals(told, want[:1]))
	}
}

// A watch whose store was cut off loses no change.
func testWatchWhileCut(h *harness) {
	after := h.put("a", "1")
	w := h.watch(h.ctx, "", after)
	h.put("a", "2")
	w.expect("a=2")
	other := h.another()
	heal := h.opt.Cut(h.T, h.store)
	defer heal()
	ctx, cancel := context.WithTimeout(h.ctx, 200*time.Millisecond)
	defer cancel()
	_, err := h.store.Get(ctx, h.key("a"))
	qt.Assert(h, qt.ErrorIs(err, directory.ErrUnavailable))
	_, _, err = h.store.List(ctx, h.key("a"))
	qt.Assert(h, qt.ErrorIs(err, directory.ErrUnavailable))
	_, err = h.store.Commit(ctx, directory.Txn{If: []directory.Condition{{Key: h.key("no"), Revision: 1}}})
	qt.Assert(h, qt.ErrorIs(err, directory.ErrUnavailable))
	// These happen, or don't, or happen later.
	for i := range 5 {
		late, end := context.WithTimeout(h.ctx, 100*time.Millisecond)
		_, err := other.Commit(late, directory.Txn{Puts: []directory.Put{{Key: h.key(fmt.Sprint("late", i)), Value: []byte("x")}}})
		qt.Check(h, qt.IsTrue(err == nil || errors.Is(err, directory.ErrUnavailable)), qt.Commentf("%v", err))
		end()
	}
	heal()
	h.await("the store is back", func() bool {
		ctx, cancel := context.WithTimeout(h.ctx, time.Second)
		defer cancel()
		_, err := h.store.Get(ctx, h.key("a"))
		return err == nil
	})
	end := h.put("end", "")
	told := []string{"a=2"}
	for w.last < end {
		list, _, err := w.read()
		qt.Assert(h, qt.IsNil(err))
		told = append(told, list...)
	}
	entries, _, err := h.store.List(h.ctx, h.prefix)
	qt.Assert(h, qt.IsNil(err))
	var want []string
	for _, e := range entries {
		if e.Revision <= end {
			want = append(want, strings.TrimPrefix(e.Key, h.prefix)+"="+string(e.Value))
		}
	}
	slices.Sort(told)
	slices.Sort(want)
	qt.Check(h, qt.DeepEquals(told, want))
}
