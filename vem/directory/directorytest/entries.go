package directorytest

import (
	"bytes"
	"errors"
	"slices"
	"strings"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/directory"
)

var entryTests = []test{
	{"get", testGet, nil},
	{"values", testValues, nil},
	{"list", testList, nil},
	{"list-nothing", testListNothing, nil},
	{"list-all", testListAll, nil},
	{"prefixes", testPrefixes, nil},
	{"revisions", testRevisions, nil},
}

func testGet(h *harness) {
	_, err := h.store.Get(h.ctx, h.key("a"))
	qt.Assert(h, qt.ErrorIs(err, directory.ErrNotFound))
	rev := h.put("a", "1")
	value, got := h.get("a")
	qt.Check(h, qt.Equals(value, "1"))
	qt.Check(h, qt.Equals(got, rev))
	h.remove("a")
	_, err = h.store.Get(h.ctx, h.key("a"))
	qt.Assert(h, qt.ErrorIs(err, directory.ErrNotFound))
}

// Values are any bytes, and belong to whoever asked for them.
func testValues(h *harness) {
	for name, value := range map[string][]byte{
		"zero":  []byte("\x00a\x00\x00b\x00"),
		"empty": {},
		"bytes": {0xff, 0xfe, 0, 0x80, '\n'},
		"large": bytes.Repeat([]byte("0123456789abcdef"), 4096),
	} {
		mine := slices.Clone(value)
		h.commit(directory.Txn{Puts: []directory.Put{{Key: h.key(name), Value: mine}}})
		for i := range mine {
			mine[i]++
		}
		for range 2 {
			e, err := h.store.Get(h.ctx, h.key(name))
			qt.Assert(h, qt.IsNil(err))
			qt.Assert(h, qt.IsTrue(bytes.Equal(e.Value, value)), qt.Commentf("%s: %q", name, e.Value))
			for i := range e.Value {
				e.Value[i] = '!'
			}
		}
	}
}

func testList(h *harness) {
	h.put("b", "2")
	h.put("c", "3")
	last := h.put("a", "1")
	got, rev := h.list("")
	qt.Check(h, qt.DeepEquals(got, []string{"a=1", "b=2", "c=3"}))
	qt.Check(h, qt.IsTrue(rev >= last), qt.Commentf("%d, %d", rev, last))
	last = h.remove("b")
	got, rev = h.list("")
	qt.Check(h, qt.DeepEquals(got, []string{"a=1", "c=3"}))
	qt.Check(h, qt.IsTrue(rev >= last), qt.Commentf("%d, %d", rev, last))
	// A single key is a prefix as well.
	got, _ = h.list("c")
	qt.Check(h, qt.DeepEquals(got, []string{"c=3"}))
}

func testListNothing(h *harness) {
	last := h.put("a", "1")
	got, rev := h.list("no/")
	qt.Check(h, qt.HasLen(got, 0))
	qt.Check(h, qt.IsTrue(rev >= last), qt.Commentf("%d, %d", rev, last))
}

// The empty prefix is that of all keys.
func testListAll(h *harness) {
	h.put("a", "1")
	h.put("\xff\xff", "2")
	entries, _, err := h.store.List(h.ctx, "")
	qt.Assert(h, qt.IsNil(err))
	var mine []string
	for i, e := range entries {
		qt.Assert(h, qt.IsTrue(i == 0 || entries[i-1].Key < e.Key))
		if name, ok := strings.CutPrefix(e.Key, h.prefix); ok {
			mine = append(mine, name+"="+string(e.Value))
		}
	}
	qt.Check(h, qt.DeepEquals(mine, []string{"a=1", "\xff\xff=2"}))
}

// Keys that are prefixes of each other, in the order of their bytes.
func testPrefixes(h *harness) {
	all := []string{"a", "a/", "a/b", "a/b/c", "a0", "aa", "a\xff", "a\xff\xff", "b"}
	for i := range all {
		h.put(all[(i+4)%len(all)], "")
	}
	for prefix, want := range map[string][]string{
		"":          all,
		"a":         all[:8],
		"a/":        {"a/", "a/b", "a/b/c"},
		"a/b":       {"a/b", "a/b/c"},
		"a/b/":      {"a/b/c"},
		"a\xff":     {"a\xff", "a\xff\xff"},
		"a\xff\xff": {"a\xff\xff"},
		"a/c":       nil,
	} {
		var names []string
		list, _ := h.list(prefix)
		for _, e := range list {
			names = append(names, strings.TrimSuffix(e, "="))
		}
		qt.Check(h, qt.DeepEquals(names, want), qt.Commentf("%q", prefix))
	}
	// What is done to one of them is done to no other.
	h.remove("a/b")
	_, rev := h.get("a/b")
	qt.Check(h, qt.Equals(rev, 0))
	for _, name := range []string{"a", "a/", "a/b/c"} {
		_, rev := h.get(name)
		qt.Check(h, qt.IsTrue(rev > 0), qt.Commentf("%s", name))
	}
}

// Revisions only grow, also over a deletion: a condition never holds for another entry than
// the one that was read.
func testRevisions(h *harness) {
	var last int64
	for i := range 5 {
		for _, rev := range []int64{h.put("a", "1"), h.put("a", "1"), h.put("b", "1"), h.remove("a")} {
			qt.Assert(h, qt.IsTrue(rev > last), qt.Commentf("%d: %d after %d", i, rev, last))
			last = rev
		}
		_, rev := h.list("")
		qt.Assert(h, qt.IsTrue(rev >= last))
	}
	first := h.put("a", "old")
	h.remove("a")
	h.put("a", "new")
	_, err := h.store.Commit(h.ctx, directory.Txn{
		If:   []directory.Condition{{Key: h.key("a"), Revision: first}},
		Puts: []directory.Put{{Key: h.key("a"), Value: []byte("late")}},
	})
	c := h.conflict(err, "a")
	qt.Check(h, qt.Equals(string(c.Now.Value), "new"))
	qt.Check(h, qt.IsFalse(errors.Is(err, directory.ErrUnavailable)))
}
