package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/testenv/gate"
	"github.com/snapctl/snapctl/testenv/host"
)

// ledgerPages are 64 MiB.
const ledgerPages = 16384

// A ledger is an app of testenv/cmd/ledger, and what its memory must hold.
type ledger struct {
	*survivor
	when [ledgerPages]uint64
}

// ledger runs one whose memory is all written.
func (w *World) ledger(name string) *ledger {
	w.t.Helper()
	program := w.compiled("ledger", append([]string{"gcc"}, w.sources("ledger")...)...)
	l := &ledger{survivor: w.controlled(&api.RunRequest{Name: name, Args: []string{program, fmt.Sprint(ledgerPages)}})}
	l.write(0, ledgerPages, 1)
	return l
}

// restored is the ledger of an app that was restored from this one's snapshot.
func (l *ledger) restored(w *World, endpoint string) *ledger {
	return &ledger{survivor: w.control(endpoint), when: l.when}
}

func (l *ledger) write(from, count int, when uint64) {
	l.t.Helper()
	qt.Assert(l.t, qt.Equals(l.asks(fmt.Sprintf("write %d %d %d", from, count, when)), "ok"))
	for i := range count {
		l.when[from+i] = when
	}
}

// check compares every word of the memory.
func (l *ledger) check() {
	l.t.Helper()
	sum := uint64(0xcbf29ce484222325)
	for page, when := range l.when {
		word := when<<32 | uint64(page)
		for range 512 {
			sum = (sum ^ word) * 0x100000001b3
		}
	}
	qt.Assert(l.t, qt.Equals(l.asks("sum"), fmt.Sprintf("ok %016x", sum)))
}

// A savedMemory is what a manifest says of one memory file.
type savedMemory struct {
	SHA256    string   `json:"sha256"`
	SizeBytes int64    `json:"size_bytes"`
	Image     string   `json:"image"`
	Names     []string `json:"names"`
}

// saved reads the memory files of a snapshot, of which a path is given below the
// state directory.
func (w *World) saved(path string) []savedMemory {
	w.t.Helper()
	b, err := os.ReadFile(w.Outside(filepath.Join(w.StateDir(), path, "manifest.json")))
	qt.Assert(w.t, qt.IsNil(err))
	var m struct {
		Memory []savedMemory `json:"memory"`
	}
	qt.Assert(w.t, qt.IsNil(json.Unmarshal(b, &m)))
	return m.Memory
}

// TestMappedMemoryOfTwelveGenerations hibernates and wakes an app that changes some
// of its memory each time, over the deaths of daemons, until there are too many
// files to build on, and until most of what there is has changed.
func TestMappedMemoryOfTwelveGenerations(t *testing.T) {
	w := New(t, "gcc")
	l := w.ledger("ledger")
	var bases []int
	known := make(map[string]bool)
	for generation := range uint64(14) {
		if generation == 3 {
			w.killDaemon() // the processes have files of its mounts mapped
		}
		if generation == 11 {
			l.write(100, ledgerPages*3/4, generation+2)
		}
		for i := range 3 {
			l.write(int(generation)*1000+i*300, 200, generation+2)
		}
		w.Hibernate("ledger")
		n, own := 0, 0
		for _, m := range w.saved("apps/ledger/hibernation") {
			if known[m.SHA256] {
				n++
			} else {
				own++
			}
			known[m.SHA256] = true
		}
		qt.Assert(t, qt.Equals(own, 1))
		bases = append(bases, n)
		w.Until("memory files are those that are needed", w.memoryFiles)
		if generation == 5 || generation == 10 {
			w.killDaemon()
		}
		w.Wake("ledger")
		w.mapped(48 << 20)
		l.check()
		w.Until("memory files are those that are needed", w.memoryFiles)
	}
	// Of nine files it makes one, and of two when the second is most of both.
	qt.Assert(t, qt.DeepEquals(bases, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0, 1, 2}))
	qt.Assert(t, qt.IsNil(w.API.Remove(t.Context(), &api.RemoveRequest{Name: "ledger", Force: true})))
	w.noMemory()
}

// TestMappedMemoryOutlivesItsSnapshot removes the snapshot whose memory an app has
// mapped, and hibernates, wakes and snapshots that app.
func TestMappedMemoryOutlivesItsSnapshot(t *testing.T) {
	w := New(t, "gcc")
	l := w.ledger("ledger")
	_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "ledger", Name: "s1"}, nil)
	qt.Assert(t, qt.IsNil(err))
	_, err = w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: "s1", As: "copy", Endpoint: copyEndpoint}, nil)
	qt.Assert(t, qt.IsNil(err))
	c := l.restored(w, copyEndpoint)
	c.check()
	w.mapped(48 << 20)
	qt.Assert(t, qt.IsNil(w.API.RemoveSnapshot(t.Context(), "s1")))
	qt.Assert(t, qt.IsNil(w.API.Remove(t.Context(), &api.RemoveRequest{Name: "ledger", Force: true})))
	w.Until("memory files are those that are needed", w.memoryFiles)
	c.write(1000, 2000, 5)
	w.Hibernate("copy")
	w.Until("memory files are those that are needed", w.memoryFiles)
	w.killDaemon()
	w.Wake("copy")
	c.check()
	_, err = w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "copy", Name: "s2"}, nil)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(w.API.Remove(t.Context(), &api.RemoveRequest{Name: "copy", Force: true})))
	w.Until("memory files are those that are needed", w.memoryFiles)
	_, err = w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: "s2", As: "third", Endpoint: copyEndpoint}, nil)
	qt.Assert(t, qt.IsNil(err))
	c.restored(w, copyEndpoint).check()
	qt.Assert(t, qt.IsNil(w.API.RemoveSnapshot(t.Context(), "s2")))
	qt.Assert(t, qt.IsNil(w.API.Remove(t.Context(), &api.RemoveRequest{Name: "third", Force: true})))
	w.noMemory()
}

// TestDamagedMemoryFileIsRefused damages each memory file that a held app and a
// snapshot need, and proves that no process is made, that the error names the file,
// and that all is well when the file is whole again.
func TestDamagedMemoryFileIsRefused(t *testing.T) {
	w := New(t, "gcc")
	l := w.ledger("ledger")
	w.Hibernate("ledger")
	w.Wake("ledger")
	l.write(2000, 500, 3)
	_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "ledger", Name: "s1"}, nil)
	qt.Assert(t, qt.IsNil(err))
	l.write(4000, 500, 4)
	w.Hibernate("ledger")
	dir := w.Outside(filepath.Join(w.StateDir(), "memory"))
	whole := filepath.Join(t.TempDir(), "whole")
	qt.Assert(t, qt.IsNil(copyTree(dir, whole)))
	wake := func() error {
		_, err := w.API.Wake(t.Context(), &api.WakeRequest{Name: "ledger"}, nil)
		qt.Check(t, qt.Equals(w.Show("ledger").GetStatus() == api.Status_STATUS_HELD, err != nil))
		return err
	}
	restore := func() error {
		_, err := w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: "s1", As: "copy", Endpoint: copyEndpoint}, nil)
		qt.Check(t, qt.Equals(len(must(t)(w.API.List(t.Context()))) == 1, err != nil))
		return err
	}
	for path, use := range map[string]func() error{"apps/ledger/hibernation": wake, "snapshots/s1": restore} {
		files := w.saved(path)
		// Its own, and a base; and the snapshot's, which the app still has.
		qt.Assert(t, qt.HasLen(files, map[string]int{"apps/ledger/hibernation": 3, "snapshots/s1": 2}[path]))
		for _, f := range files {
			for what, damage := range damages {
				info, err := os.Lstat(filepath.Join(dir, f.SHA256))
				qt.Assert(t, qt.IsNil(err))
				qt.Assert(t, qt.IsTrue(damage(t, filepath.Join(dir, f.SHA256), info)))
				err = use()
				if err == nil {
					t.Fatalf("%s: %s: accepted", path, what)
				}
				qt.Check(t, qt.StringContains(err.Error(), f.SHA256), qt.Commentf("%s: %s", path, what))
				for _, app := range []string{"ledger", "copy"} {
					qt.Check(t, qt.Equals(w.processes(app), 0), qt.Commentf("%s: %s", path, what))
				}
				logs, err := filepath.Glob(w.Outside(filepath.Join(host.RunDir, "apps/*/work/restore.log")))
				qt.Assert(t, qt.IsNil(err))
				for _, log := range logs {
					qt.Check(t, qt.IsFalse(strings.Contains(log, "copy")), qt.Commentf("CRIU was started"))
				}
				mend(t, whole, dir, f.SHA256)
			}
		}
	}
	qt.Assert(t, qt.IsNil(restore()))
	qt.Assert(t, qt.IsNil(w.API.Remove(t.Context(), &api.RemoveRequest{Name: "copy", Force: true})))
	qt.Assert(t, qt.IsNil(wake()))
	l.check()
}

// TestSnapshotRemovedWhileItIsRestored removes the snapshot in the middle, which is
// refused, and that of a template likewise: the new app is made, and lives on when
// the snapshot is gone.
func TestSnapshotRemovedWhileItIsRestored(t *testing.T) {
	for _, point := range []fault.Name{"restore.begun", "restore.furnished", "restore.starting", "restore.restored"} {
		t.Run(string(point), func(t *testing.T) {
			w := New(t, "gcc")
			l := w.ledger("ledger")
			name, remove := "s1", func() error { return w.API.RemoveSnapshot(t.Context(), "s1") }
			if point == "restore.begun" {
				name, remove = "t", func() error { return w.API.RemoveTemplate(t.Context(), "t") }
				w.template("t", "ledger", "")
			} else {
				_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "ledger", Name: "s1"}, nil)
				qt.Assert(t, qt.IsNil(err))
			}
			g := gate.New(t, w.Dir(), point)
			qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), syscall.SIGTERM, host.Daemon{Env: gate.Env(g.Fault())})))
			w.Dial()
			done := make(chan error, 1)
			go func() {
				_, err := w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: name, As: "copy", Endpoint: copyEndpoint}, nil)
				done <- err
			}()
			stop, err := g.Wait(t.Context())
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.ErrorMatches(remove(), `(?s)snapshot .*: an app is being restored from it.*`))
			qt.Assert(t, qt.IsNil(stop.Continue()))
			qt.Assert(t, qt.IsNil(<-done))
			qt.Assert(t, qt.IsNil(remove()))
			w.Until("memory files are those that are needed", w.memoryFiles)
			qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), syscall.SIGTERM, host.Daemon{})))
			w.Dial()
			c := l.restored(w, copyEndpoint)
			c.check()
			w.Hibernate("copy")
			w.Wake("copy")
			c.check()
			l.check()
		})
	}
}

// TestMemoryIsCopiedWhereItCanNotBeMapped puts the state directory on a file system
// that is, for a time, mounted noexec: memory mapped from there could never be made
// executable.
func TestMemoryIsCopiedWhereItCanNotBeMapped(t *testing.T) {
	w := newWorld(t, host.Config{}, func(h *host.Host) {
		qt.Assert(t, qt.IsNil(os.MkdirAll(h.StateDir(), 0o700)))
		run(t, h, "mount", "-t", "tmpfs", "-o", "size=512m", "none", h.StateDir())
	}, "gcc", "mount")
	remount := func(how string) { run(t, w.Host, "mount", "-o", "remount,"+how, w.StateDir()) }
	l := w.ledger("ledger")
	w.Hibernate("ledger")
	w.Wake("ledger")
	w.mapped(48 << 20)
	l.write(1000, 1000, 2)
	w.Hibernate("ledger")
	qt.Assert(t, qt.HasLen(w.saved("apps/ledger/hibernation"), 2))
	remount("noexec")
	w.Wake("ledger") // from memory files
	w.mapped(0)
	l.check()
	w.Hibernate("ledger")
	qt.Assert(t, qt.HasLen(w.saved("apps/ledger/hibernation"), 0))
	remount("exec")
	w.Wake("ledger") // from none
	w.mapped(0)
	l.check()
	w.Hibernate("ledger")
	w.Wake("ledger")
	w.mapped(48 << 20)
	l.write(3000, 1000, 3)
	remount("noexec")
	w.Hibernate("ledger") // of memory that is mapped
	qt.Assert(t, qt.HasLen(w.saved("apps/ledger/hibernation"), 0))
	w.noMemory()
	w.Wake("ledger")
	w.mapped(0)
	l.check()
}
