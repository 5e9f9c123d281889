package directory_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/memory"
)

// ops are all that a session does to one endpoint, and what there is when it is done.
var ops = map[string]struct {
	prepare func(w *world) directory.Endpoint
	do      func(w *world, e directory.Endpoint) error
	done    func(w *world) bool
}{
	"claim": {
		func(*world) directory.Endpoint { return endpoint("cache", "10.77.0.2") },
		func(w *world, e directory.Endpoint) error {
			return w.hosts["a"].s.Claim(w.Context(), []directory.Endpoint{e})[0].Err
		},
		func(w *world) bool { return w.is("a", 1, directory.Running) },
	},
	"update": {
		func(w *world) directory.Endpoint { return w.hosts["a"].mustClaim("cache", "10.77.0.2") },
		func(w *world, e directory.Endpoint) error {
			_, err := w.hosts["a"].s.Update(w.Context(), e, directory.Held, "")
			return err
		},
		func(w *world) bool { return w.is("a", 1, directory.Held) },
	},
	"transfer": {
		func(w *world) directory.Endpoint {
			e, err := w.hosts["a"].s.Update(w.Context(), w.hosts["a"].mustClaim("cache", "10.77.0.2"), directory.Moving, "b")
			qt.Assert(w, qt.IsNil(err))
			return e
		},
		func(w *world, e directory.Endpoint) error {
			_, err := w.hosts["a"].s.Transfer(w.Context(), e, "b")
			return err
		},
		func(w *world) bool { return w.is("b", 2, directory.Held) },
	},
	"release": {
		func(w *world) directory.Endpoint { return w.hosts["a"].mustClaim("cache", "10.77.0.2") },
		func(w *world, e directory.Endpoint) error {
			return w.hosts["a"].s.Release(w.Context(), []directory.Endpoint{e})[0].Err
		},
		func(w *world) bool { return w.is("", 0, "") },
	},
	"takeover": {
		func(w *world) directory.Endpoint { return w.hosts["b"].mustClaim("cache", "10.77.0.2") },
		func(w *world, e directory.Endpoint) error {
			_, err := w.hosts["a"].s.Takeover(w.Context(), e)
			return err
		},
		func(w *world) bool { return w.is("a", 2, directory.Held) },
	},
}

// is tells whether the endpoint 10.77.0.2 is that.
func (w *world) is(owner string, epoch uint64, state directory.State) bool {
	w.Helper()
	d, err := directory.Open(w.Context(), w.server.Open(), "lab", directory.Known{})
	qt.Assert(w, qt.IsNil(err))
	e, err := d.Lookup(w.Context(), "default", netip.MustParseAddr("10.77.0.2"))
	if errors.Is(err, directory.ErrNotFound) {
		return owner == ""
	}
	qt.Assert(w, qt.IsNil(err))
	return e.Owner == owner && e.Epoch == epoch && e.State == state
}

// An answer that does not come changes nothing about what happens: once, and known.
func TestAnswerLost(t *testing.T) {
	for name, op := range ops {
		for _, faults := range [][]memory.Fault{
			{memory.Lost},
			{memory.Cut},
			{memory.Late},
			{memory.Late, memory.Late, memory.Lost},
			{memory.Lost, memory.Lost, memory.Lost},
			{memory.Doubled},
			{memory.Late, memory.Doubled},
			{memory.Late, memory.Cut, memory.Cut},
			{memory.Late, memory.None, memory.Late, memory.Lost},
		} {
			t.Run(fmt.Sprint(name, faults), func(t *testing.T) {
				w := newWorld(t, "a", "b")
				e := op.prepare(w)
				a := w.hosts["a"]
				a.store.Next(faults...)
				qt.Assert(t, qt.IsNil(op.do(w, e)))
				qt.Assert(t, qt.IsTrue(op.done(w)))
				for _, err := range a.store.Deliver() {
					var conflict *directory.ConflictError
					qt.Check(t, qt.ErrorAs(err, &conflict))
				}
				qt.Assert(t, qt.IsTrue(op.done(w)))
				qt.Assert(t, qt.IsNil(op.do(w, e))) // again changes nothing
				qt.Assert(t, qt.IsTrue(op.done(w)))
			})
		}
	}
}

// If it is not known whether something happened, that is said. When the directory is back, the
// next call finds out before it does anything, and what was sent before does not happen any more.
func TestUnsure(t *testing.T) {
	for name, op := range ops {
		for _, first := range []memory.Fault{memory.Lost, memory.Late, memory.Cut} {
			t.Run(fmt.Sprint(name, first), func(t *testing.T) {
				w := newWorld(t, "a", "b")
				e := op.prepare(w)
				a := w.hosts["a"]
				a.store.Next(first, memory.Cut, memory.Cut, memory.Cut, memory.Cut, memory.Cut)
				err := op.do(w, e)
				qt.Assert(t, qt.ErrorIs(err, directory.ErrUnsure))
				qt.Assert(t, qt.ErrorIs(err, directory.ErrUnavailable))
				qt.Assert(t, qt.Equals(op.done(w), first == memory.Lost))
				// Something else is done first: from then on, nothing of before happens.
				a.mustClaim("other", "10.77.0.3")
				before := op.done(w)
				for _, err := range a.store.Deliver() {
					qt.Check(t, qt.IsNotNil(err))
				}
				qt.Assert(t, qt.Equals(op.done(w), before))
				qt.Assert(t, qt.IsNil(op.do(w, e)))
				qt.Assert(t, qt.IsTrue(op.done(w)))
			})
		}
	}
}

// A claim that comes late does not bring back what was released.
func TestLateClaim(t *testing.T) {
	w := newWorld(t, "a", "b")
	a := w.hosts["a"]
	a.store.Next(memory.Late)
	e := a.mustClaim("cache", "10.77.0.2")
	qt.Assert(t, qt.IsNil(a.s.Release(t.Context(), []directory.Endpoint{e})[0].Err))
	qt.Assert(t, qt.HasLen(a.store.Deliver(), 1))
	qt.Check(t, qt.IsTrue(w.is("", 0, "")))
}

// Nor does a claim that is delivered twice, after another host has released the endpoint.
func TestDoubledClaim(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.hosts["a"], w.hosts["b"]
	a.store.Next(memory.Doubled)
	e := a.mustClaim("cache", "10.77.0.2")
	e, err := a.s.Update(t.Context(), e, directory.Moving, "b")
	qt.Assert(t, qt.IsNil(err))
	e, err = a.s.Transfer(t.Context(), e, "b")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(b.s.Release(t.Context(), []directory.Endpoint{e})[0].Err))
	qt.Assert(t, qt.HasLen(a.store.Deliver(), 1))
	qt.Check(t, qt.IsTrue(w.is("", 0, "")))
}

// Nothing of a daemon that died happens after the next one has begun.
func TestLateOfAnEarlierDaemon(t *testing.T) {
	w := newWorld(t, "a", "b")
	a := w.hosts["a"]
	e, err := a.s.Update(t.Context(), a.mustClaim("cache", "10.77.0.2"), directory.Moving, "b")
	qt.Assert(t, qt.IsNil(err))
	a.store.Next(memory.Late, memory.Cut, memory.Cut, memory.Cut, memory.Cut, memory.Cut)
	_, err = a.s.Transfer(t.Context(), e, "b")
	qt.Assert(t, qt.ErrorIs(err, directory.ErrUnsure))
	a.begin()
	verdicts, err := a.s.Confirm(t.Context(), []directory.Endpoint{e}, "boot")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(verdicts[0].Standing, directory.Owner))
	a.store.Deliver()
	qt.Check(t, qt.IsTrue(w.is("a", 1, directory.Moving)))
}

func TestUnavailable(t *testing.T) {
	w := newWorld(t, "a")
	a := w.hosts["a"]
	e := a.mustClaim("cache", "10.77.0.2")
	a.store.Set(memory.Cut)
	_, err := a.claim("other", "10.77.0.3")
	qt.Check(t, qt.ErrorIs(err, directory.ErrUnsure)) // something was sent
	_, err = a.s.Update(t.Context(), e, directory.Held, "")
	qt.Check(t, qt.ErrorIs(err, directory.ErrUnavailable))
	qt.Check(t, qt.IsFalse(errors.Is(err, directory.ErrUnsure))) // nothing was
	_, err = a.lookup("10.77.0.3")
	qt.Check(t, qt.ErrorIs(err, directory.ErrUnavailable))
	qt.Check(t, qt.IsFalse(errors.Is(err, directory.ErrNotFound)))
	_, err = a.s.Confirm(t.Context(), []directory.Endpoint{e}, "boot")
	qt.Check(t, qt.ErrorIs(err, directory.ErrUnavailable))
	_, err = a.d.Begin(t.Context(), "a", "key-a", now)
	qt.Check(t, qt.ErrorIs(err, directory.ErrUnavailable))
	a.store.Set(memory.None)
	a.mustClaim("other", "10.77.0.3")
}

// A call has time left to find out what happened to what it sent.
func TestTimeToFindOut(t *testing.T) {
	w := newWorld(t, "a")
	a := w.hosts["a"]
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	a.store.Next(memory.Stalled)
	a.store.Set(memory.None)
	out := a.s.Claim(ctx, []directory.Endpoint{endpoint("cache", "10.77.0.2")})
	if out[0].Err != nil { // the machine stood still
		qt.Assert(t, qt.ErrorIs(out[0].Err, directory.ErrUnavailable))
	}
	a.mustClaim("cache", "10.77.0.2")
}

func TestBegin(t *testing.T) {
	w := newWorld(t, "a", "b")
	a := w.hosts["a"]
	var host *directory.HostError
	_, err := a.d.Begin(t.Context(), "none", "key", now)
	qt.Assert(t, qt.ErrorAs(err, &host))
	_, err = a.d.Begin(t.Context(), "b", "key-a", now)
	qt.Assert(t, qt.ErrorAs(err, &host))
	qt.Check(t, qt.Equals(host.Why, directory.HostOther))
	// A second machine with the same name and key: the first writes nothing any more.
	first := a.s
	a.begin()
	e := a.mustClaim("cache", "10.77.0.2")
	qt.Check(t, qt.ErrorIs(first.Claim(t.Context(), []directory.Endpoint{endpoint("x", "10.77.0.3")})[0].Err, directory.ErrDisplaced))
	_, err = first.Confirm(t.Context(), []directory.Endpoint{e}, "boot")
	qt.Check(t, qt.ErrorIs(err, directory.ErrDisplaced))
	// A session that begins although no answer comes.
	a.store.Next(memory.Lost)
	a.begin()
	a.mustClaim("x", "10.77.0.3")
	// A host that is removed writes nothing any more, and can't begin again.
	qt.Assert(t, qt.IsNil(w.hosts["b"].d.RemoveHost(t.Context(), "a")))
	_, err = a.claim("y", "10.77.0.4")
	qt.Assert(t, qt.ErrorAs(err, &host))
	qt.Check(t, qt.Equals(host.Why, directory.HostRemoved))
	_, err = a.d.Begin(t.Context(), "a", "key-a", now)
	qt.Assert(t, qt.ErrorAs(err, &host))
	qt.Check(t, qt.Equals(host.Why, directory.HostRemoved))
	// What it has can be taken over.
	_, err = w.hosts["b"].s.Takeover(t.Context(), e)
	qt.Check(t, qt.IsNil(err))
}

// Many goroutines of one host, with answers that get lost: all that was claimed is there once.
func TestManyAtOnce(t *testing.T) {
	w := newWorld(t, "a", "b")
	const many = 40
	var all sync.WaitGroup
	for name, h := range w.hosts {
		for i := range many {
			h.store.Next([]memory.Fault{memory.None, memory.Lost, memory.None, memory.Late}[i%4])
		}
		for i := range many {
			all.Go(func() {
				app := fmt.Sprintf("app-%d", i) // both hosts want it
				e := endpoint(app, fmt.Sprintf("10.77.1.%d", i+1))
				e.ID += name
				out := h.s.Claim(t.Context(), []directory.Endpoint{e})[0]
				var taken *directory.TakenError
				if out.Err != nil && !errors.As(out.Err, &taken) {
					t.Errorf("%s claims %s: %v", name, app, out.Err)
				}
				if out.Err == nil && i%2 == 0 {
					if err := h.s.Release(t.Context(), []directory.Endpoint{out.Endpoint})[0].Err; err != nil {
						t.Errorf("%s releases %s: %v", name, app, err)
					}
				}
			})
		}
	}
	all.Wait()
	for _, h := range w.hosts {
		h.mustClaim("last-"+h.name, "10.77.2."+fmt.Sprint(len(h.name)+int(h.name[0]-'a')))
		h.store.Deliver()
	}
	list, err := w.hosts["a"].d.Endpoints(t.Context())
	qt.Assert(t, qt.IsNil(err))
	found := make(map[string]bool)
	for _, e := range list {
		found[e.App] = true
		app, err := w.hosts["b"].d.LookupApp(t.Context(), e.App)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, same(app, e))
	}
	for i := 1; i < many; i += 2 {
		qt.Check(t, qt.IsTrue(found[fmt.Sprintf("app-%d", i)]), qt.Commentf("%d", i))
	}
}
