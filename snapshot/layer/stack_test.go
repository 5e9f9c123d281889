package layer

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/tree"
	"github.com/snapctl/snapctl/testenv"
)

// stack is an overlay of layers that are inside its own lower root.
type stack struct {
	t      *testing.T
	dir    string // root, with state in it; stubs, mnt
	layers *Store
	stubs  *Stubs
	made   []Ref // the topmost first
	upper  string
}

func newStack(t *testing.T) *stack {
	t.Helper()
	testenv.Need(t, testenv.Root)
	s := &stack{t: t, dir: t.TempDir()}
	for _, name := range []string{"root/state", "stubs", "mnt"} {
		qt.Assert(t, qt.IsNil(os.MkdirAll(s.path(name), 0o755)))
	}
	mount(t, "tmpfs", s.path("stubs"), "")
	var err error
	s.layers, err = Open(s.path("root/state/layers"))
	qt.Assert(t, qt.IsNil(err))
	s.stubs, err = OpenStubs(s.path("stubs"), s.layers)
	qt.Assert(t, qt.IsNil(err))
	return s
}

func (s *stack) path(name string) string { return filepath.Join(s.dir, name) }

func mount(t *testing.T, kind, dir, options string) {
	t.Helper()
	qt.Assert(t, qt.IsNil(unix.Mount("snapctl-test", dir, kind, 0, options)), qt.Commentf("%s", options))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(unix.Unmount(dir, unix.MNT_DETACH))) })
}

// mounted shows fn the layers with an empty upper directory above them, and returns
// what there is to see afterwards.
func (s *stack) mounted(fn func(root string)) []string {
	s.t.Helper()
	s.upper = s.path(fmt.Sprint("root/state/upper", len(s.made)))
	work := s.path(fmt.Sprint("root/state/work", len(s.made)))
	qt.Assert(s.t, qt.IsNil(os.RemoveAll(s.upper)))
	qt.Assert(s.t, qt.IsNil(os.MkdirAll(s.upper, 0o755)))
	qt.Assert(s.t, qt.IsNil(os.MkdirAll(work, 0o755)))
	lower := s.path("root")
	if len(s.made) > 0 {
		dir, err := s.stubs.Make(s.t.Context(), s.made, s.path("root"), "/state/layers")
		qt.Assert(s.t, qt.IsNil(err))
		lower = dir + ":" + lower
	} else { // as the daemon hides its state
		qt.Assert(s.t, qt.IsNil(os.Mkdir(filepath.Join(s.upper, "state"), 0o700)))
		qt.Assert(s.t, qt.IsNil(tree.Marks{Opaque: true}.Set(filepath.Join(s.upper, "state"))))
	}
	return s.overlay(lower, s.upper, work, fn)
}

func (s *stack) overlay(lower, upper, work string, fn func(root string)) []string {
	s.t.Helper()
	root := s.path("mnt")
	options := "lowerdir=" + lower + ",upperdir=" + upper + ",workdir=" + work + ",metacopy=on,index=off"
	qt.Assert(s.t, qt.IsNil(unix.Mount("snapctl-test", root, "overlay", 0, options)), qt.Commentf("%s", options))
	defer func() { qt.Check(s.t, qt.IsNil(unix.Unmount(root, 0))) }()
	fn(root)
	return tell(s.t, root)
}

// keep makes a layer of what was written.
func (s *stack) keep() {
	s.t.Helper()
	dir := s.path("root/state/copy")
	qt.Assert(s.t, qt.IsNil(CopyUpper(s.t.Context(), s.upper, dir)))
	l, err := s.layers.Adopt(s.t.Context(), dir)
	qt.Assert(s.t, qt.IsNil(err))
	qt.Assert(s.t, qt.IsNil(s.layers.Check(s.t.Context(), l, memory.ByDigest)))
	s.made = slices.Insert(s.made, 0, l)
}

// tell tells all of a tree: types, modes, owners, sizes, bytes, targets, attributes of
// users, which names are the same file, and when files were written.
func tell(t *testing.T, root string) []string {
	t.Helper()
	var lines []string
	first := make(map[uint64]string)
	err := filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%s %o %d:%d", rel, st.Mode, st.Uid, st.Gid)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %x written %d.%d", st.Size, sha256.Sum256(b), st.Mtim.Sec, st.Mtim.Nsec)
			if st.Nlink > 1 {
				// Not how many names it has: an overlay counts those that were it below.
				if name, ok := first[st.Ino]; ok {
					line += " is " + name
				} else {
					first[st.Ino] = rel
				}
			}
		case unix.S_IFLNK:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			line += " -> " + target
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" device %x", st.Rdev)
		}
		names, err := tree.Xattrs(p)
		if err != nil {
			return err
		}
		for _, name := range names {
			if strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "trusted.x") || strings.HasPrefix(name, "security.capability") {
				value := make([]byte, 256)
				n, err := unix.Lgetxattr(p, name, value)
				if err != nil {
					return err
				}
				line += fmt.Sprintf(" %s=%x", name, value[:n])
			}
		}
		lines = append(lines, line)
		return nil
	})
	qt.Assert(t, qt.IsNil(err))
	return lines
}

// same proves that a fresh app of the layers sees what the last one saw, however it
// has them.
func (s *stack) same(want []string) {
	s.t.Helper()
	qt.Assert(s.t, qt.CmpEquals(s.mounted(func(string) {}), want))
	var trees []string
	for _, l := range s.made {
		trees = append(trees, s.layers.Path(l.ID))
	}
	copied, work := s.path("root/state/copied"), s.path("root/state/copied-work")
	defer func() { qt.Check(s.t, qt.IsNil(os.RemoveAll(copied))) }()
	qt.Assert(s.t, qt.IsNil(Flatten(s.t.Context(), trees, s.path("root"), copied)))
	qt.Assert(s.t, qt.IsNil(os.MkdirAll(work, 0o755)))
	qt.Assert(s.t, qt.CmpEquals(s.overlay(s.path("root"), copied, work, func(string) {}), want))
	marked := 0
	qt.Assert(s.t, qt.IsNil(filepath.WalkDir(copied, func(p string, _ fs.DirEntry, _ error) error {
		m, err := tree.ReadMarks(p)
		if m.MetadataOnly || m.Redirect != "" {
			marked++
		}
		return err
	})))
	qt.Assert(s.t, qt.Equals(marked, 0)) // a copy needs nothing of any layer
}

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		p := filepath.Join(dir, name)
		qt.Assert(t, qt.IsNil(os.MkdirAll(filepath.Dir(p), 0o755)))
		qt.Assert(t, qt.IsNil(os.WriteFile(p, []byte(content), 0o644)))
	}
}
