package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
	"github.com/snapctl/snapctl/template"
)

// template makes a template of a running app.
func (w *World) template(name, app, rules string) {
	w.t.Helper()
	_, err := w.API.CreateTemplate(w.t.Context(), &api.CreateTemplateRequest{Name: name, App: app, RulesYaml: rules}, nil)
	qt.Assert(w.t, qt.IsNil(err))
}

// clones makes clones, all of which must come to be, in the order of their names
// in the request.
func (w *World) clones(req *api.CloneRequest) []*api.CloneResult {
	w.t.Helper()
	made, err := w.tryClones(req)
	qt.Assert(w.t, qt.IsNil(err))
	for _, r := range made {
		qt.Assert(w.t, qt.IsNil(client.CloneError(r)))
		qt.Assert(w.t, qt.Equals(r.GetApp().GetStatus(), api.Status_STATUS_RUNNING))
	}
	return made
}

// tryClones makes clones and returns what became of each, by number and then by name.
func (w *World) tryClones(req *api.CloneRequest) ([]*api.CloneResult, error) {
	w.t.Helper()
	var all []*api.CloneResult
	_, err := w.API.Clone(w.t.Context(), req, client.CloneWatch{Result: func(r *api.CloneResult) { all = append(all, r) }})
	slices.SortFunc(all, func(a, b *api.CloneResult) int {
		if n := int(a.GetApp().GetNumber() - b.GetApp().GetNumber()); n != 0 {
			return n
		}
		return strings.Compare(a.GetName(), b.GetName())
	})
	return all, err
}

// clone makes one clone and returns its app.
func (w *World) clone(tmpl, name string, set map[string]string) *api.App {
	w.t.Helper()
	return w.clones(&api.CloneRequest{Template: tmpl, Names: []string{name}, Set: set})[0].GetApp()
}

// pool sets the size of a template's pool and waits until it is that.
func (w *World) pool(tmpl string, size int32) {
	w.t.Helper()
	_, err := w.API.SetPool(w.t.Context(), &api.SetPoolRequest{Template: tmpl, Size: size})
	qt.Assert(w.t, qt.IsNil(err))
	w.pooled(tmpl, size)
}

// pooled waits until as many clones stand ready as should.
func (w *World) pooled(tmpl string, want int32) {
	w.t.Helper()
	w.Until("the pool is filled", func() error {
		t, err := w.API.ShowTemplate(w.t.Context(), tmpl)
		if err != nil {
			return err
		}
		if t.GetPoolReady() != want {
			return fmt.Errorf("%d stand ready, want %d: %s", t.GetPoolReady(), want, t.GetPoolError())
		}
		return nil
	})
}

// names lists the apps.
func (w *World) names() []string {
	w.t.Helper()
	apps, err := w.API.List(w.t.Context())
	qt.Assert(w.t, qt.IsNil(err))
	names := make([]string, 0, len(apps))
	for _, a := range apps {
		names = append(names, a.GetName())
	}
	return names
}

// remove removes apps.
func (w *World) remove(names ...string) {
	w.t.Helper()
	for _, name := range names {
		qt.Assert(w.t, qt.IsNil(w.API.Remove(w.t.Context(), &api.RemoveRequest{Name: name, Force: true})))
	}
}

// instance reads the document that tells a clone who it is, through the clone.
func (c *caller) instance() template.InstanceFile {
	c.t.Helper()
	var file template.InstanceFile
	line := c.ask("line %s", template.InstancePath)
	qt.Assert(c.t, qt.IsNil(json.Unmarshal([]byte(line), &file)), qt.Commentf("%s", line))
	return file
}

// empty proves that nothing of any app, snapshot or template is on the disk.
func (w *World) empty() {
	w.t.Helper()
	w.empties("memory", "layers", "templates", "snapshots", "apps", "batches")
}

// empties waits until nothing is in directories of the state directory.
func (w *World) empties(dirs ...string) {
	w.t.Helper()
	w.Until("the state directory is empty", func() error {
		for _, dir := range dirs {
			entries, err := os.ReadDir(filepath.Join(w.Outside(w.StateDir()), dir))
			if err != nil {
				return err
			}
			if len(entries) > 0 {
				return fmt.Errorf("in %s is %s", dir, entries[0].Name())
			}
		}
		return nil
	})
}
