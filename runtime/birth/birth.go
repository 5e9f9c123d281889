// Package birth makes apps of snapshots: an app that is restored, a clone, and a clone that stands
// ready until it is handed out.
//
//	restore, clone:   Enroll -> Instantiate -> running
//	clone of a pool:  Enroll -> MakeReady -> TakeReady -> HandOut -> running
//
// An enrolled app has a name, an endpoint, a record and its turn. What it gets here is its files,
// below its own those of the snapshot, and its processes: those that were saved, or its program
// anew if there were none. A plan (package template) says what differs from the app that was
// saved.
//
// All of it are operations of the engine, which removes what is left of an app that could not be
// made, also after a crash: see [engine.Engine.BirthKind].
package birth

import (
	"context"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/runtime/source"
	"github.com/snapctl/snapctl/runtime/storage"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/store"
	"github.com/snapctl/snapctl/template"
)

// Maker makes apps of snapshots. Its methods may be called at the same time.
type Maker struct {
	engine                        *engine.Engine
	restore, clone, fill, handOut *engine.Kind
}

// New returns a maker of apps for an engine, which knows the maker's operations from then on. It
// is called before [engine.Engine.Recover].
func New(eng *engine.Engine) *Maker {
	m := &Maker{
		engine:  eng,
		restore: eng.BirthKind(restoreTable), clone: eng.BirthKind(cloneTable),
		fill: eng.BirthKind(fillTable), handOut: eng.BirthKind(handOutTable),
	}
	eng.Know(m.restore, m.clone, m.fill, m.handOut)
	return m
}

// Operations are the tables of what a maker does.
func Operations() []journal.Table {
	return []journal.Table{restoreTable, cloneTable, fillTable, handOutTable}
}

// Restoring is why a snapshot stays while an app is made of it: CRIU opens its images one after
// the other.
var Restoring = store.Reason{Why: "an app is being restored from it", Remedy: "try again when that is done"}

// BeginSnapshot opens a snapshot while it is still being checked: see [store.Store.Begin]. The
// caller closes it.
func (m *Maker) BeginSnapshot(ctx context.Context, name string, depth snapshot.Depth) (*source.Source, error) {
	s, err := m.engine.Store.Begin(ctx, name, depth)
	if err != nil {
		return nil, err
	}
	return &source.Source{Snapshot: s}, nil
}

// Birth is how an app is made of a snapshot: by Enroll, and then Instantiate or MakeReady.
type Birth struct {
	Source *source.Source
	Files  Files
	Pages  restore.Pages
	// Plan is what differs from the app that was saved. It is made of the enrolled app, see
	// [Instance].
	Plan *template.Plan
	// Images is what the images of a template's snapshot say; nil of another snapshot.
	Images *template.Images

	copied []string // storage layers that can't be shared, see Enroll
}

// Files says whose files an app has that is made of a snapshot.
type Files int

// Whose files the app has.
const (
	SharedFiles  Files = iota // the snapshot's, below its own
	PrivateFiles              // a copy
)

// Enroll enrolls an app that is to be made of a snapshot, as [engine.Engine.Enroll] does it. It
// chooses which layers the app shares, and by which operation the app is made. An app whose record
// names a pool is going to stand ready, see MakeReady.
func (m *Maker) Enroll(ctx context.Context, rec app.Record, b *Birth, op *event.Operation) (_ *engine.Run, release func(), err error) {
	rec.ForgetMemory(b.Pages)
	if b.Files == PrivateFiles {
		b.copied, rec.Layers = m.engine.Storage.Paths(rec.Layers), nil
	} else {
		b.copied, err = m.engine.Storage.Copies(ctx, storage.Stack{Layers: rec.Layers, Root: rec.Spec.Root.Path})
		if err != nil {
			return nil, nil, err
		}
		if len(b.copied) > 0 {
			rec.Layers = nil
		}
	}
	kind := m.restore
	switch {
	case rec.Pool != "":
		kind = m.fill
	case rec.Template != "":
		kind = m.clone
	}
	return m.engine.Enroll(ctx, rec, kind, op)
}

// Instance is what is known of an app that is made of a snapshot, one of count.
func Instance(a *engine.App, count, existing int, set map[string]string) template.Instance {
	rec, _ := a.Read()
	return template.Instance{
		Name: rec.Name, Template: rec.Template, Number: rec.Number, Count: count, Existing: existing,
		Endpoint: rec.Addr4, Endpoint6: rec.Addr6, Network: rec.Network, Hostname: rec.Spec.Hostname,
		Generation: rec.Generation, CreatedAt: rec.CreatedAt, Set: set,
	}
}
