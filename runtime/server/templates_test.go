package server

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/birth"
	"github.com/snapctl/snapctl/runtime/catalog"
	"github.com/snapctl/snapctl/runtime/client"
	"github.com/snapctl/snapctl/runtime/clone"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/template"
)

// fakeTemplates has templates, and does with them what a test says.
type fakeTemplates struct {
	all    map[string]*catalog.Template
	size   int   // of each pool
	failed error // why no clone stands ready
	busy   int   // requests for clones that are under way
	asked  clone.Request
	create func(req clone.TemplateRequest) (*catalog.Template, *engine.Outcome, error)
	make   func(req clone.Request) error
	free   func() // gives back the names of clones
}

var (
	_ Templates = (*fakeTemplates)(nil)
	_ Clones    = (*fakeTemplates)(nil)
	_ Pools     = (*fakeTemplates)(nil)
)

func (f *fakeTemplates) Get(name string) (*catalog.Template, error) {
	if t := f.all[name]; t != nil {
		return t, nil
	}
	return nil, fmt.Errorf("template %s: %w", name, errdefs.ErrNotFound)
}

func (f *fakeTemplates) List() (all []*catalog.Template) {
	for _, t := range f.all {
		all = append(all, t)
	}
	return all
}

func (f *fakeTemplates) Ready(*catalog.Template) int { return f.size }

func (f *fakeTemplates) CreateTemplate(_ context.Context, req clone.TemplateRequest) (*catalog.Template, *engine.Outcome, error) {
	return f.create(req)
}

func (f *fakeTemplates) RemoveTemplate(_ context.Context, name string) error {
	if _, err := f.Get(name); err != nil {
		return err
	}
	delete(f.all, name)
	return nil
}

func (f *fakeTemplates) Of(template string) []string { return []string{template + "-1"} }

func (f *fakeTemplates) NextNumber(*catalog.Template) int { return 4 }

func (f *fakeTemplates) ChooseNames(t *catalog.Template, r *clone.Request) (free func(), err error) {
	if r.Names == nil {
		for i := range r.Count {
			r.Names = append(r.Names, fmt.Sprintf("%s-%d", t.Name, i+1))
		}
	}
	return f.free, nil
}

func (f *fakeTemplates) Make(_ context.Context, _ *catalog.Template, req clone.Request) error {
	f.asked = req
	return f.make(req)
}

func (f *fakeTemplates) BeginRequest() (end func()) {
	f.busy++
	return func() { f.busy-- }
}

func (f *fakeTemplates) SetPool(_ context.Context, _ *catalog.Template, size int) error {
	f.size = size
	return nil
}

func (f *fakeTemplates) CountReady(*catalog.Template) int { return 2 }

func (f *fakeTemplates) Failed(*catalog.Template) error { return f.failed }

// web adds a template "web" of snapshot "s", which is not there.
func (w *world) web(t *testing.T, rules string) {
	t.Helper()
	parsed, err := template.Parse([]byte(rules))
	qt.Assert(t, qt.IsNil(err))
	w.templates.all = map[string]*catalog.Template{"web": {Name: "web", Snapshot: "s", RulesText: rules, Rules: parsed}}
	w.templates.free = func() {}
}

func TestCreationOfATemplate(t *testing.T) {
	w := begin(t)
	w.web(t, "hostname: keep\n")
	w.add(t, "cache", app.Running)
	w.templates.create = func(req clone.TemplateRequest) (*catalog.Template, *engine.Outcome, error) {
		if req.App == nil && req.Snapshot != "s" || req.App != nil && req.App.Name() != "cache" || req.Rules != "hostname: keep\n" {
			return nil, nil, errors.New("not as asked for")
		}
		req.Op.Step("save")
		return w.templates.all["web"], &engine.Outcome{}, nil
	}
	for _, req := range []*api.CreateTemplateRequest{{App: "cache"}, {Snapshot: "s"}} {
		req.Name, req.RulesYaml = "web", "hostname: keep\n"
		res, err := w.CreateTemplate(t.Context(), req, nil)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(res.GetTemplate().GetName(), "web"))
	}
	for _, req := range []*api.CreateTemplateRequest{{Name: "web"}, {Name: "web", App: "cache", Snapshot: "s"}} {
		_, err := w.CreateTemplate(t.Context(), req, nil)
		qt.Check(t, qt.ErrorIs(err, errdefs.ErrInvalidArgument))
		qt.Check(t, qt.ErrorMatches(err, ".*a template is made of an app or of a snapshot"))
	}
	_, err := w.CreateTemplate(t.Context(), &api.CreateTemplateRequest{Name: "web", App: "nobody"}, nil)
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrNotFound))
}

// TestTemplateIsShown proves that a template whose snapshot can't be read is shown all the same.
func TestTemplateIsShown(t *testing.T) {
	w := begin(t)
	w.web(t, "parameters:\n  zone: {default: north}\n  color: {required: true, pattern: '[a-z]+'}\n")
	w.templates.size, w.templates.failed = 3, errors.New("no room")
	w.obstacles.of = map[string]error{"s": errors.New("gone")}
	shown, err := w.ShowTemplate(t.Context(), "web")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(shown.GetPoolSize(), 3))
	qt.Check(t, qt.Equals(shown.GetPoolReady(), 2))
	qt.Check(t, qt.Equals(shown.GetPoolError(), "no room"))
	qt.Check(t, qt.DeepEquals(shown.GetClones(), []string{"web-1"}))
	qt.Check(t, qt.HasLen(shown.GetWouldNotStart(), 1))
	qt.Check(t, qt.Equals(shown.GetApp(), ""))
	p := shown.GetParameters()
	qt.Assert(t, qt.HasLen(p, 2))
	qt.Check(t, qt.Equals(p[0].GetKey(), "color")) // in order
	qt.Check(t, qt.IsTrue(p[0].GetRequired()))
	qt.Check(t, qt.Equals(p[1].GetDefaultText(), "north"))

	w.save(t, "s", "cache")
	all, err := w.ListTemplates(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(all, 1))
	qt.Check(t, qt.Equals(all[0].GetApp(), "cache"))
	qt.Check(t, qt.Equals(all[0].GetInsideEndpoint(), "10.77.0.9"))
	qt.Check(t, qt.HasLen(all[0].GetWouldNotStart(), 1))

	qt.Check(t, qt.IsNil(w.RemoveTemplate(t.Context(), "web")))
	qt.Check(t, qt.ErrorIs(w.RemoveTemplate(t.Context(), "web"), errdefs.ErrNotFound))
	_, err = w.ShowTemplate(t.Context(), "web")
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrNotFound))
}

func TestSizesOfAPool(t *testing.T) {
	w := begin(t)
	w.web(t, "hostname: keep\n")
	for _, size := range []int32{0, 1000} {
		shown, err := w.SetPool(t.Context(), &api.SetPoolRequest{Template: "web", Size: size})
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(shown.GetPoolSize(), size))
	}
	for _, size := range []int32{-1, 1001} {
		_, err := w.SetPool(t.Context(), &api.SetPoolRequest{Template: "web", Size: size})
		qt.Check(t, qt.ErrorIs(err, errdefs.ErrInvalidArgument))
	}
	qt.Check(t, qt.Equals(w.templates.size, 1000)) // as before
	_, err := w.SetPool(t.Context(), &api.SetPoolRequest{Template: "none"})
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrNotFound))
}

// TestClones proves what a client is told of each clone: its steps, and what became of it.
func TestClones(t *testing.T) {
	w := begin(t)
	w.web(t, "hostname: keep\n")
	w.templates.make = func(req clone.Request) error {
		for i, name := range req.Names {
			op := w.events.Begin(event.Clone, event.About{App: name, Within: req.Op})
			op.Step("restore")
			out := clone.Outcome{Name: name, Pooled: i == 0}
			var err error
			switch i {
			case 0:
				out.App = w.make(t, app.Record{Identity: app.Identity{Name: name}, State: app.State{Status: app.Running}})
			case 1:
				err = fmt.Errorf("app %s: %w", name, errdefs.ErrAlreadyExists)
			case 2:
				err = app.ErrBusy
			default:
				err = context.Canceled // since another one has failed
			}
			out.Ended = op.End(err)
			req.Done(out)
		}
		return nil
	}
	freed := false
	w.templates.free = func() { freed = true }
	results := make(map[string]*api.CloneResult)
	var steps []string
	summary, err := w.Clone(t.Context(), &api.CloneRequest{
		Template: "web", Count: 4, KeepGoing: true, Pool: api.PoolUse_POOL_USE_ONLY, Storage: api.Storage_STORAGE_PRIVATE,
		Endpoints: []string{"10.77.0.1", "10.77.0.2", "10.77.0.3", "10.77.0.4"}, Set: map[string]string{"zone": "south"},
	}, client.CloneWatch{
		Progress: func(p *api.CloneProgress) { steps = append(steps, p.GetName()+" "+p.GetStep()) },
		Result:   func(r *api.CloneResult) { results[r.GetName()] = r },
	})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(summary.GetMade(), 1))
	qt.Check(t, qt.Equals(summary.GetFailed(), 3))
	qt.Check(t, qt.DeepEquals(steps, []string{"web-1 restore", "web-2 restore", "web-3 restore", "web-4 restore"}))
	qt.Assert(t, qt.HasLen(results, 3)) // that one was given up is not told: it was not its own fault
	qt.Check(t, qt.IsTrue(results["web-1"].GetFromPool()))
	qt.Check(t, qt.Equals(results["web-1"].GetApp().GetName(), "web-1"))
	qt.Check(t, qt.IsNil(client.CloneError(results["web-1"])))
	qt.Check(t, qt.ErrorIs(client.CloneError(results["web-2"]), errdefs.ErrAlreadyExists))
	qt.Check(t, qt.HasLen(client.Hints(client.CloneError(results["web-3"])), 1))

	asked := w.templates.asked
	qt.Check(t, qt.Equals(asked.Pool, clone.OnlyPool))
	qt.Check(t, qt.Equals(asked.Files, birth.PrivateFiles))
	qt.Check(t, qt.IsTrue(asked.KeepGoing))
	qt.Check(t, qt.DeepEquals(asked.Set, map[string]string{"zone": "south"}))
	qt.Assert(t, qt.HasLen(asked.Endpoints, 4))
	qt.Check(t, qt.Equals(asked.Endpoints[3], netip.MustParseAddr("10.77.0.4")))
	qt.Check(t, qt.IsTrue(freed))
	qt.Check(t, qt.Equals(w.templates.busy, 0))
}

// TestClonesThatAreRefused proves that nothing is begun, and that pools are filled again.
func TestClonesThatAreRefused(t *testing.T) {
	w := begin(t)
	w.web(t, "hostname: keep\n")
	w.templates.make = func(clone.Request) error { return errors.New("no room") }
	for _, test := range []struct {
		req  *api.CloneRequest
		is   error
		text string
	}{
		{&api.CloneRequest{Template: "none"}, errdefs.ErrNotFound, "template none: not found"},
		{&api.CloneRequest{Template: "web", Wake: &api.WakePolicy{MinBytes: -1}}, errdefs.ErrInvalidArgument, ".*"},
		{&api.CloneRequest{Template: "web", Endpoints: []string{"home"}}, errdefs.ErrInvalidArgument, `.*endpoint "home": want an IPv4 address.*`},
		{&api.CloneRequest{Template: "web", Endpoints: []string{"10.77.0.1", "10.77.0.1"}}, errdefs.ErrInvalidArgument, ".*endpoint 10.77.0.1 twice"},
		{&api.CloneRequest{Template: "web", Count: 2, Names: []string{"a"}}, errdefs.ErrInvalidArgument, ".*1 names for 2 clones"},
		{&api.CloneRequest{Template: "web"}, errdefs.ErrUnknown, "no room"},
	} {
		_, err := w.Clone(t.Context(), test.req, client.CloneWatch{})
		qt.Check(t, qt.ErrorIs(err, test.is), qt.Commentf("%v", test.req))
		qt.Check(t, qt.ErrorMatches(err, test.text))
	}
	qt.Check(t, qt.Equals(w.templates.busy, 0))
	begun := w.events.Recent(event.Filter{Types: []event.Type{event.Begun}})
	qt.Check(t, qt.HasLen(begun, 1)) // the last one
}
