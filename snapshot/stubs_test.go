package snapshot

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
)

// stack is an overlay of layers that are inside its own lower root.
type stack struct {
	t      *testing.T
	dir    string // root, with state in it; stubs, mnt
	layers *Layers
	stubs  *Stubs
	made   []Layer // the topmost first
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
	s.layers, err = OpenLayers(s.path("root/state/layers"))
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
		tree, err := s.stubs.Make(s.t.Context(), s.made, s.path("root"), "/state/layers")
		qt.Assert(s.t, qt.IsNil(err))
		lower = tree + ":" + lower
	} else { // as the daemon hides its state
		qt.Assert(s.t, qt.IsNil(os.Mkdir(filepath.Join(s.upper, "state"), 0o700)))
		qt.Assert(s.t, qt.IsNil(Marks{Opaque: true}.set(filepath.Join(s.upper, "state"))))
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
	tree := s.path("root/state/copy")
	qt.Assert(s.t, qt.IsNil(CopyUpper(s.t.Context(), s.upper, tree)))
	l, err := s.layers.adopt(s.t.Context(), tree)
	qt.Assert(s.t, qt.IsNil(err))
	qt.Assert(s.t, qt.IsNil(s.layers.Check(s.t.Context(), l, ByDigest)))
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
		names, err := listXattrs(p)
		if err != nil {
			return err
		}
		for _, name := range names {
			if strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "trusted.x") || strings.HasPrefix(name, "security.capability") {
				value, err := getXattr(p, name)
				if err != nil {
					return err
				}
				line += fmt.Sprintf(" %s=%x", name, value)
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
	qt.Assert(s.t, qt.IsNil(CopyLayers(s.t.Context(), trees, s.path("root"), copied)))
	qt.Assert(s.t, qt.IsNil(os.MkdirAll(work, 0o755)))
	qt.Assert(s.t, qt.CmpEquals(s.overlay(s.path("root"), copied, work, func(string) {}), want))
	marked := 0
	qt.Assert(s.t, qt.IsNil(filepath.WalkDir(copied, func(p string, _ fs.DirEntry, _ error) error {
		m, err := marksOf(p)
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

// TestStubs makes generations of layers by all that an overlay has marks for.
func TestStubs(t *testing.T) {
	s := newStack(t)
	write(t, s.path("root"), map[string]string{
		"etc/conf": "host", "etc/mode": "host mode", "etc/moved": "host moved", "usr/share/doc/a": "doc a", "usr/share/doc/sub/b": "doc b",
		"usr/gone/x": "x", "usr/opaque/hidden": "hidden", "swap": "a file",
	})
	steps := []func(at func(string) string) []error{
		func(at func(string) string) []error {
			write(t, at(""), map[string]string{"opt/app/data": "data 0", "opt/app/deep/er/file": "deep", "opt/empty": "", "opt/chmod": "to be chmodded", "opt/linked": "linked", "opt/rename/in/it": "in it"})
			return []error{
				os.Chmod(at("etc/mode"), 0o600), os.RemoveAll(at("usr/gone")), os.RemoveAll(at("usr/opaque")), os.Mkdir(at("usr/opaque"), 0o700),
				os.Link(at("opt/linked"), at("opt/linked-too")), os.Symlink("../etc/conf", at("opt/link")), unix.Mkfifo(at("opt/fifo"), 0o640),
				unix.Mknod(at("opt/device"), unix.S_IFCHR|0o600, 1<<8|3), unix.Setxattr(at("opt/app/data"), "user.color", []byte("red"), 0),
				unix.Setxattr(at("opt/app"), "trusted.x", []byte("y"), 0), os.Chown(at("opt/chmod"), 7, 8), os.Truncate(at("opt/empty"), 0),
				os.Mkdir(at("new"), 0o755), os.WriteFile(at("new/removed"), nil, 0o600), os.WriteFile(at("new/kept"), nil, 0o600),
				os.Rename(at("usr/share/doc"), at("opt/doc")), os.Rename(at("etc/moved"), at("opt/moved")),
				os.Chtimes(at("opt/chmod"), unixTime, unixTime), os.Chmod(at("opt"), 0o751),
			}
		},
		func(at func(string) string) []error {
			write(t, at(""), map[string]string{"opt/app/data": "data 1", "usr/opaque/new": "new"})
			return []error{
				os.Remove(at("new/removed")), os.Chmod(at("opt/chmod"), 0o4755), os.Chown(at("opt/linked"), 5, 5), os.Rename(at("opt/rename"), at("opt/renamed")),
				os.Rename(at("opt/doc/sub"), at("sub")), os.Remove(at("opt/fifo")), os.RemoveAll(at("opt/app/deep")), os.Mkdir(at("opt/app/deep"), 0o711),
				os.Rename(at("etc/conf"), at("etc/conf.old")), os.Remove(at("swap")), os.Mkdir(at("swap"), 0o755), os.Chmod(at("opt/moved"), 0o400),
				os.Rename(at("opt/chmod"), at("usr/chmodded")), unix.Setxattr(at("opt/empty"), "user.e", nil, 0), os.Chmod(at("sub/b"), 0o604),
			}
		},
		func(at func(string) string) []error {
			write(t, at(""), map[string]string{"opt/renamed/in/more": "more", "opt/doc/a": "doc a changed"})
			return []error{
				os.Chmod(at("usr/chmodded"), 0o711), os.Rename(at("opt/renamed/in"), at("in")), os.Rename(at("sub"), at("usr/share/sub")),
				os.Link(at("opt/moved"), at("opt/moved-too")), os.RemoveAll(at("swap")), os.Symlink("nowhere", at("swap")), os.Rename(at("opt"), at("opt2")),
				os.Mkdir(at("opt"), 0o755), os.Chown(at("opt2/app/data"), 1, 1),
			}
		},
		func(at func(string) string) []error {
			return []error{os.RemoveAll(at("opt2/app")), os.Rename(at("opt2"), at("opt/two")), os.Chmod(at("in/it"), 0), os.Remove(at("usr/chmodded"))}
		},
	}
	for _, step := range steps {
		saw := s.mounted(func(root string) {
			for i, err := range step(func(name string) string { return filepath.Join(root, name) }) {
				qt.Assert(t, qt.IsNil(err), qt.Commentf("step %d", i))
			}
		})
		s.keep()
		s.same(saw)
	}
	// What only has other modes, owners and names has no bytes in its layer.
	qt.Assert(t, qt.Equals(s.made[3].SizeBytes, int64(len("data 0")+len("deep")+len("to be chmodded")+len("linked")+len("in it"))))
	qt.Assert(t, qt.Equals(s.made[0].SizeBytes, int64(0)))
	used, err := s.stubs.Used()
	qt.Assert(t, qt.IsTrue(err == nil && used))
	qt.Assert(t, qt.IsNil(s.stubs.Sweep(func() (map[string]bool, error) { return nil, nil })))
	used, err = s.stubs.Used()
	qt.Assert(t, qt.IsTrue(err == nil && !used))
}

var unixTime = time.Unix(1e9, 5) //nolint:gochecknoglobals // a constant

// TestStubsByChance does to files what comes, generation upon generation.
func TestStubsByChance(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			s := newStack(t)
			r := rand.New(rand.NewPCG(seed, 0))
			name := func() string {
				parts := make([]string, 1+r.IntN(3))
				for i := range parts {
					parts[i] = string(rune('a' + r.IntN(4)))
				}
				return strings.Join(parts, "/")
			}
			for range 20 {
				p := filepath.Join(s.path("root"), name())
				if os.MkdirAll(filepath.Dir(p), 0o755) == nil {
					_ = os.WriteFile(p, []byte(p), 0o644) // or it is a directory
				}
			}
			for range 5 {
				saw := s.mounted(func(root string) {
					for range 40 {
						p, q := filepath.Join(root, name()), filepath.Join(root, name())
						// Much of it can't be done, which is as good.
						switch r.IntN(9) {
						case 0, 1:
							_ = os.MkdirAll(filepath.Dir(p), 0o755)
							_ = os.WriteFile(p, []byte(p), 0o644)
						case 2:
							_ = os.Mkdir(p, 0o755)
						case 3:
							_ = os.Chmod(p, fs.FileMode(r.IntN(8)<<6|0o055))
						case 4, 5:
							_ = os.Rename(p, q)
						case 6:
							_ = os.RemoveAll(p)
						case 7:
							_ = os.Link(p, q)
						case 8:
							_ = os.Chown(p, r.IntN(9), 0)
						}
					}
				})
				s.keep()
				s.same(saw)
			}
		})
	}
}

// TestStubsThatCannotBe: a mark that leads nowhere is no file of zeros.
func TestStubsThatCannotBe(t *testing.T) {
	s := newStack(t)
	tree := s.path("root/state/copy")
	write(t, tree, map[string]string{"d/x": "x"})
	qt.Assert(t, qt.IsNil(Marks{MetadataOnly: true, Redirect: "/d/elsewhere/y"}.set(filepath.Join(tree, "d/x"))))
	qt.Assert(t, qt.IsNil(Marks{Opaque: true}.set(filepath.Join(tree, "d"))))
	l, err := s.layers.adopt(t.Context(), tree)
	qt.Assert(t, qt.IsNil(err))
	base := s.path("root/state/copy")
	write(t, base, map[string]string{"d": "a file"})
	below, err := s.layers.adopt(t.Context(), base)
	qt.Assert(t, qt.IsNil(err))
	_, err = s.stubs.Make(t.Context(), []Layer{l, below}, s.path("root"), "/state/layers")
	qt.Assert(t, qt.ErrorIs(err, ErrDamaged))
	used, err := s.stubs.Used()
	qt.Assert(t, qt.IsTrue(err == nil && !used))

	// A changed mark is damage.
	qt.Assert(t, qt.IsNil(unix.Lremovexattr(filepath.Join(s.layers.Path(l.ID), "d"), opaqueMark)))
	qt.Assert(t, qt.ErrorIs(s.layers.Check(t.Context(), l, ByStamp), ErrDamaged))
	// It is none where the list knows of no marks of directories.
	dir := s.path("root/state/old")
	write(t, dir, map[string]string{"d/x": "x"})
	qt.Assert(t, qt.IsNil(Marks{Opaque: true}.set(filepath.Join(dir, "d"))))
	files, err := describeTree(t.Context(), dir)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsTrue(files[0].Type == "dir" && files[0].Opaque))
	qt.Assert(t, qt.IsNil(checkTree(t.Context(), dir, files, ByDigest)))
	files[0].Opaque = false
	qt.Assert(t, qt.ErrorIs(checkTree(t.Context(), dir, files, ByDigest), ErrDamaged))
	files[0].Stamp = ""
	qt.Assert(t, qt.IsNil(checkTree(t.Context(), dir, files, ByDigest)))
}

// TestStubsWithoutAttributes has a file system for stubs that takes no attributes of
// users, as a tmpfs before Linux 6.6.
func TestStubsWithoutAttributes(t *testing.T) {
	s := newStack(t)
	mount(t, "ramfs", s.path("stubs"), "")
	var err error
	s.stubs, err = OpenStubs(s.path("stubs"), s.layers)
	qt.Assert(t, qt.IsNil(err))
	tree := s.path("root/state/copy")
	write(t, tree, map[string]string{"d/x": ""})
	takes, err := s.stubs.Takes(tree)
	qt.Assert(t, qt.IsTrue(err == nil && takes))
	qt.Assert(t, qt.IsNil(unix.Setxattr(filepath.Join(tree, "d/x"), "user.color", []byte("red"), 0)))
	takes, err = s.stubs.Takes(tree)
	qt.Assert(t, qt.IsTrue(err == nil && !takes))
	l, err := s.layers.adopt(t.Context(), tree)
	qt.Assert(t, qt.IsNil(err))
	_, err = s.stubs.Make(t.Context(), []Layer{l}, s.path("root"), "/state/layers")
	qt.Assert(t, qt.ErrorIs(err, ErrNoStubs))
	left, err := os.ReadDir(s.path("stubs"))
	qt.Assert(t, qt.IsTrue(err == nil && len(left) == 1 && left[0].Name() == "trees"))
}

// TestSettle undoes and finishes the making of a layer.
func TestSettle(t *testing.T) {
	layers, err := OpenLayers(filepath.Join(t.TempDir(), "layers"))
	qt.Assert(t, qt.IsNil(err))
	tree := filepath.Join(t.TempDir(), "tree")
	write(t, tree, map[string]string{"a/b": "c"})
	n, err := layers.Describe(t.Context(), tree)
	qt.Assert(t, qt.IsNil(err))
	placed, err := layers.Settle(n.Layer, tree)
	qt.Assert(t, qt.IsTrue(err == nil && !placed))
	qt.Assert(t, qt.IsNil(n.Place()))
	placed, err = layers.Settle(n.Layer, tree)
	qt.Assert(t, qt.IsTrue(err == nil && placed))
	qt.Assert(t, qt.IsNil(layers.Check(t.Context(), n.Layer, ByDigest)))
	// Killed before the list was written.
	qt.Assert(t, qt.IsNil(os.Remove(filepath.Join(filepath.Dir(layers.Path(n.ID)), layerList))))
	placed, err = layers.Settle(n.Layer, tree)
	qt.Assert(t, qt.IsTrue(err == nil && !placed))
	b, err := os.ReadFile(filepath.Join(tree, "a/b"))
	qt.Assert(t, qt.IsTrue(err == nil && string(b) == "c"))
	empty := t.TempDir()
	n, err = layers.Describe(t.Context(), empty)
	qt.Assert(t, qt.IsTrue(err == nil && n == nil))
}

// TestStubsAreMadeOnce has many make one tree at the same time, after a process was
// killed that made another.
func TestStubsAreMadeOnce(t *testing.T) {
	s := newStack(t)
	tree := s.path("root/state/copy")
	for i := range 200 {
		write(t, tree, map[string]string{fmt.Sprint("d/", i): "x"})
	}
	l, err := s.layers.adopt(t.Context(), tree)
	qt.Assert(t, qt.IsNil(err))
	write(t, s.path("stubs"), map[string]string{"building/half": "", "try-1/file": ""})
	s.stubs, err = OpenStubs(s.path("stubs"), s.layers)
	qt.Assert(t, qt.IsNil(err))
	_, err = os.Lstat(s.path("stubs/building"))
	qt.Assert(t, qt.ErrorIs(err, fs.ErrNotExist))
	_, err = os.Lstat(s.path("stubs/try-1"))
	qt.Assert(t, qt.ErrorIs(err, os.ErrNotExist))

	var inodes [8]uint64
	var g errgroup.Group
	for i := range inodes {
		g.Go(func() error {
			made, err := s.stubs.Make(t.Context(), []Layer{l}, s.path("root"), "/state/layers")
			if err != nil {
				return err
			}
			var st unix.Stat_t
			err = unix.Stat(filepath.Join(made, "d/199"), &st)
			inodes[i] = st.Ino
			return err
		})
	}
	qt.Assert(t, qt.IsNil(g.Wait()))
	for _, ino := range inodes {
		qt.Assert(t, qt.Equals(ino, inodes[0]))
	}
}
