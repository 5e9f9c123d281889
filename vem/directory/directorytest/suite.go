// Package directorytest is the suite that every [directory.Store] passes: what the interface
// promises, tried out.
package directorytest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/directory"
)

// Options say what the suite can do to the stores under test. A function that is nil leaves
// out the tests that need it.
type Options struct {
	// TTL is what KeepAlive is called with: the shortest that the store holds to. Zero: a second.
	TTL time.Duration
	// Wait is how long the suite waits for what has to happen. Zero: a minute.
	Wait time.Duration
	// Compact makes the stores forget all changes up to now.
	Compact func(t *testing.T)
	// Cut makes a store of open unreachable, perhaps with all others, until heal is called. heal
	// may be called more than once.
	Cut func(t *testing.T, s directory.Store) (heal func())
	// Drop makes the stores drop all entries that are kept alive, as a store does that stood
	// still for longer than their ttl.
	Drop func(t *testing.T)
}

// Run tries out all that a store promises. The stores that open returns all have the same
// entries, as the hosts of one installation do; Run closes them. Each test has a prefix of its
// own, so that entries which are there already are not in the way.
func Run(t *testing.T, open func(t *testing.T) directory.Store, opt Options) {
	t.Helper()
	if opt.TTL == 0 {
		opt.TTL = time.Second
	}
	if opt.Wait == 0 {
		opt.Wait = time.Minute
	}
	for _, test := range slices.Concat(entryTests, txnTests, watchTests, keepTests, endTests) {
		if test.needs != nil && !test.needs(opt) {
			continue
		}
		t.Run(test.name, func(t *testing.T) {
			h := &harness{T: t, opt: opt, open: open}
			h.prefix = fmt.Sprintf("/directorytest/%s-%08x/", test.name, rand.Uint32())
			var cancel context.CancelFunc
			// What the test has begun ends in its clean-up, after the test's own context.
			h.ctx, cancel = context.WithTimeout(context.WithoutCancel(t.Context()), opt.Wait)
			t.Cleanup(cancel)
			h.store = h.another()
			test.do(h)
		})
	}
}

type test struct {
	name  string
	do    func(h *harness)
	needs func(opt Options) bool // nil: nothing
}

func cut(opt Options) bool     { return opt.Cut != nil }
func compact(opt Options) bool { return opt.Compact != nil }
func drop(opt Options) bool    { return opt.Drop != nil }

// harness is a store under test, with the prefix of one test.
type harness struct {
	*testing.T
	opt    Options
	open   func(t *testing.T) directory.Store
	ctx    context.Context //nolint:containedctx // that of the test: it ends when all has taken too long
	store  directory.Store
	prefix string
}

// another opens one more store with the same entries.
func (h *harness) another() directory.Store {
	h.Helper()
	s := h.open(h.T)
	h.Cleanup(func() { qt.Check(h, qt.IsNil(s.Close())) })
	return s
}

func (h *harness) key(name string) string { return h.prefix + name }

// put gives a key a value, whatever it had.
func (h *harness) put(name, value string) int64 {
	h.Helper()
	return h.commit(directory.Txn{Puts: []directory.Put{{Key: h.key(name), Value: []byte(value)}}})
}

func (h *harness) remove(name string) int64 {
	h.Helper()
	return h.commit(directory.Txn{Deletes: []string{h.key(name)}})
}

func (h *harness) commit(t directory.Txn) int64 {
	h.Helper()
	rev, err := h.store.Commit(h.ctx, t)
	qt.Assert(h, qt.IsNil(err))
	return rev
}

// get returns a value and its revision; "", 0 if there is none.
func (h *harness) get(name string) (string, int64) {
	h.Helper()
	e, err := h.store.Get(h.ctx, h.key(name))
	if errors.Is(err, directory.ErrNotFound) {
		return "", 0
	}
	qt.Assert(h, qt.IsNil(err))
	qt.Assert(h, qt.Equals(e.Key, h.key(name)))
	return string(e.Value), e.Revision
}

// list returns all entries of the test below a prefix as name=value.
func (h *harness) list(prefix string) ([]string, int64) {
	h.Helper()
	entries, rev, err := h.store.List(h.ctx, h.key(prefix))
	qt.Assert(h, qt.IsNil(err))
	var list []string
	for _, e := range entries {
		name, mine := strings.CutPrefix(e.Key, h.prefix)
		qt.Assert(h, qt.IsTrue(mine), qt.Commentf("%s", e.Key))
		qt.Assert(h, qt.IsTrue(e.Revision > 0 && e.Revision <= rev), qt.Commentf("%s: %d of %d", e.Key, e.Revision, rev))
		list = append(list, name+"="+string(e.Value))
	}
	return list, rev
}

// await asks until the answer is true.
func (h *harness) await(what string, ask func() bool) {
	h.Helper()
	for tick := time.NewTicker(5 * time.Millisecond); !ask(); {
		select {
		case <-h.ctx.Done():
			h.Fatalf("%s did not happen within %s", what, h.opt.Wait)
		case <-tick.C:
		}
	}
}

// watch begins to watch the entries of the test below a prefix.
func (h *harness) watch(ctx context.Context, prefix string, after int64) *watcher {
	return &watcher{h: h, next: h.store.Watch(ctx, h.key(prefix), after), last: after}
}

// watcher reads what a watch tells, and checks what holds for all watches.
type watcher struct {
	h    *harness
	next func() ([]directory.Change, error)
	last int64
}

// read returns the next changes, as name=value or -name, in the order of names, and their
// revision.
func (w *watcher) read() ([]string, int64, error) {
	w.h.Helper()
	changes, err := w.next()
	if err != nil {
		return nil, 0, err
	}
	qt.Assert(w.h, qt.IsTrue(len(changes) > 0), qt.Commentf("a watch told nothing"))
	rev := changes[0].Revision
	qt.Assert(w.h, qt.IsTrue(rev > w.last), qt.Commentf("revision %d after %d", rev, w.last))
	w.last = rev
	var list []string
	for _, c := range changes {
		name, mine := strings.CutPrefix(c.Key, w.h.prefix)
		qt.Assert(w.h, qt.IsTrue(mine), qt.Commentf("%s", c.Key))
		qt.Assert(w.h, qt.Equals(c.Revision, rev), qt.Commentf("%s: not of one revision", c.Key))
		if c.Deleted {
			qt.Assert(w.h, qt.Equals(len(c.Value), 0))
			list = append(list, "-"+name)
		} else {
			list = append(list, name+"="+string(c.Value))
		}
	}
	slices.Sort(list)
	return list, rev, nil
}

// expect fails the test unless these are the next changes, and returns their revision.
func (w *watcher) expect(want ...string) int64 {
	w.h.Helper()
	got, rev, err := w.read()
	qt.Assert(w.h, qt.IsNil(err))
	qt.Assert(w.h, qt.DeepEquals(got, want))
	return rev
}

// conflict returns an error as a *ConflictError, and checks the name of its key.
func (h *harness) conflict(err error, name string) *directory.ConflictError {
	h.Helper()
	var c *directory.ConflictError
	qt.Assert(h, qt.ErrorAs(err, &c))
	qt.Assert(h, qt.Equals(strings.TrimPrefix(c.Key, h.prefix), name))
	return c
}
