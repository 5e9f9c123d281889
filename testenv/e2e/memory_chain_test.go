package e2e

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
)

// TestMemoryOfManySnapshots takes many snapshots of an app, each of which builds on those before it,
// and removes every second one, also while the next one is taken. All that remain have all of their
// memory, and do not keep much more than that for it.
func TestMemoryOfManySnapshots(t *testing.T) {
	const count = 20
	w := New(t, "gcc")
	l := w.ledger("ledger")
	random := rand.New(rand.NewPCG(1, 2))
	name := func(i int) string { return fmt.Sprintf("s%d", i) }
	remove := func(i int) error {
		return w.API.RemoveSnapshot(t.Context(), name(i))
	}
	then := make(map[int][ledgerPages]uint64)
	for i := range count {
		if i > 0 {
			for range 3 {
				from := random.IntN(ledgerPages)
				l.write(from, min(1+random.IntN(ledgerPages/4), ledgerPages-from), uint64(i+1))
			}
		}
		removed := make(chan error, 1)
		if i%2 == 0 && i > 0 { // the last one, which this one may build on
			go func() { removed <- remove(i - 1) }()
		} else {
			removed <- nil
		}
		_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "ledger", Name: name(i)}, nil)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsNil(<-removed))
		then[i] = l.when
	}
	qt.Assert(t, qt.IsNil(w.API.Remove(t.Context(), &api.RemoveRequest{Name: "ledger", Force: true})))
	qt.Assert(t, qt.IsNil(remove(count-1)))
	w.Until("memory files are those that are needed", w.memoryFiles)
	for i := 0; i < count; i += 2 {
		var kept int64
		all := w.saved("snapshots/" + name(i))
		for _, m := range all {
			kept += m.SizeBytes
		}
		qt.Check(t, qt.IsTrue(kept <= 3*ledgerPages*4096), qt.Commentf("%s keeps %d MiB in %d files", name(i), kept>>20, len(all)))
		_, err := w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: name(i), As: "copy", Endpoint: copyEndpoint}, nil)
		qt.Assert(t, qt.IsNil(err))
		c := l.restored(w, copyEndpoint)
		c.when = then[i]
		c.check()
		qt.Assert(t, qt.IsNil(w.API.Remove(t.Context(), &api.RemoveRequest{Name: "copy", Force: true})))
		qt.Assert(t, qt.IsNil(remove(i)))
		w.Until("memory files are those that are needed", w.memoryFiles)
	}
	w.noMemory()
}
