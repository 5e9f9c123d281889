package layer

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/tree"
)

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
	dir := s.path("root/state/copy")
	write(t, dir, map[string]string{"d/x": "x"})
	qt.Assert(t, qt.IsNil(tree.Marks{MetadataOnly: true, Redirect: "/d/elsewhere/y"}.Set(filepath.Join(dir, "d/x"))))
	qt.Assert(t, qt.IsNil(tree.Marks{Opaque: true}.Set(filepath.Join(dir, "d"))))
	l, err := s.layers.Adopt(t.Context(), dir)
	qt.Assert(t, qt.IsNil(err))
	base := s.path("root/state/copy")
	write(t, base, map[string]string{"d": "a file"})
	below, err := s.layers.Adopt(t.Context(), base)
	qt.Assert(t, qt.IsNil(err))
	_, err = s.stubs.Make(t.Context(), []Ref{l, below}, s.path("root"), "/state/layers")
	qt.Assert(t, qt.ErrorIs(err, tree.ErrDamaged))
	used, err := s.stubs.Used()
	qt.Assert(t, qt.IsTrue(err == nil && !used))

	// A changed mark is damage.
	qt.Assert(t, qt.IsNil(unix.Lremovexattr(filepath.Join(s.layers.Path(l.ID), "d"), "trusted.overlay.opaque")))
	qt.Assert(t, qt.ErrorIs(s.layers.Check(t.Context(), l, memory.ByStamp), tree.ErrDamaged))
}

// TestStubsWithoutAttributes has a file system for stubs that takes no attributes of
// users, as a tmpfs before Linux 6.6.
func TestStubsWithoutAttributes(t *testing.T) {
	s := newStack(t)
	mount(t, "ramfs", s.path("stubs"), "")
	var err error
	s.stubs, err = OpenStubs(s.path("stubs"), s.layers)
	qt.Assert(t, qt.IsNil(err))
	dir := s.path("root/state/copy")
	write(t, dir, map[string]string{"d/x": ""})
	takes, err := s.stubs.Takes(dir)
	qt.Assert(t, qt.IsTrue(err == nil && takes))
	qt.Assert(t, qt.IsNil(unix.Setxattr(filepath.Join(dir, "d/x"), "user.color", []byte("red"), 0)))
	takes, err = s.stubs.Takes(dir)
	qt.Assert(t, qt.IsTrue(err == nil && !takes))
	l, err := s.layers.Adopt(t.Context(), dir)
	qt.Assert(t, qt.IsNil(err))
	_, err = s.stubs.Make(t.Context(), []Ref{l}, s.path("root"), "/state/layers")
	qt.Assert(t, qt.ErrorIs(err, ErrNoStubs))
	left, err := os.ReadDir(s.path("stubs"))
	qt.Assert(t, qt.IsTrue(err == nil && len(left) == 1 && left[0].Name() == "trees"))
}

// TestStubsAreMadeOnce has many make one tree at the same time, after a process was
// killed that made another.
func TestStubsAreMadeOnce(t *testing.T) {
	s := newStack(t)
	dir := s.path("root/state/copy")
	for i := range 200 {
		write(t, dir, map[string]string{fmt.Sprint("d/", i): "x"})
	}
	l, err := s.layers.Adopt(t.Context(), dir)
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
			made, err := s.stubs.Make(t.Context(), []Ref{l}, s.path("root"), "/state/layers")
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
