package engine_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/engine/enginetest"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/testenv"
)

// dooms are one for each point of each operation, but for those at which a killed daemon leaves what
// it leaves at another point, and for those to which no app comes here.
func dooms() []enginetest.Doom {
	return enginetest.Dooms(engine.Operations(),
		"run.furnished", "hibernate.collected", "hibernate.adopted",
		"snapshot.repairing", "snapshot.dumped", "snapshot.adopted", "remove.killed", "remove.forgotten",
		"save.repairing", // of an app with connections inside
		"wake.dropped",   // comes when the wake is over
	)
}

func doomed() error {
	return enginetest.Doomed(dooms(), func(b *enginetest.Bench) enginetest.Begin {
		return func(ctx context.Context, d enginetest.Doom) (func(context.Context) error, error) {
			return begin(ctx, b, d)
		}
	})
}

// begin makes the app of a doom, and returns the operation.
func begin(ctx context.Context, b *enginetest.Bench, d enginetest.Doom) (op func(context.Context) error, err error) {
	if d.Table.Name == "run" {
		return func(ctx context.Context) error { _, err := b.Engine.Run(ctx, enginetest.Record(d.App)); return err }, nil
	}
	a, err := b.Ready(ctx, d.App, "/file")
	if err != nil {
		return nil, err
	}
	sleep := func(ctx context.Context) error {
		_, err := b.Engine.Hibernate(ctx, a, engine.Sleep{}, b.Operation(event.Hibernate))
		return err
	}
	if d.Table.Name == "wake" || d.Table.Name == "save" || d.Table.Name == "restack" {
		if err := sleep(ctx); err != nil {
			return nil, err
		}
	}
	switch d.Table.Name {
	case "hibernate":
		return sleep, nil
	case "wake":
		return func(ctx context.Context) error {
			_, err := b.Engine.Wake(ctx, a, engine.Awakening{By: app.ByCommand}, b.Operation(event.Wake))
			return err
		}, nil
	case "snapshot", "save", "restack":
		return func(ctx context.Context) error {
			_, _, err := b.Engine.TakeSnapshot(ctx, a, engine.SnapshotRequest{Name: d.App, Op: b.Operation(event.Snapshot)})
			return err
		}, nil
	case "remove":
		return func(ctx context.Context) error { return b.Engine.Remove(ctx, a, true) }, nil
	}
	return nil, fmt.Errorf("nobody knows how to begin %s", d.Table.Name)
}

// A new daemon finishes or undoes what a killed one has left, as the table of each operation says.
func TestRecoverAtEachPoint(t *testing.T) {
	testenv.Need(t, testenv.Root)
	w := enginetest.Place(t)
	w.OpenAfterKill()
	for _, d := range dooms() {
		t.Run(d.App, func(t *testing.T) { isRecovered(w.In(t), d, d.Table.IsCommitted(d.Step)) })
	}
}

// isRecovered proves that the operation has been finished, or was undone.
func isRecovered(w *enginetest.World, d enginetest.Doom, finished bool) {
	t := w.T
	t.Helper()
	status := map[string][2]app.Status{ // undone, finished
		"run": {"", app.Running}, "remove": {},
		"hibernate": {app.Running, app.Held}, "wake": {app.Held, app.Running}, "snapshot": {app.Running, app.Running},
		"save": {app.Held, app.Held}, "restack": {app.Held, app.Held},
	}[d.Table.Name]
	want := status[0]
	if finished {
		want = status[1]
	}
	w.Is(d.App, want)
	if want == "" {
		return
	}
	a := w.App(d.App)
	rec, _ := a.Read()
	switch d.Table.Name {
	case "snapshot", "save":
		_, _, err := w.Engine.Store.Find(d.App)
		qt.Check(t, qt.Equals(err == nil, finished), qt.Commentf("%v", err))
	case "restack":
		_, _, err := w.Engine.Store.Find(d.App)
		qt.Check(t, qt.IsNotNil(err))
		qt.Check(t, qt.Equals(len(rec.Layers) == 1, finished), qt.Commentf("%v", rec.Layers))
		qt.Check(t, qt.IsNil(rec.Restacking))
		w.IsWritten(a)
	}
	if want == app.Held && (d.Table.Name == "hibernate" || d.Table.Name == "wake") { // and it wakes
		qt.Check(t, qt.IsNil(w.Wake(t.Context(), a)))
		w.IsRunning(a)
	}
}
