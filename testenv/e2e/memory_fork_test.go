package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
)

const (
	familyMiB      = 48
	familyChildren = 4
)

// A family is an app of testdata/family.py: a process and its forked children.
type family struct {
	*survivor
	w       *World
	members int
}

func (w *World) family(limits *api.Limits) *family {
	w.t.Helper()
	script, err := filepath.Abs("testdata/family.py")
	qt.Assert(w.t, qt.IsNil(err))
	program, err := os.ReadFile(script)
	qt.Assert(w.t, qt.IsNil(err))
	s := w.controlled(&api.RunRequest{
		Name: "family", Limits: limits,
		Args: []string{"python3", "-c", string(program), fmt.Sprint(familyMiB), fmt.Sprint(familyChildren)},
	})
	return &family{survivor: s, w: w, members: familyChildren + 1}
}

// digests are of what each of them has in its memory, all of which they read.
func (f *family) digests() (all []string) {
	f.t.Helper()
	for i := range f.members {
		all = append(all, f.asks(fmt.Sprintf("%d digest", i)))
	}
	return all
}

func (f *family) does(member int, format string, args ...any) {
	f.t.Helper()
	qt.Assert(f.t, qt.Equals(f.asks(fmt.Sprintf("%d ", member)+fmt.Sprintf(format, args...)), "ok"))
}

// used is the memory that processes like this have together, in bytes: what several
// have mapped counts once.
func (f *family) used() (sum int64) {
	f.t.Helper()
	pids, err := f.w.Pids()
	qt.Assert(f.t, qt.IsNil(err))
	for _, pid := range pids {
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if !strings.HasPrefix(string(cmdline), "python3") {
			continue
		}
		rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		qt.Assert(f.t, qt.IsNil(err))
		for line := range strings.Lines(string(rollup)) {
			var kib int64
			if n, _ := fmt.Sscanf(line, "Pss: %d kB", &kib); n == 1 {
				sum += kib << 10
			}
		}
	}
	return sum
}

// stored is how many bytes of memory a saved app has of its own.
func (w *World) stored(path string) (sum int64) {
	w.t.Helper()
	for _, m := range w.saved(path) {
		if m.Image != "" {
			info, err := os.Stat(w.Outside(filepath.Join(w.StateDir(), "memory", m.SHA256)))
			qt.Assert(w.t, qt.IsNil(err))
			sum += info.Size()
		}
	}
	images, err := filepath.Glob(w.Outside(filepath.Join(w.StateDir(), path, "images", "pages-*.img")))
	qt.Assert(w.t, qt.IsNil(err))
	for _, name := range images {
		info, err := os.Lstat(name)
		qt.Assert(w.t, qt.IsNil(err))
		if info.Mode().IsRegular() {
			sum += info.Size()
		}
	}
	return sum
}

// alike proves that the family holds what it held, in no more memory.
func (f *family) alike(digests []string, used int64) {
	f.t.Helper()
	qt.Assert(f.t, qt.DeepEquals(f.digests(), digests))
	now := f.used()
	qt.Assert(f.t, qt.IsTrue(now <= used+used/10), qt.Commentf("%d bytes were used before, %d are now", used, now))
}

// TestMemorySharedByFork hibernates and wakes a family that shares most of its memory,
// writes in some of them, and forks.
func TestMemorySharedByFork(t *testing.T) {
	const all = familyMiB << 20
	w := New(t, "python3")
	f := w.family(nil)
	for generation := range 6 {
		digests, used := f.digests(), f.used()
		w.Hibernate("family")
		if generation == 2 {
			w.killDaemon()
		}
		stored, changed := w.stored("apps/family/hibernation"), int64(1200*4096)
		if generation == 0 {
			changed = all
		}
		t.Logf("generation %d: %d KiB used, %d KiB stored", generation, used>>10, stored>>10)
		// Each has some MiB of its own, which its interpreter writes to.
		qt.Assert(t, qt.IsTrue(stored < changed+int64(f.members)*4<<20), qt.Commentf("%d bytes stored", stored))
		w.Wake("family")
		w.mapped(all)
		f.alike(digests, used)
		shown := w.Show("family").GetMemoryBytes()
		qt.Assert(t, qt.IsTrue(shown > used*8/10 && shown < used*12/10), qt.Commentf("%d bytes are used, %d shown", used, shown))
		w.Until("memory files are those that are needed", w.memoryFiles)

		// What one of them writes the others don't see, and it sees nothing of theirs.
		child := 1 + generation%familyChildren
		f.does(child, "write %d %d 200", generation, 300*generation)
		f.does(0, "write %d %d 1000", 100+generation, 1000*generation)
		after := f.digests()
		for i := range digests {
			qt.Assert(t, qt.Equals(after[i] == digests[i], i != 0 && i != child))
		}
		if generation%2 == 1 {
			f.does(0, "fork")
			f.members++
			qt.Assert(t, qt.Equals(f.digests()[f.members-1], after[0]))
		}
	}
	digests := f.digests()
	_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "family", Name: "saved", Stop: true}, nil)
	qt.Assert(t, qt.IsNil(err))
	_, err = w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: "saved", As: "one", Endpoint: copyEndpoint}, nil)
	qt.Assert(t, qt.IsNil(err))
	one := &family{survivor: w.control(copyEndpoint), w: w, members: f.members}
	qt.Assert(t, qt.DeepEquals(one.digests(), digests))
	used := one.used()
	_, err = w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: "saved", As: "two", Endpoint: "10.77.0.22"}, nil)
	qt.Assert(t, qt.IsNil(err))
	two := &family{survivor: w.control("10.77.0.22"), w: w, members: f.members}
	two.alike(digests, used+used/5) // what the two have in common counts once, too
	one.does(1, "write 7 0 3000")
	qt.Assert(t, qt.DeepEquals(two.digests(), digests))
}

// TestMemorySharedByForkIsCopied has CRIU copy it: of images that it wrote, and of such
// that were made of what was mapped.
func TestMemorySharedByForkIsCopied(t *testing.T) {
	w := New(t, "python3")
	f := w.family(nil)
	for generation := range 2 {
		digests, used := f.digests(), f.used()
		w.Hibernate("family")
		_, err := w.API.Wake(t.Context(), &api.WakeRequest{Name: "family", Copy: true}, nil)
		qt.Assert(t, qt.IsNil(err))
		w.mapped(0)
		f.alike(digests, used)
		w.Hibernate("family")
		w.Wake("family")
		w.mapped(familyMiB << 20)
		f.alike(digests, used)
		// What the parent writes CRIU would copy for each child: it compares with no other.
		f.does(2, "write %d 9000 500", generation)
	}
}
