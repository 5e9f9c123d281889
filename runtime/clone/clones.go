// Package clone makes templates of apps, and clones of templates.
//
// A template is a saved app with rules, which tell what differs between its clones (packages
// catalog and template). A request for several clones gets all of them, or none, unless it says
// to keep going. Each clone is an app of its own:
//
//	ChooseNames -> Make: for each clone, in the order of their numbers
//	                 one from the pool: it gets its name, and is handed out
//	                 else:              it is enrolled, and made of the template's snapshot
//
// A template's pool is ready clones: restored, and frozen before their first instruction, see
// [birth.Maker.MakeReady]. A request for a clone gets one of them in a moment. Pools
// are filled, which takes both processors, when nobody has asked for a clone for a while. The
// records of handed-out clones are written to the disk then, for which no request waits.
//
// Whatever is done to an app is done by the engine, or by package birth. This package has no lock
// but one for who asks for clones and which stand ready; names are reserved in the registry of
// apps, numbers in the catalog.
package clone

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/birth"
	"github.com/snapctl/snapctl/runtime/catalog"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/store"
	"github.com/snapctl/snapctl/template"
)

// Engine saves apps and ends them. An [engine.Engine] says what each method does.
type Engine interface {
	TakeSnapshot(ctx context.Context, a *engine.App, req engine.SnapshotRequest) (*snapshot.Manifest, *engine.Outcome, error)
	DropReady(ctx context.Context, a *engine.App) error
	Expunge(ctx context.Context, a *engine.App) error
}

// Maker makes apps of snapshots, at once or in two parts with a time of standing ready between
// them. A [birth.Maker] says what each method does.
type Maker interface {
	Enroll(ctx context.Context, rec app.Record, b *birth.Birth, op *event.Operation) (r *engine.Run, release func(), err error)
	Instantiate(ctx context.Context, r *engine.Run, b birth.Birth) error
	MakeReady(ctx context.Context, r *engine.Run, b birth.Birth, rules *template.Rules) error
	TakeReady(a *engine.App, name string, change func(*app.Record)) (r *engine.Run, release func(), err error)
	HandOut(ctx context.Context, r *engine.Run, p *template.Plan) error
}

var (
	_ Engine = (*engine.Engine)(nil)
	_ Maker  = (*birth.Maker)(nil)
)

// Rooms are what clones are made with. Whoever opens them closes them.
type Rooms struct {
	Engine  Engine
	Maker   Maker
	Apps    *app.Registry[*engine.App] // of the engine
	Catalog *catalog.Catalog
	Store   *store.Store // of the templates' snapshots
	Events  *event.Bus
	// Addresses tells how many addresses of a network are free for apps, and of which prefix.
	Addresses func(network string) (free int, prefix netip.Prefix, err error)
	// Freed is called when there may be files that nobody needs any more. It must return at
	// once.
	Freed func()
}

// Clones makes and removes templates and their clones. Its methods may be called at the same
// time.
type Clones struct {
	Rooms
	*pools

	requests    *journal.Kind[*request]
	requestsDir string // of the files of requests that are not over
	log         *slog.Logger
}

// Operations are the tables of what is done with templates and clones, beside the engine's.
func Operations() []journal.Table { return []journal.Table{templateTable, requestTable} }

// New returns clones that no pool is kept of yet, see [Clones.KeepPools]. Requests for several
// clones that are under way are noted in the state directory. What fails in the background is
// logged.
func New(rooms Rooms, stateDir string, log *slog.Logger) (*Clones, error) {
	c := &Clones{Rooms: rooms, pools: newPools(log), requestsDir: filepath.Join(stateDir, "batches"), log: log}
	c.requests = c.requestKind()
	if err := os.MkdirAll(c.requestsDir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	return c, nil
}

// Of lists the names of the apps that are clones of a template, by the clones' numbers.
func (c *Clones) Of(name string) []string {
	var clones []app.Record
	for _, a := range c.Apps.List() {
		if rec, _ := a.Read(); rec.Template == name {
			clones = append(clones, rec)
		}
	}
	slices.SortFunc(clones, func(a, b app.Record) int { return cmp.Compare(a.Number, b.Number) })
	names := make([]string, len(clones))
	for i := range clones {
		names[i] = clones[i].Name
	}
	return names
}
