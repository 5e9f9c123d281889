package birth

import (
	"context"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/engine/enginetest"
	"github.com/snapctl/snapctl/template"
)

// dooms are one for each point of each operation, but for those at which a killed daemon leaves what
// it leaves at another point, or of an operation that is alike.
func dooms() []enginetest.Doom {
	return enginetest.Dooms(Operations(),
		"restore.starting", "restore.furnished", "fill-pool.starting",
		"clone.begun", "clone.starting", "clone.furnished", "clone.restored",
	)
}

func doomed() error {
	return enginetest.Doomed(dooms(), func(on *enginetest.Bench) enginetest.Begin {
		b := &bench{on, New(on.Engine)}
		return b.begin
	})
}

// begin makes the app of a doom, and returns the operation.
func (b *bench) begin(ctx context.Context, d enginetest.Doom) (op func(context.Context) error, err error) {
	switch d.Table.Name {
	case restoreTable.Name:
		return func(ctx context.Context) error { _, err := b.restore(ctx, "base", d.App); return err }, nil
	case cloneTable.Name:
		return func(ctx context.Context) error { return b.clone(ctx, "base", d.App) }, nil
	case fillTable.Name:
		return func(ctx context.Context) error { _, err := b.fill(ctx, "base", d.App); return err }, nil
	default:
		a, err := b.fill(ctx, "base", d.App)
		return func(ctx context.Context) error { return b.handOut(ctx, a, d.App) }, err
	}
}

// A new daemon keeps an app that was made before its daemon was killed, and removes what is left of
// one that was not. No app stands ready any more.
func TestRecoverAtEachPoint(t *testing.T) {
	w := newPlace(t)
	w.OpenAfterKill()
	for _, d := range dooms() {
		t.Run(d.App, func(t *testing.T) {
			var want app.Status
			if d.Table.IsCommitted(d.Step) {
				want = app.Running
			}
			w.In(t).Is(d.App, want)
		})
	}
}

// TestTables proves that what the tables say can be.
func TestTables(t *testing.T) {
	eng, err := engine.New(engine.Rooms{}, engine.Options{StateDir: t.TempDir(), RunDir: t.TempDir()})
	qt.Assert(t, qt.IsNil(err))
	m := New(eng)
	kinds := []*engine.Kind{m.restore, m.clone, m.fill, m.handOut}
	for i, table := range Operations() {
		t.Run(table.Name, func(t *testing.T) {
			qt.Check(t, qt.Equals(kinds[i].Name, table.Name))
			enginetest.CheckKind(t, kinds[i])
		})
	}
}

func TestARestoredAppKeepsItsMachineID(t *testing.T) {
	qt.Check(t, qt.Equals(sameAgain().MachineID, template.MachineIDKeep))
}
