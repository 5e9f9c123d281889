package e2e

import (
	"fmt"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
)

// TestMemoryOfLaterSnapshots takes snapshots of an app that was never restored. Each after the first
// stores what has changed, needs none of the earlier ones to be there, and has all of it.
func TestMemoryOfLaterSnapshots(t *testing.T) {
	w := New(t, "gcc")
	l := w.ledger("ledger")
	known := make(map[string]bool)
	look := func(path string) (own int64, bases int) {
		for _, m := range w.saved(path) {
			if known[m.SHA256] {
				bases++
			} else {
				own += m.SizeBytes
			}
			known[m.SHA256] = true
		}
		return own, bases
	}
	take := func(name string) (own int64, bases int) {
		_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "ledger", Name: name}, nil)
		qt.Assert(t, qt.IsNil(err))
		return look("snapshots/" + name)
	}
	first, bases := take("s1")
	qt.Check(t, qt.Equals(bases, 0))
	qt.Assert(t, qt.IsTrue(first > ledgerPages*4096))
	for i := range uint64(3) {
		l.write(int(i)*2000, 700, i+2)
		if i == 1 {
			w.killDaemon()
		}
		own, bases := take(fmt.Sprintf("s%d", i+2))
		qt.Check(t, qt.IsTrue(own > 700*4096 && own < first/4), qt.Commentf("%d of %d", own, first))
		qt.Check(t, qt.Equals(bases, int(i)+1))
	}
	// A hibernation stores no more either.
	w.Hibernate("ledger")
	own, _ := look("apps/ledger/hibernation")
	qt.Check(t, qt.IsTrue(own < first/4), qt.Commentf("%d of %d", own, first))
	w.Wake("ledger")
	w.mapped(48 << 20)
	l.check()
	for _, name := range []string{"s1", "s2", "s3"} {
		qt.Assert(t, qt.IsNil(w.API.RemoveSnapshot(t.Context(), name)))
	}
	qt.Assert(t, qt.IsNil(w.API.Remove(t.Context(), &api.RemoveRequest{Name: "ledger", Force: true})))
	w.Until("memory files are those that are needed", w.memoryFiles)
	_, err := w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: "s4", As: "copy", Endpoint: copyEndpoint}, nil)
	qt.Assert(t, qt.IsNil(err))
	l.restored(w, copyEndpoint).check()
	qt.Assert(t, qt.IsNil(w.API.RemoveSnapshot(t.Context(), "s4")))
	qt.Assert(t, qt.IsNil(w.API.Remove(t.Context(), &api.RemoveRequest{Name: "copy", Force: true})))
	w.noMemory()
}
