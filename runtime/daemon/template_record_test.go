package daemon

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/journal/journaltest"
	"github.com/snapctl/snapctl/snapshot/store"
)

// templatesOnly is a daemon that has state and nothing else.
func templatesOnly(t *testing.T) *Daemon {
	t.Helper()
	d := &Daemon{
		opt:       Options{StateDir: t.TempDir()},
		templates: make(map[string]*tmpl), making: make(map[string]bool),
	}
	qt.Assert(t, qt.IsNil(os.Mkdir(d.templatesDir(), 0o700)))
	var err error
	d.store, err = store.Open(store.Options{Dir: filepath.Join(d.opt.StateDir, "snapshots"), Freed: func() {}})
	qt.Assert(t, qt.IsNil(err))
	return d
}

func TestLoadTemplate(t *testing.T) {
	for name, test := range map[string]struct{ record, err string }{
		"whole":         {`{"version": 1, "name": "t", "snapshot": "s"}`, ""},
		"other version": {`{"version": 2, "name": "t", "snapshot": "s"}`, "version 2, this snapctld reads 1"},
		"other name":    {`{"version": 1, "name": "u", "snapshot": "s"}`, `it is of template "u"`},
		"no snapshot":   {`{"version": 1, "name": "t"}`, `its snapshot is ""`},
		"leads out":     {`{"version": 1, "name": "t", "snapshot": "../mine", "own": true, "half": true}`, `its snapshot is "../mine"`},
		"cut off":       {`{"version": 1, "name": "t", "snaps`, "unexpected end of JSON input"},
		"bad rules":     {`{"version": 1, "name": "t", "snapshot": "s", "rules_yaml": "hostnam: x"}`, `(?s).*unknown key.*`},
	} {
		t.Run(name, func(t *testing.T) {
			d := templatesOnly(t)
			mine := filepath.Join(d.opt.StateDir, "mine")
			qt.Assert(t, qt.IsNil(os.Mkdir(mine, 0o700)))
			qt.Assert(t, qt.IsNil(os.WriteFile(d.templateFile("t"), []byte(test.record), 0o600)))
			if err := d.loadTemplate("t"); test.err == "" {
				qt.Assert(t, qt.IsNil(err))
			} else {
				qt.Assert(t, qt.ErrorMatches(err, test.err))
			}
			for _, path := range []string{mine, d.templateFile("t")} {
				_, err := os.Stat(path)
				qt.Assert(t, qt.IsNil(err))
			}
		})
	}
}

// Nobody removes the snapshot of a template that is being made, from the moment on
// in which it is there.
func TestSnapshotOfATemplateInTheMaking(t *testing.T) {
	d := templatesOnly(t)
	made := &tmpl{rec: templateRecord{Name: "t"}}
	free, err := d.reserveTemplate(made, true)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(os.Mkdir(string(d.store.Dir("t")), 0o700)))
	err = d.store.Remove("t")
	qt.Assert(t, qt.ErrorIs(err, errdefs.ErrFailedPrecondition))
	qt.Assert(t, qt.ErrorMatches(err, "snapshot t is needed: template t is made of it; remove that first"))
	free()
	qt.Assert(t, qt.IsNil(d.dropTemplate(made)))
	qt.Assert(t, qt.IsNil(d.store.Remove("t")))
}

// TestDamagedTemplate flips each bit of a template's record: either what it says is the
// same, or it is not read.
func TestDamagedTemplate(t *testing.T) {
	d := templatesOnly(t)
	qt.Assert(t, qt.IsNil(d.writeTemplate(templateRecord{Name: "t", Snapshot: "s", Rules: "{}", Pool: 4})))
	journaltest.FlipAll(t, d.templateFile("t"), func() (any, error) {
		clear(d.templates)
		if err := d.loadTemplate("t"); err != nil {
			return nil, err
		}
		return d.templates["t"].rec, nil
	})
}
