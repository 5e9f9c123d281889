package clone

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/birth"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/fault"
)

var errBroken = errors.New("broken")

// at is a context in which there is an error at a point.
func at(t *testing.T, point fault.Name) context.Context {
	t.Helper()
	plan, err := fault.Parse(string(point) + "=error")
	qt.Assert(t, qt.IsNil(err))
	return fault.With(t.Context(), plan)
}

func TestMake(t *testing.T) {
	b := open(t)
	web := b.template("web", "memory: copied\n")
	b.fake.during = func(a *engine.App) {
		rec, _ := a.Read()
		qt.Check(t, qt.IsTrue(b.Unfinished(rec)))
	}
	pages := restore.Map
	qt.Assert(t, qt.IsNil(b.clones(t.Context(), web, Request{Count: 3, Policy: app.PolicyChange{Pages: &pages}, Files: birth.PrivateFiles})))
	qt.Check(t, qt.DeepEquals(b.left(), []string{"web-1 running", "web-2 running", "web-3 running"}))
	qt.Check(t, qt.DeepEquals(b.Of("web"), []string{"web-1", "web-2", "web-3"}))
	qt.Check(t, qt.DeepEquals(b.fake.asked("enroll"), []string{"enroll web-1", "enroll web-2", "enroll web-3"})) // in the order of numbers
	qt.Check(t, qt.HasLen(b.unfinished(), 0))
	generations := make(map[string]bool)
	for i, a := range b.Apps.List() {
		rec, op := a.Read()
		qt.Check(t, qt.Equals(op, "")) // its turn is free
		qt.Check(t, qt.IsFalse(b.Unfinished(rec)))
		qt.Check(t, qt.Equals(rec.RestoredFrom, "web-saved"))
		qt.Check(t, qt.Equals(rec.Template, "web"))
		qt.Check(t, qt.Equals(rec.Number, i+1))
		qt.Check(t, qt.Equals(rec.RestoreMemory, restore.Map)) // the request's, not the rules'
		generations[rec.Generation] = true
		qt.Check(t, qt.Equals(b.fake.births[i].Files, birth.PrivateFiles))
		qt.Check(t, qt.Equals(b.fake.births[i].Pages, restore.Map))
		out := b.outcomes[a.Name()]
		qt.Check(t, qt.IsTrue(out.App == a && !out.Pooled))
		qt.Check(t, qt.Equals(out.Ended.Kind, event.Clone))
	}
	qt.Check(t, qt.HasLen(generations, 3))

	// One is not a group, and has the address that was asked for.
	b.fake.during = nil
	asked := netip.MustParseAddr("10.77.0.100")
	qt.Assert(t, qt.IsNil(b.clones(t.Context(), web, Request{Count: 1, Endpoints: []netip.Addr{asked}})))
	a, err := b.Apps.Get("web-4")
	qt.Assert(t, qt.IsNil(err))
	rec, _ := a.Read()
	qt.Check(t, qt.Equals(rec.Addr4, asked))
	qt.Check(t, qt.Equals(rec.Batch, ""))
	qt.Check(t, qt.Equals(rec.RestoreMemory, restore.Copy)) // the rules'
}

// All clones are made, or none is left.
func TestAllOrNone(t *testing.T) {
	for name, test := range map[string]struct {
		call  string // that fails
		point fault.Name
	}{
		"one can't be enrolled":   {call: "enroll web-2"},
		"one can't be made":       {call: "instantiate web-2"},
		"one has an error before": {point: "clone.begun"},
		"one has an error after":  {point: "clone-request.recorded"},
		"the request can't end":   {point: "clone-request.complete"},
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t)
			web := b.template("web", "")
			ctx, want := t.Context(), errBroken
			if test.call != "" {
				b.fake.fail(test.call, errBroken)
			} else {
				ctx, want = at(t, test.point), fault.ErrInjected
			}
			qt.Assert(t, qt.ErrorIs(b.clones(ctx, web, Request{Count: 3}), want))
			qt.Check(t, qt.HasLen(b.left(), 0))
			qt.Check(t, qt.HasLen(b.unfinished(), 0))
			qt.Check(t, qt.HasLen(b.outcomes, 3))
			qt.Check(t, qt.IsNil(b.RemoveTemplate(t.Context(), "web"))) // nobody uses it
		})
	}
}

// A request that ends before its clones are there says so, whatever its clones say.
func TestInterrupted(t *testing.T) {
	b := open(t)
	web := b.template("web", "")
	ctx, cancel := context.WithCancel(t.Context())
	b.fake.during = func(*engine.App) { cancel() }
	b.fake.fail("instantiate", errBroken)
	err := b.clones(ctx, web, Request{Count: 2})
	qt.Check(t, qt.ErrorIs(err, context.Canceled))
	qt.Check(t, qt.ErrorIs(err, errBroken))
	qt.Check(t, qt.HasLen(b.left(), 0))
}

func TestKeepGoing(t *testing.T) {
	b := open(t)
	web := b.template("web", "")
	b.fake.fail("instantiate web-2", errBroken)
	b.fake.during = func(a *engine.App) {
		rec, _ := a.Read()
		qt.Check(t, qt.Equals(rec.Batch, ""))
	}
	qt.Assert(t, qt.IsNil(b.clones(t.Context(), web, Request{Count: 3, KeepGoing: true})))
	qt.Check(t, qt.DeepEquals(b.left(), []string{"web-1 running", "web-3 running"}))
	qt.Check(t, qt.ErrorIs(b.outcomes["web-2"].Ended.Err, errBroken))
	qt.Check(t, qt.IsNil(b.outcomes["web-3"].Ended.Err))
}

// What the rules want and can't have fails before the clone runs.
func TestRulesOfAClone(t *testing.T) {
	b := open(t)
	web := b.template("web", "parameters:\n  color: {required: true}\n")
	err := b.clones(t.Context(), web, Request{Count: 1})
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrInvalidArgument))
	qt.Check(t, qt.ErrorMatches(err, `(?s)rules of template web: .*color.*`))
	qt.Check(t, qt.HasLen(b.left(), 0))
	qt.Check(t, qt.Equals(b.fake.running.Load(), 0))
	qt.Check(t, qt.IsNil(b.clones(t.Context(), web, Request{Count: 1, Set: map[string]string{"color": "red"}})))
}

// What can't be undone is left to the next daemon.
func TestRecover(t *testing.T) {
	b := open(t)
	web := b.template("web", "")
	b.fake.fail("expunge web-1", errBroken)
	qt.Assert(t, qt.ErrorIs(b.clones(at(t, "clone-request.complete"), web, Request{Count: 2}), errBroken))
	qt.Check(t, qt.DeepEquals(b.left(), []string{"web-1 running"}))
	qt.Assert(t, qt.HasLen(b.unfinished(), 1))

	again, err := New(b.Rooms, b.state, b.log)
	qt.Assert(t, qt.IsNil(err))
	a := b.Apps.List()[0]
	rec, _ := a.Read()
	qt.Check(t, qt.IsTrue(again.Unfinished(rec)))
	qt.Assert(t, qt.IsNil(again.Recover()))
	qt.Assert(t, qt.HasLen(b.unfinished(), 1)) // something is left of it
	b.Apps.Remove(a)
	qt.Assert(t, qt.IsNil(again.Recover()))
	qt.Check(t, qt.HasLen(b.unfinished(), 0))
	qt.Check(t, qt.IsFalse(again.Unfinished(rec)))

	// A record may say anything.
	qt.Check(t, qt.IsFalse(again.Unfinished(app.Record{Origin: app.Origin{Batch: "../apps"}})))
	qt.Check(t, qt.IsFalse(again.Unfinished(app.Record{})))
}
