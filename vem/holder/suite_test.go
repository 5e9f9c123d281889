package holder_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/holder"
)

// pipes makes n items, each the read end of a pipe of its own that holds its
// key's text, and returns the inodes in order.
func pipes(t *testing.T, prefix string, n int) ([]holder.Item, []uint64) {
	t.Helper()
	items := make([]holder.Item, n)
	inodes := make([]uint64, n)
	for i := range n {
		r, w, err := os.Pipe()
		qt.Assert(t, qt.IsNil(err))
		key := fmt.Sprintf("%s-%d", prefix, i)
		_, err = w.WriteString(key)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsNil(w.Close()))
		items[i] = holder.Item{Key: key, File: r, Meta: json.RawMessage(fmt.Sprintf(`{"n":%d}`, i))}
		inodes[i] = inode(t, r)
	}
	t.Cleanup(func() { holder.CloseAll(items) })
	return items, inodes
}

func inode(t *testing.T, f *os.File) uint64 {
	t.Helper()
	var st unix.Stat_t
	qt.Assert(t, qt.IsNil(unix.Fstat(int(f.Fd()), &st)))
	return st.Ino
}

// check gets an app's items and compares them.
func check(t *testing.T, s holder.Store, app string, items []holder.Item, inodes []uint64) {
	t.Helper()
	got, err := s.Get(t.Context(), app)
	qt.Assert(t, qt.IsNil(err))
	defer holder.CloseAll(got)
	qt.Assert(t, qt.Equals(len(got), len(items)))
	for i, it := range got {
		qt.Assert(t, qt.Equals(it.Key, items[i].Key))
		qt.Assert(t, qt.Equals(string(it.Meta), string(items[i].Meta)))
		qt.Assert(t, qt.Equals(inode(t, it.File), inodes[i]))
		flags, err := unix.FcntlInt(it.File.Fd(), unix.F_GETFD, 0)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.Equals(flags, unix.FD_CLOEXEC))
	}
}

// testStore is the contract of holder.Store, for every implementation.
func testStore(t *testing.T, open func(t *testing.T) holder.Store) {
	t.Helper()
	tests := map[string]func(t *testing.T, s holder.Store){
		"get what was put":      testGet,
		"put replaces":          testReplace,
		"wrong items":           testWrongItems,
		"drop":                  testDrop,
		"many":                  testMany,
		"the caller's own file": testOwnFile,
		"at the same time":      testConcurrent,
		"cancelled":             testCancelled,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func testGet(t *testing.T, s holder.Store) {
	t.Helper()
	_, err := s.Get(t.Context(), "redis")
	qt.Assert(t, qt.ErrorIs(err, holder.ErrNotFound))

	items, inodes := pipes(t, "a", 3)
	items[1].Meta = nil
	qt.Assert(t, qt.IsNil(s.Put(t.Context(), "redis", items)))
	check(t, s, "redis", items, inodes)
	check(t, s, "redis", items, inodes)

	empty, _ := pipes(t, "none", 0)
	qt.Assert(t, qt.IsNil(s.Put(t.Context(), "empty", empty)))
	check(t, s, "empty", nil, nil)
	counts, err := s.List(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(cmp.Diff(counts, map[string]int{"redis": 3, "empty": 0}), ""))
}

func testReplace(t *testing.T, s holder.Store) {
	t.Helper()
	first, inodes := pipes(t, "a", 5)
	qt.Assert(t, qt.IsNil(s.Put(t.Context(), "app", first)))
	second, inodes2 := pipes(t, "b", 2)
	qt.Assert(t, qt.IsNil(s.Put(t.Context(), "other", first)))
	qt.Assert(t, qt.IsNil(s.Put(t.Context(), "app", second)))
	check(t, s, "app", second, inodes2)
	check(t, s, "other", first, inodes)
}

func testWrongItems(t *testing.T, s holder.Store) {
	t.Helper()
	good, inodes := pipes(t, "good", 2)
	qt.Assert(t, qt.IsNil(s.Put(t.Context(), "app", good)))
	one, _ := pipes(t, "one", 1)
	f := one[0].File
	tests := map[string]struct {
		app   string
		items []holder.Item
	}{
		"no app name":       {"", []holder.Item{{Key: "k", File: f}}},
		"long app name":     {strings.Repeat("a", 256), []holder.Item{{Key: "k", File: f}}},
		"no key":            {"app", []holder.Item{{File: f}}},
		"long key":          {"app", []holder.Item{{Key: strings.Repeat("k", 256), File: f}}},
		"key twice":         {"app", []holder.Item{{Key: "k", File: f}, {Key: "k", File: f}}},
		"no file":           {"app", []holder.Item{{Key: "k"}}},
		"meta too long":     {"app", []holder.Item{{Key: "k", File: f, Meta: json.RawMessage(`"` + strings.Repeat("m", 4<<10) + `"`)}}},
		"meta is not JSON":  {"app", []holder.Item{{Key: "k", File: f, Meta: json.RawMessage(`{`)}}},
		"after a good item": {"app", []holder.Item{{Key: "k", File: f}, {Key: "", File: f}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			qt.Assert(t, qt.ErrorIs(s.Put(t.Context(), test.app, test.items), holder.ErrItem))
			check(t, s, "app", good, inodes)
		})
	}
}

func testDrop(t *testing.T, s holder.Store) {
	t.Helper()
	items, _ := pipes(t, "a", 3)
	qt.Assert(t, qt.IsNil(s.Put(t.Context(), "app", items)))
	qt.Assert(t, qt.IsNil(s.Drop(t.Context(), "app")))
	qt.Assert(t, qt.IsNil(s.Drop(t.Context(), "app")))
	_, err := s.Get(t.Context(), "app")
	qt.Assert(t, qt.ErrorIs(err, holder.ErrNotFound))
	counts, err := s.List(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(len(counts), 0))
}

func testMany(t *testing.T, s holder.Store) {
	t.Helper()
	// More than a packet of descriptors, with metas that fill packets by bytes.
	items, inodes := pipes(t, "a", 700)
	for i := range items {
		items[i].Meta = json.RawMessage(`"` + strings.Repeat("<", i*5) + `"`)
	}
	qt.Assert(t, qt.IsNil(s.Put(t.Context(), "app", items)))
	check(t, s, "app", items, inodes)
	one, _ := pipes(t, "one", 1)
	want := map[string]int{"app": 700}
	for i := range 200 {
		app := strings.Repeat("x", 200) + fmt.Sprint(i)
		want[app] = 1
		qt.Assert(t, qt.IsNil(s.Put(t.Context(), app, one)))
	}
	counts, err := s.List(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(cmp.Diff(counts, want), ""))
}

func testOwnFile(t *testing.T, s holder.Store) {
	t.Helper()
	items, inodes := pipes(t, "a", 1)
	qt.Assert(t, qt.IsNil(s.Put(t.Context(), "app", items)))
	qt.Assert(t, qt.IsNil(items[0].File.Close()))
	check(t, s, "app", items, inodes)
	got, err := s.Get(t.Context(), "app")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(s.Drop(t.Context(), "app")))
	text := make([]byte, 10)
	n, err := got[0].File.Read(text)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(string(text[:n]), "a-0"))
	qt.Assert(t, qt.IsNil(holder.CloseAll(got)))
}

func testConcurrent(t *testing.T, s holder.Store) {
	t.Helper()
	sets := map[string][]holder.Item{}
	for _, prefix := range []string{"a", "b", "c", "d"} {
		items, _ := pipes(t, prefix, 100)
		sets[prefix] = items
	}
	var wg sync.WaitGroup
	for prefix, items := range sets {
		wg.Go(func() {
			for range 5 {
				qt.Check(t, qt.IsNil(s.Put(t.Context(), "app", items)))
				got, err := s.Get(t.Context(), "app")
				if err != nil {
					qt.Check(t, qt.ErrorIs(err, holder.ErrChanged))
					continue
				}
				qt.Check(t, qt.Equals(len(got), 100))
				for i, it := range got { // all of one Put
					qt.Check(t, qt.Equals(it.Key, fmt.Sprintf("%s-%d", got[0].Key[:1], i)))
				}
				qt.Check(t, qt.IsNil(holder.CloseAll(got)))
			}
			_ = prefix
		})
	}
	wg.Wait()
}

func testCancelled(t *testing.T, s holder.Store) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	items, _ := pipes(t, "a", 1)
	qt.Assert(t, qt.ErrorIs(s.Put(ctx, "app", items), context.Canceled))
	_, err := s.Get(ctx, "app")
	qt.Assert(t, qt.ErrorIs(err, context.Canceled))
	_, err = s.Get(t.Context(), "app")
	qt.Assert(t, qt.ErrorIs(err, holder.ErrNotFound))
}
