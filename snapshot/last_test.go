package snapshot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/testenv"
)

// What an app's last snapshot has is not stored again, and is there after that was removed.
func TestAdoptMemoryOfTheLastSnapshot(t *testing.T) {
	parent := t.TempDir()
	dir, m, s := committed(t, parent)
	p := dumped(t, filepath.Join(parent, "snapshots", "s2"))
	// A page of one process is another one now.
	f, err := os.OpenFile(filepath.Join(p.Dir().Images(), m.Memory[0].Image), os.O_RDWR, 0)
	qt.Assert(t, qt.IsNil(err))
	_, err = f.WriteAt([]byte("changed"), 40*image.PageSize)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(f.Close()))

	second := manifest()
	unpin, err := p.adoptMemory(t.Context(), &MemoryOptions{Store: s, Last: dir, Remark: func(text string) { t.Error(text) }}, second)
	qt.Assert(t, qt.IsNil(err))
	saved, err := p.Commit(t.Context(), second)
	qt.Assert(t, qt.IsNil(err))
	unpin()
	for _, f := range second.Memory {
		qt.Check(t, qt.Equals(f.Image, ""))
	}
	qt.Check(t, qt.ContentEquals(second.MemoryFiles(), m.MemoryFiles()))
	qt.Assert(t, qt.IsNil(dir.Remove()))
	sweepAll(t, s, second)
	_, err = saved.Open(t.Context(), ByDigest, s)
	qt.Check(t, qt.IsNil(err))
}

// A last snapshot that can't be used is told of, and the memory is stored whole.
func TestLastSnapshotOfNoUse(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, dir Dir, file string){
		"removed": func(t *testing.T, dir Dir, _ string) {
			t.Helper()
			qt.Assert(t, qt.IsNil(dir.Remove()))
		},
		"memory file gone": func(t *testing.T, _ Dir, file string) {
			t.Helper()
			qt.Assert(t, qt.IsNil(os.Remove(file)))
		},
		"memory file changed": func(t *testing.T, _ Dir, file string) {
			t.Helper()
			qt.Assert(t, qt.IsNil(os.Chmod(file, 0o600)))
			f, err := os.OpenFile(file, os.O_WRONLY, 0)
			qt.Assert(t, qt.IsNil(err))
			_, err = f.WriteAt([]byte("another"), 0)
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.IsNil(f.Close()))
		},
		"no images": func(t *testing.T, dir Dir, _ string) {
			t.Helper()
			qt.Assert(t, qt.IsNil(os.Remove(filepath.Join(dir.Images(), "pstree.img"))))
		},
	} {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			dir, m, s := committed(t, parent)
			spoil(t, dir, s.Path(m.Memory[0].ID))
			p := dumped(t, filepath.Join(parent, "snapshots", "s2"))
			second := manifest()
			var said []string
			unpin, err := p.adoptMemory(t.Context(), &MemoryOptions{Store: s, Last: dir, Remark: func(text string) { said = append(said, text) }}, second)
			qt.Assert(t, qt.IsNil(err))
			unpin()
			qt.Assert(t, qt.HasLen(said, 1))
			qt.Check(t, qt.IsTrue(strings.HasPrefix(said[0], "memory is stored whole, since the app's last snapshot, s1, could not be compared: ")), qt.Commentf("%s", said[0]))
			qt.Assert(t, qt.HasLen(second.Memory, 4))
			for _, f := range second.Memory {
				qt.Check(t, qt.Not(qt.Equals(f.Image, "")))
			}
			qt.Check(t, qt.IsNil(unix.Access(s.Path(second.Memory[0].ID), unix.R_OK)))
		})
	}
}

// On a disk that is nearly full nothing is written beside the dump: it is stored as it is.
func TestLastSnapshotOnFullDisk(t *testing.T) {
	testenv.Need(t, testenv.Root)
	parent := t.TempDir()
	qt.Assert(t, qt.IsNil(unix.Mount("tmpfs", parent, "tmpfs", 0, "size=128m")))
	defer func() { qt.Check(t, qt.IsNil(unix.Unmount(parent, 0))) }()
	dir, m, s := committed(t, parent)
	p := dumped(t, filepath.Join(parent, "snapshots", "s2"))
	var st unix.Statfs_t
	qt.Assert(t, qt.IsNil(unix.Statfs(parent, &st)))
	left := uint64(1 << 20)
	qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(parent, "full"), make([]byte, st.Bavail*uint64(st.Bsize)-left), 0o600)))
	second := manifest()
	var said []string
	unpin, err := p.adoptMemory(t.Context(), &MemoryOptions{Store: s, Last: dir, Remark: func(text string) { said = append(said, text) }}, second)
	qt.Assert(t, qt.IsNil(err))
	unpin()
	qt.Assert(t, qt.HasLen(said, 1))
	qt.Check(t, qt.Matches(said[0], "memory is stored whole, since .*: that may take [0-9]+ MiB of room for a moment, and [01] MiB are there"))
	qt.Check(t, qt.ContentEquals(second.MemoryFiles(), m.MemoryFiles()))
	qt.Check(t, qt.Not(qt.Equals(second.Memory[0].Image, "")))
}
