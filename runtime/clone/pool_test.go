package clone

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/birth"
	"github.com/snapctl/snapctl/runtime/catalog"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/runtime/journal"
)

// fill brings the pool of a template to its new size.
func (b *bench) fill(t *catalog.Template, size int) error {
	b.t.Helper()
	qt.Assert(b.t, qt.IsNil(b.Catalog.SetReady(b.t.Context(), t, size)))
	return poolKeeper{b.Clones}.keepPool(b.t.Context(), t)
}

// soon tells whether the pools are to be filled again, and forgets it.
func (b *bench) soon() bool {
	select {
	case <-b.pools.fill:
		return true
	default:
		return false
	}
}

// end ends an app that stands ready, as its program does.
func end(t *testing.T, a *engine.App) {
	t.Helper()
	qt.Assert(t, qt.IsNil(a.Mark(journal.Mark{Ends: string(app.Stopped)})))
}

func TestKeepPool(t *testing.T) {
	b := open(t)
	web, other := b.template("web", "memory: copied\n"), b.template("other", "")
	qt.Assert(t, qt.IsNil(b.fill(web, 3)))
	qt.Assert(t, qt.IsNil(b.fill(other, 1)))
	qt.Check(t, qt.Equals(b.CountReady(web), 3))
	qt.Check(t, qt.Equals(b.CountReady(other), 1))
	first := b.standing(web)[0]
	rec, op := first.Read()
	qt.Check(t, qt.Equals(op, ""))
	qt.Check(t, qt.Equals(rec.Pool, "web"))
	qt.Check(t, qt.Equals(rec.RestoredFrom, "web-saved"))
	qt.Check(t, qt.Equals(rec.RestoreMemory, restore.Copy))
	_, err := b.Apps.Get(rec.Name)
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrInvalidArgument)) // nobody can name it
	qt.Check(t, qt.HasLen(b.Of("web"), 0))                   // it is no clone yet

	// One that has ended is replaced. One that somebody has can't be had at once.
	end(t, b.standing(web)[1])
	qt.Check(t, qt.Equals(b.CountReady(web), 2))
	qt.Assert(t, qt.IsNil(b.fill(web, 3)))
	release, ok := first.TryTake("exec")
	qt.Assert(t, qt.IsTrue(ok))
	qt.Check(t, qt.Equals(b.CountReady(web), 2))
	release()
	qt.Check(t, qt.Equals(b.CountReady(web), 3))

	// Those above the size are removed, the newest first.
	qt.Assert(t, qt.IsNil(b.fill(web, 1)))
	qt.Assert(t, qt.HasLen(b.standing(web), 1))
	qt.Check(t, qt.IsTrue(b.standing(web)[0] == first))
	qt.Check(t, qt.HasLen(b.Apps.List(), 2))
}

// What the engine has removed, for its address, stands ready no more.
func TestPoolWithoutWhatTheEngineRemoved(t *testing.T) {
	b := open(t)
	web := b.template("web", "")
	qt.Assert(t, qt.IsNil(b.fill(web, 1)))
	a := b.standing(web)[0]
	release, ok := a.TryTake("rm")
	qt.Assert(t, qt.IsTrue(ok))
	qt.Assert(t, qt.IsNil(b.fake.Expunge(t.Context(), a)))
	// Its turn is still taken: nobody waits for it.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	qt.Assert(t, qt.IsNil(poolKeeper{b.Clones}.keepPool(ctx, web)))
	release()
	qt.Check(t, qt.Equals(b.CountReady(web), 1))
	qt.Check(t, qt.HasLen(b.ready, 1))
}

func TestPoolThatCannotBeFilled(t *testing.T) {
	b := open(t)
	web := b.template("web", "")
	b.fake.fail("enroll", errBroken)
	qt.Assert(t, qt.ErrorIs(b.fill(web, 2), errBroken))
	b.fake.fail("enroll", nil)
	b.fake.fail("ready", errBroken)
	qt.Assert(t, qt.ErrorIs(b.fill(web, 2), errBroken))
	qt.Check(t, qt.HasLen(b.left(), 0))
	qt.Check(t, qt.HasLen(b.ready, 0))
	events := b.Events.Recent(event.Filter{Types: []event.Type{event.Ended}, Kinds: []event.Kind{event.FillPool}})
	qt.Assert(t, qt.HasLen(events, 2))
	qt.Check(t, qt.ErrorIs(events[1].Err, errBroken))

	// What is left of one that failed is removed the next time.
	b.fake.fail("expunge", errBroken)
	qt.Assert(t, qt.ErrorIs(b.fill(web, 1), errBroken))
	qt.Check(t, qt.HasLen(b.Apps.List(), 1))
	b.fake.fail("expunge", nil)
	b.fake.fail("ready", nil)
	qt.Assert(t, qt.IsNil(b.fill(web, 1)))
	qt.Check(t, qt.HasLen(b.Apps.List(), 1))
	qt.Check(t, qt.Equals(b.CountReady(web), 1))
}

// A template may go while a clone is made for its pool.
func TestPoolOfATemplateThatGoes(t *testing.T) {
	b := open(t)
	web := b.template("web", "")
	qt.Assert(t, qt.IsNil(b.Catalog.SetReady(t.Context(), web, 1)))
	qt.Assert(t, qt.IsNil(b.Catalog.Remove(t.Context(), web, func() []string { return nil })))
	qt.Check(t, qt.ErrorIs(b.makeReady(t.Context(), web), errdefs.ErrNotFound))
	qt.Check(t, qt.HasLen(b.left(), 0))
	qt.Check(t, qt.DeepEquals(b.fake.asked("ready"), []string{}))
}

func TestDropStrays(t *testing.T) {
	b := open(t)
	keeper := poolKeeper{b.Clones}
	web, gone := b.template("web", ""), b.template("gone", "")
	qt.Assert(t, qt.IsNil(b.fill(web, 1)))
	qt.Assert(t, qt.IsNil(b.fill(gone, 1)))
	b.fake.fail("drop", errBroken)
	qt.Assert(t, qt.ErrorIs(b.RemoveTemplate(t.Context(), "gone"), errBroken))
	qt.Check(t, qt.IsTrue(b.soon())) // it is done again
	// What an earlier daemon left is not removed by mistake if it is of a template of this name.
	earlier := app.Record{Identity: app.Identity{Name: "_pool-old"}, Origin: app.Origin{Pool: "web"}, State: app.State{Status: app.Pooled}}
	b.Apps.Add(&engine.App{App: app.New(t.TempDir(), t.TempDir(), earlier)})
	// One of the same name is another template.
	again := b.template("gone", "")
	qt.Check(t, qt.HasLen(b.standing(again), 0))

	qt.Assert(t, qt.ErrorIs(keeper.dropStrays(t.Context()), errBroken))
	b.fake.fail("drop", nil)
	qt.Assert(t, qt.IsNil(keeper.dropStrays(t.Context())))
	qt.Assert(t, qt.HasLen(b.Apps.List(), 1))
	qt.Check(t, qt.IsTrue(b.Apps.List()[0] == b.standing(web)[0]))
	qt.Check(t, qt.HasLen(b.ready, 1))
}

func TestSetPool(t *testing.T) {
	b := open(t)
	web := b.template("web", "")
	qt.Check(t, qt.ErrorMatches(b.SetPool(t.Context(), web, 1), "template web has no processes that could stand ready: .*"))
	qt.Check(t, qt.IsFalse(b.soon()))
	qt.Assert(t, qt.IsNil(b.SetPool(t.Context(), web, 0)))
	qt.Check(t, qt.IsTrue(b.soon()))
}

func TestKeepPools(t *testing.T) {
	b := open(t)
	web := b.template("web", "")
	qt.Assert(t, qt.IsNil(b.Catalog.SetReady(t.Context(), web, 2)))
	ctx, cancel := context.WithCancel(t.Context())
	made := make(chan string, 10)
	b.fake.during = func(a *engine.App) { made <- a.Name() }
	done := make(chan struct{})
	go func() { defer close(done); b.KeepPools(ctx) }()
	<-made
	<-made
	cancel()
	<-done
	qt.Check(t, qt.Equals(b.CountReady(web), 2))
}

func TestHandOut(t *testing.T) {
	b := open(t)
	web := b.template("web", "")
	qt.Assert(t, qt.IsNil(b.fill(web, 2)))
	first := b.standing(web)[0]
	b.fake.asked()
	qt.Assert(t, qt.IsNil(b.clones(t.Context(), web, Request{Count: 3})))
	qt.Check(t, qt.DeepEquals(b.left(), []string{"web-1 running", "web-2 running", "web-3 running"}))
	qt.Check(t, qt.HasLen(b.fake.asked("instantiate"), 1))   // the pool had two
	qt.Check(t, qt.IsTrue(b.outcomes["web-1"].App == first)) // the oldest first
	for name, pooled := range map[string]bool{"web-1": true, "web-2": true, "web-3": false} {
		out := b.outcomes[name]
		qt.Check(t, qt.Equals(out.Pooled, pooled))
		qt.Check(t, qt.Equals(out.Ended.Kind == event.HandOut, pooled))
	}
	rec, _ := first.Read()
	qt.Check(t, qt.Equals(rec.Template, "web"))
	qt.Check(t, qt.Equals(rec.Number, 1))
	qt.Check(t, qt.Not(qt.Equals(rec.Generation, "")))
	qt.Check(t, qt.Equals(b.CountReady(web), 0))
	qt.Check(t, qt.IsTrue(b.soon()))
	// Its record is written for good when nobody waits.
	qt.Check(t, qt.HasLen(b.handed, 2))
	qt.Check(t, qt.IsTrue(b.record()))
	qt.Check(t, qt.HasLen(glob(t, first.Dir(), app.RecordFile), 1))
}

func TestWhoGetsAReadyClone(t *testing.T) {
	mapped := restore.Map
	addr := []netip.Addr{netip.MustParseAddr("10.77.0.100")}
	for name, test := range map[string]struct {
		req    Request
		pooled bool
		err    string
	}{
		"anybody":                   {Request{}, true, ""},
		"who wants only one":        {Request{Pool: OnlyPool}, true, ""},
		"who wants none":            {Request{Pool: NeverPool}, false, ""},
		"who wants an address":      {Request{Endpoints: addr}, false, ""},
		"who wants files":           {Request{Files: birth.PrivateFiles}, false, ""},
		"who wants both":            {Request{Files: birth.PrivateFiles, Pool: OnlyPool}, false, "invalid argument: clones of the pool have endpoints .*"},
		"who wants other memory":    {Request{Policy: app.PolicyChange{Pages: &mapped}}, false, ""},
		"who wants it all the same": {Request{Policy: app.PolicyChange{Pages: &mapped}, Pool: OnlyPool}, false, "template web: no clone stands ready with its memory mapped"},
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t)
			web := b.template("web", "memory: copied\n")
			qt.Assert(t, qt.IsNil(b.fill(web, 1)))
			test.req.Count = 1
			err := b.clones(t.Context(), web, test.req)
			if test.err != "" {
				qt.Assert(t, qt.ErrorMatches(err, test.err))
			} else {
				qt.Assert(t, qt.IsNil(err))
			}
			qt.Check(t, qt.Equals(b.outcomes["web-1"].Pooled, test.pooled))
			qt.Check(t, qt.Equals(b.CountReady(web) == 0, test.pooled))
		})
	}
}

func TestNoneReady(t *testing.T) {
	b := open(t)
	web := b.template("web", "")
	qt.Assert(t, qt.IsNil(b.fill(web, 2)))
	// One has ended, and somebody has the other one.
	end(t, b.standing(web)[0])
	release, ok := b.standing(web)[1].TryTake("rm")
	qt.Assert(t, qt.IsTrue(ok))
	err := b.clones(t.Context(), web, Request{Count: 1, Pool: OnlyPool})
	qt.Check(t, qt.ErrorIs(err, ErrNoneReady))
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrFailedPrecondition))
	release()
	qt.Check(t, qt.IsNil(b.clones(t.Context(), web, Request{Count: 1, Pool: OnlyPool})))
}

// Of a clone that can't be handed out nothing is left.
func TestHandOutThatFails(t *testing.T) {
	for name, test := range map[string]struct {
		call  string
		point fault.Name
	}{
		"before":    {point: "hand-out.begun"},
		"meanwhile": {call: "hand-out web-1"},
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t)
			web := b.template("web", "")
			qt.Assert(t, qt.IsNil(b.fill(web, 1)))
			ctx := t.Context()
			if test.call != "" {
				b.fake.fail(test.call, errBroken)
			} else {
				ctx = at(t, test.point)
			}
			qt.Assert(t, qt.IsNotNil(b.clones(ctx, web, Request{Count: 1})))
			qt.Check(t, qt.HasLen(b.left(), 0))
			qt.Check(t, qt.HasLen(b.ready, 0))
			qt.Check(t, qt.IsTrue(b.soon()))
			qt.Check(t, qt.IsTrue(b.record())) // what is gone need not be recorded
		})
	}
	t.Run("too late", func(t *testing.T) {
		b := open(t)
		web := b.template("web", "")
		qt.Assert(t, qt.IsNil(b.fill(web, 1)))
		qt.Assert(t, qt.IsNil(b.clones(at(t, "hand-out.recorded"), web, Request{Count: 1})))
		qt.Check(t, qt.DeepEquals(b.left(), []string{"web-1 running"}))
	})
	t.Run("at once", func(t *testing.T) {
		b := open(t)
		web := b.template("web", "")
		qt.Assert(t, qt.IsNil(b.fill(web, 1)))
		b.fake.fail("take", errBroken)
		qt.Assert(t, qt.ErrorIs(b.clones(t.Context(), web, Request{Count: 1}), errBroken))
		qt.Check(t, qt.Equals(b.CountReady(web), 1)) // it still is
	})
}
