package engine_test

import (
	"os"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/engine/enginetest"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/leak"
)

func TestMain(m *testing.M) {
	os.Exit(enginetest.Main(m, leak.Main, map[string]func() error{enginetest.DoomedRole: doomed}))
}

// newWorld is an engine without apps.
func newWorld(t *testing.T) *enginetest.World {
	t.Helper()
	testenv.Need(t, testenv.Root)
	w := enginetest.Place(t)
	w.Open()
	return w
}

// table is that of an operation of the engine.
func table(t *testing.T, name string) *journal.Table {
	t.Helper()
	tables := engine.Operations()
	for i := range tables {
		if tables[i].Name == name {
			return &tables[i]
		}
	}
	t.Fatalf("The engine has no operation %s.", name)
	return nil
}

// TestTables proves that what the tables say can be.
func TestTables(t *testing.T) {
	eng, err := engine.New(engine.Rooms{}, engine.Options{StateDir: t.TempDir(), RunDir: t.TempDir()})
	qt.Assert(t, qt.IsNil(err))
	for _, table := range engine.Operations() {
		t.Run(table.Name, func(t *testing.T) { enginetest.CheckKind(t, eng.Kind(table.Name)) })
	}
	// Once its processes may have run again an app is woken, and what wakes it is told.
	qt.Check(t, qt.IsFalse(table(t, "wake").IsCommitted("resuming")))
	qt.Check(t, qt.IsTrue(table(t, "wake").IsCommitted("restored")))
}
