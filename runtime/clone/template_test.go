package clone

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/fault"
)

// of is a request for a template of an app.
func (b *bench) of(name string) TemplateRequest {
	rec := app.Record{Identity: app.Identity{Name: "web"}, State: app.State{Status: app.Running}}
	op := b.Events.Begin(event.CreateTemplate, event.About{Template: name, App: "web"})
	return TemplateRequest{Name: name, App: &engine.App{App: app.New(b.t.TempDir(), b.t.TempDir(), rec)}, Op: op}
}

func TestTemplateOfAnApp(t *testing.T) {
	b := open(t)
	made, out, err := b.CreateTemplate(t.Context(), b.of("t"))
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(out.Notes, []app.Note{{Text: "of the snapshot"}}))
	qt.Check(t, qt.IsTrue(made.Own))
	qt.Check(t, qt.Equals(made.Snapshot, "t"))
	found, err := b.Catalog.Get("t")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(found == made))
	qt.Check(t, qt.IsNotNil(made.Known())) // its clones need not look again
	// The snapshot goes with the template.
	qt.Assert(t, qt.IsNil(b.RemoveTemplate(t.Context(), "t")))
	_, _, err = b.Store.Find("t")
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrNotFound))
	qt.Check(t, qt.Equals(b.freed.Load(), 1))
}

// Of a template that can't be made nothing is left, and its name is free.
func TestTemplateThatCannotBeMade(t *testing.T) {
	for name, test := range map[string]struct {
		call  string
		point fault.Name
	}{
		"no snapshot":         {call: "snapshot web"},
		"before the snapshot": {point: "create-template.owned"},
		"after the snapshot":  {point: "create-template.saved"},
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t)
			ctx := t.Context()
			if test.call != "" {
				b.fake.fail(test.call, errBroken)
			} else {
				ctx = at(t, test.point)
			}
			_, _, err := b.CreateTemplate(ctx, b.of("t"))
			qt.Assert(t, qt.IsNotNil(err))
			qt.Check(t, qt.HasLen(b.Catalog.List(), 0))
			names, err := b.Store.Names()
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.HasLen(names, 0))
			qt.Check(t, qt.Equals(b.freed.Load(), 1))
			b.fake.fail(test.call, nil)
			_, _, err = b.CreateTemplate(t.Context(), b.of("t"))
			qt.Check(t, qt.IsNil(err))
		})
	}
	b := open(t)
	_, _, err := b.CreateTemplate(at(t, "create-template.recorded"), b.of("late"))
	qt.Check(t, qt.IsNil(err)) // too late
	qt.Check(t, qt.HasLen(b.Catalog.List(), 1))
	_, _, err = b.CreateTemplate(t.Context(), TemplateRequest{Name: "t", Snapshot: "none", Op: b.Events.Begin(event.CreateTemplate, event.About{})})
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrNotFound))
	_, _, err = b.CreateTemplate(t.Context(), TemplateRequest{Name: "t", Rules: "nonsense: 1"})
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrInvalidArgument))
}

func TestRemoveTemplate(t *testing.T) {
	b := open(t)
	web := b.template("web", "")
	qt.Assert(t, qt.IsNil(b.clones(t.Context(), web, Request{Count: 2})))
	qt.Assert(t, qt.IsNil(b.fill(web, 1)))
	qt.Check(t, qt.ErrorMatches(b.RemoveTemplate(t.Context(), "web"), "template web has clones: web-1, web-2; remove them first"))
	qt.Check(t, qt.Equals(b.CountReady(web), 1))
	for _, name := range b.Of("web") {
		a, err := b.Apps.Get(name)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsNil(b.fake.Expunge(t.Context(), a)))
	}
	qt.Assert(t, qt.IsNil(b.RemoveTemplate(t.Context(), "web")))
	qt.Check(t, qt.HasLen(b.left(), 0)) // what stood ready neither
	_, _, err := b.Store.Find("web-saved")
	qt.Check(t, qt.IsNil(err)) // somebody else's
	qt.Check(t, qt.ErrorIs(b.RemoveTemplate(t.Context(), "web"), errdefs.ErrNotFound))
}
