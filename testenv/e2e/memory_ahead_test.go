package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/host"
)

// copiesAhead are the directories to which memory of running apps is copied.
func (w *World) copiesAhead() []string {
	w.t.Helper()
	var all []string
	for _, pattern := range []string{"snapshots/.partial-memory-*", "apps/*/.partial-memory-*"} {
		some, err := filepath.Glob(filepath.Join(w.Outside(w.StateDir()), pattern))
		qt.Assert(w.t, qt.IsNil(err))
		all = append(all, some...)
	}
	return all
}

// TestKilledWhileMemoryIsCopied kills the daemon while it copies the memory of a running app: the app runs on,
// and nothing is left of the copy.
func TestKilledWhileMemoryIsCopied(t *testing.T) {
	w := New(t, "gcc")
	l := w.ledger("ledger")
	for op, begin := range map[string]func() error{
		"snapshot": func() error {
			_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "ledger", Name: "s"}, nil)
			return err
		},
		"hibernate": func() error {
			_, err := w.API.Hibernate(t.Context(), &api.HibernateRequest{Name: "ledger"}, nil)
			return err
		},
	} {
		killed := false
		for try := 0; try < 20 && !killed; try++ {
			ended := make(chan error, 1)
			go func() { ended <- begin() }()
			tick := time.Tick(100 * time.Microsecond)
			for copying := false; !copying && len(ended) == 0; <-tick {
				copying = len(w.copiesAhead()) > 0
			}
			w.killDaemon()
			if err := <-ended; err != nil { // it was in the middle
				killed = true
				continue
			}
			switch op {
			case "snapshot":
				qt.Assert(t, qt.IsNil(w.API.RemoveSnapshot(t.Context(), "s")))
			case "hibernate":
				w.Wake("ledger")
			}
		}
		qt.Assert(t, qt.IsTrue(killed), qt.Commentf("%s was done each time before the daemon was killed", op))
		qt.Assert(t, qt.HasLen(w.copiesAhead(), 0))
		l.write(0, 3000, 7)
		l.check()
	}
	w.Hibernate("ledger")
	w.Wake("ledger")
	l.check()
	qt.Assert(t, qt.HasLen(w.copiesAhead(), 0))
}

// TestMemoryIsCopiedWhileAnAppRuns has an app saved with and without a copy of its memory ahead: CRIU
// saves next to nothing where there was one, and all where it is turned off.
func TestMemoryIsCopiedWhileAnAppRuns(t *testing.T) {
	w := New(t, "gcc")
	l := w.ledger("ledger")
	images := func(name string) (size int64) {
		_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "ledger", Name: name}, nil)
		qt.Assert(t, qt.IsNil(err))
		all, err := w.API.ListSnapshots(t.Context())
		qt.Assert(t, qt.IsNil(err))
		for _, s := range all { // wherever it went, and whenever: it was stored for this one
			qt.Check(t, qt.IsTrue(s.GetMemoryBytes() > ledgerPages*4096), qt.Commentf("%s: %d bytes", s.GetName(), s.GetMemoryBytes()))
		}
		for _, m := range w.saved("snapshots/" + name) {
			if m.Image != "" {
				size += m.SizeBytes
			}
		}
		rest, err := filepath.Glob(filepath.Join(w.Outside(w.StateDir()), "snapshots", name, "images/pages-*.img"))
		qt.Assert(t, qt.IsNil(err))
		for _, path := range rest {
			info, err := os.Lstat(path)
			qt.Assert(t, qt.IsNil(err))
			if info.Mode().IsRegular() {
				size += info.Size()
			}
		}
		return size
	}
	ahead := images("ahead")
	qt.Check(t, qt.IsTrue(ahead < ledgerPages*4096/8), qt.Commentf("%d bytes", ahead))
	qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), unix.SIGTERM, host.Daemon{Args: []string{"--copy-ahead", "0", "--whole-memory"}})))
	w.Dial()
	whole := images("whole")
	qt.Check(t, qt.IsTrue(whole > ledgerPages*4096), qt.Commentf("%d bytes", whole))
	for i, name := range []string{"ahead", "whole"} {
		endpoint := []string{copyEndpoint, "10.77.0.22"}[i]
		_, err := w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: name, As: name, Endpoint: endpoint}, nil)
		qt.Assert(t, qt.IsNil(err))
		l.restored(w, endpoint).check()
	}
}

// TestMemoryOfAHotWriter saves an app that writes to most of its memory all the time: its memory is right, and
// takes little more room than it is large, for what was copied in vain is not kept.
func TestMemoryOfAHotWriter(t *testing.T) {
	w := New(t, "gcc")
	l := w.ledger("ledger")
	const hot, times = ledgerPages * 7 / 8, 200
	l.write(0, hot, 2) // and the same from now on
	busy := func(op func()) {
		t.Helper()
		_, err := l.conn.Write(bytes.Repeat(fmt.Appendf(nil, "write 0 %d 2\n", hot), times))
		qt.Assert(t, qt.IsNil(err))
		op()
		qt.Assert(t, qt.IsNil(l.conn.SetDeadline(time.Now().Add(2*time.Minute))))
		for range times {
			answer, err := l.in.ReadString('\n')
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.Equals(answer, "ok\n"))
		}
		l.check()
	}
	busy(func() {
		_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "ledger", Name: "s"}, nil)
		qt.Assert(t, qt.IsNil(err))
	})
	stored := int64(0)
	for _, m := range w.saved("snapshots/s") {
		stored += m.SizeBytes
	}
	// Of the first file at least half counts, or it is not there.
	qt.Check(t, qt.IsTrue(stored < ledgerPages*4096*8/5), qt.Commentf("%d bytes", stored))
	busy(func() {
		w.Hibernate("ledger")
		w.Wake("ledger")
	})
	_, err := w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: "s", As: "copy", Endpoint: copyEndpoint}, nil)
	qt.Assert(t, qt.IsNil(err))
	l.restored(w, copyEndpoint).check()
}
