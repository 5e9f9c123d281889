package snapshot

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/memmap"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/tree"
	"github.com/snapctl/snapctl/testenv"
)

// dumped begins a snapshot of what is a real dump but for what its pages hold, with
// enough memory in four processes to be mapped.
func dumped(t *testing.T, target string) *Partial {
	t.Helper()
	p, err := Begin(target)
	qt.Assert(t, qt.IsNil(err))
	images := p.Dir().Images()
	qt.Assert(t, qt.IsNil(os.CopyFS(images, os.DirFS("image/imagetest/testdata/plain"))))
	list, err := os.Open(filepath.Join(images, "pages.txt"))
	qt.Assert(t, qt.IsNil(err))
	defer func() { qt.Check(t, qt.IsNil(list.Close())) }()
	for lines := bufio.NewScanner(list); lines.Scan(); {
		var name string
		var size int
		_, err := fmt.Sscan(lines.Text(), &name, &size)
		qt.Assert(t, qt.IsNil(err))
		data := make([]byte, size)
		for at := 0; at < size; at += image.PageSize {
			copy(data[at:], name)
			binary.LittleEndian.PutUint64(data[at+64:], uint64(at))
		}
		qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(images, name), data, 0o600)))
	}
	qt.Assert(t, qt.IsNil(os.Remove(list.Name())))
	return p
}

func openStore(t *testing.T, dir string) *memory.Store {
	t.Helper()
	s, err := memory.Open(filepath.Join(dir, "memory"))
	qt.Assert(t, qt.IsNil(err))
	return s
}

// sweepAll sweeps what nothing but manifests may need.
func sweepAll(t *testing.T, s *memory.Store, manifests ...*Manifest) {
	t.Helper()
	_, err := s.Sweep(func() (map[memory.ID]bool, error) {
		needed := make(map[memory.ID]bool)
		for _, m := range manifests {
			for _, f := range m.MemoryFiles() {
				needed[f.ID] = true
			}
		}
		return needed, nil
	})
	qt.Assert(t, qt.IsNil(err))
}

// describedAnew gives a directory a manifest of what is in it now.
func describedAnew(t *testing.T, dir Dir, m *Manifest) (err error) {
	t.Helper()
	m.Files, err = tree.Describe(t.Context(), string(dir), ownFiles...)
	qt.Assert(t, qt.IsNil(err))
	return writeManifest(string(dir), m)
}

// committed is a snapshot with memory files.
func committed(t *testing.T, parent string) (Dir, *Manifest, *memory.Store) {
	t.Helper()
	s, p, m := openStore(t, parent), dumped(t, filepath.Join(parent, "snapshots", "s1")), manifest()
	unpin, err := p.adoptMemory(t.Context(), &MemoryOptions{Store: s}, m)
	qt.Assert(t, qt.IsNil(err))
	dir, err := p.Commit(t.Context(), m)
	qt.Assert(t, qt.IsNil(err))
	unpin()
	return dir, m, s
}

func TestAdoptMemory(t *testing.T) {
	parent := t.TempDir()
	dir, m, s := committed(t, parent)
	qt.Assert(t, qt.HasLen(m.Memory, 4))
	sweepAll(t, s, m)
	qt.Assert(t, qt.HasLen(names(t, filepath.Join(parent, "memory")), 4))
	for _, f := range m.Memory {
		info, err := os.Lstat(filepath.Join(dir.Images(), f.Image))
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.Equals(info.Mode().Type(), os.ModeSymlink))
	}
	for _, depth := range []Depth{ByStamp, ByDigest} {
		got, err := dir.Open(t.Context(), depth, s)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.DeepEquals(got.Memory, m.Memory))
	}
	// A snapshot of the same memory needs no more room for it.
	second := dumped(t, filepath.Join(parent, "snapshots", "s2"))
	unpin, err := second.adoptMemory(t.Context(), &MemoryOptions{Store: s}, manifest())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(names(t, filepath.Join(parent, "memory")), 4))
	unpin()
	qt.Assert(t, qt.IsNil(second.Discard()))
	qt.Assert(t, qt.IsNil(dir.Remove()))
	sweepAll(t, s)
	qt.Assert(t, qt.HasLen(names(t, filepath.Join(parent, "memory")), 0))
}

// TestAdoptMemoryFails fails at the third of four pages images.
func TestAdoptMemoryFails(t *testing.T) {
	parent := t.TempDir()
	dir, m, s := committed(t, parent)
	qt.Assert(t, qt.IsNil(dir.Remove()))
	sweepAll(t, s)
	inTheWay := s.Path(m.Memory[2].ID)
	qt.Assert(t, qt.IsNil(os.MkdirAll(inTheWay, 0o700)))

	p := dumped(t, filepath.Join(parent, "snapshots", "s2"))
	_, err := p.adoptMemory(t.Context(), &MemoryOptions{Store: s}, manifest())
	qt.Assert(t, qt.IsNotNil(err))
	qt.Assert(t, qt.IsNil(p.Discard()))
	qt.Assert(t, qt.HasLen(names(t, filepath.Join(parent, "snapshots")), 0))
	sweepAll(t, s)
	qt.Assert(t, qt.HasLen(names(t, filepath.Join(parent, "memory")), 0))
}

// TestOpenNamesTheMemoryFile damages one that a snapshot needs.
func TestOpenNamesTheMemoryFile(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"missing":   os.Remove,
		"truncated": func(path string) error { return os.Truncate(path, 100) },
		"changed": func(path string) error {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			b[len(b)/2]++
			return os.WriteFile(path, b, 0o400)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, m, s := committed(t, t.TempDir())
			bad := m.Memory[1].ID
			qt.Assert(t, qt.IsNil(damage(s.Path(bad))))
			for _, depth := range []Depth{ByStamp, ByDigest} {
				_, err := dir.Open(t.Context(), depth, s)
				qt.Check(t, qt.ErrorIs(err, tree.ErrDamaged))
				qt.Check(t, qt.ErrorIs(err, memory.ErrDamaged))
				qt.Check(t, qt.ErrorMatches(err, ".*"+string(bad)+".*"))
			}
		})
	}
}

// TestOpenRefusesLinks has the manifest and its digest agree with a link that leads
// where CRIU must not go.
func TestOpenRefusesLinks(t *testing.T) {
	for name, target := range map[string]func(m *Manifest, s *memory.Store, dir Dir) string{
		"absolute": func(m *Manifest, s *memory.Store, _ Dir) string { return s.Path(m.Memory[0].ID) },
		"another memory file": func(m *Manifest, _ *memory.Store, _ Dir) string {
			return "../../../memory/" + string(m.Memory[1].ID)
		},
		"another way": func(m *Manifest, _ *memory.Store, _ Dir) string {
			return "../images/../../../memory/" + string(m.Memory[0].ID)
		},
		"over another link": func(m *Manifest, s *memory.Store, dir Dir) string {
			way := filepath.Join(filepath.Dir(string(dir)), "way")
			qt.Assert(t, qt.IsNil(os.Symlink(s.Path(m.Memory[0].ID), way)))
			return "../../way"
		},
		"a file of the host":  func(*Manifest, *memory.Store, Dir) string { return "/etc/hostname" },
		"nothing":             func(*Manifest, *memory.Store, Dir) string { return "../../../memory/nothing" },
		"the store":           func(*Manifest, *memory.Store, Dir) string { return "../../../memory" },
		"an image of its own": func(*Manifest, *memory.Store, Dir) string { return "files.img" },
	} {
		t.Run(name, func(t *testing.T) {
			dir, m, s := committed(t, t.TempDir())
			link := filepath.Join(dir.Images(), m.Memory[0].Image)
			qt.Assert(t, qt.IsNil(os.Remove(link)))
			qt.Assert(t, qt.IsNil(os.Symlink(target(m, s, dir), link)))
			qt.Assert(t, qt.IsNil(describedAnew(t, dir, m)))
			_, err := dir.Open(t.Context(), ByDigest, s)
			qt.Assert(t, qt.ErrorIs(err, tree.ErrDamaged))
			qt.Assert(t, qt.ErrorMatches(err, ".*"+m.Memory[0].Image+": it does not lead to memory file "+string(m.Memory[0].ID)))
		})
	}
	for name, forge := range map[string]func(dir Dir, m *Manifest) error{
		"a link to a memory file that is not named": func(_ Dir, m *Manifest) error {
			m.Memory = m.Memory[1:]
			return nil
		},
		"the link replaced by the file": func(dir Dir, m *Manifest) error {
			image := filepath.Join(dir.Images(), m.Memory[0].Image)
			b, err := os.ReadFile(image)
			if err != nil {
				return err
			}
			if err := os.Remove(image); err != nil {
				return err
			}
			return os.WriteFile(image, b, 0o600)
		},
		"no such image":       func(_ Dir, m *Manifest) error { m.Memory[0].Image = "pages-99.img"; return nil },
		"image twice":         func(_ Dir, m *Manifest) error { m.Memory[0].Image = m.Memory[1].Image; return nil },
		"image elsewhere":     func(_ Dir, m *Manifest) error { m.Memory[0].Image = "../images/pages-3.img"; return nil },
		"not a memory file":   func(_ Dir, m *Manifest) error { m.Memory[0].ID = "../../etc"; return nil },
		"a FIFO for an image": func(dir Dir, _ *Manifest) error { return unix.Mkfifo(filepath.Join(dir.Images(), "x.img"), 0o600) },
		"an image is a link": func(dir Dir, _ *Manifest) error {
			return os.Symlink("files.img", filepath.Join(dir.Images(), "x.img"))
		},
		"the files are a link": func(dir Dir, _ *Manifest) error { return os.Symlink("/etc", dir.Storage()) },
		"the images are a link": func(dir Dir, _ *Manifest) error {
			if err := os.Rename(dir.Images(), string(dir)+"-images"); err != nil {
				return err
			}
			return os.Symlink("../s1-images", dir.Images())
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, m, _ := committed(t, t.TempDir())
			qt.Assert(t, qt.IsNil(forge(dir, m)))
			qt.Assert(t, qt.ErrorIs(describedAnew(t, dir, m), ErrInvalid))
		})
	}
}

// later begins a snapshot of processes that have the memory of another mapped.
func later(t *testing.T, target string, dir Dir, m *Manifest) (_ *Partial, bases map[string]memory.File) {
	t.Helper()
	files := memmap.Files{Pages: make(map[string]string)}
	bases = make(map[string]memory.File)
	for _, f := range m.Memory {
		files.Pages[f.Image] = string(f.ID)
		bases["/"+string(f.ID)] = f.File
	}
	view, err := image.NewView(t.Context(), dir.Images(), filepath.Join(t.TempDir(), "view"))
	qt.Assert(t, qt.IsNil(err))
	_, err = memmap.Map(t.Context(), view, files)
	qt.Assert(t, qt.IsNil(err))
	p, err := Begin(target)
	qt.Assert(t, qt.IsNil(err))
	entries, err := os.ReadDir(view.Dir())
	qt.Assert(t, qt.IsNil(err))
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(view.Dir(), e.Name()))
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(p.Dir().Images(), e.Name()), b, 0o600)))
	}
	return p, bases
}

func TestAdoptMemoryOfALaterDump(t *testing.T) {
	parent := t.TempDir()
	dir, m, s := committed(t, parent)
	p, bases := later(t, filepath.Join(parent, "snapshots", "s2"), dir, m)
	second := manifest()
	unpin, err := p.adoptMemory(t.Context(), &MemoryOptions{Store: s, Bases: bases}, second)
	qt.Assert(t, qt.IsNil(err))
	_, err = p.Commit(t.Context(), second)
	qt.Assert(t, qt.IsNil(err))
	unpin()
	found := make(map[string]memory.File)
	for _, f := range second.Memory {
		for _, name := range f.Names {
			found[name] = f.File
		}
	}
	qt.Assert(t, qt.DeepEquals(found, bases))
	// The bases outlive the snapshot that they were made for.
	qt.Assert(t, qt.IsNil(dir.Remove()))
	sweepAll(t, s, second)
	_, err = Dir(filepath.Join(parent, "snapshots", "s2")).Open(t.Context(), ByDigest, s)
	qt.Assert(t, qt.IsNil(err))
}

// nothing is memory that was copied ahead, of which CRIU left out nothing.
type nothing struct{}

func (nothing) LeftBytes() uint64 { return 0 }

func (nothing) Complete(context.Context, string, map[string]int64) (earlier []string, files map[string]memory.File, err error) {
	return nil, nil, nil
}

// Processes have the memory of another snapshot mapped, and nothing of what was copied ahead was left out: all
// of it was written to since, or CRIU could not be made to leave it out.
func TestAdoptMemoryOfALaterDumpThatHasAll(t *testing.T) {
	parent := t.TempDir()
	dir, m, s := committed(t, parent)
	p, bases := later(t, filepath.Join(parent, "snapshots", "s2"), dir, m)
	second := manifest()
	unpin, err := p.adoptMemory(t.Context(), &MemoryOptions{Store: s, Bases: bases, Ahead: nothing{}}, second)
	qt.Assert(t, qt.IsNil(err))
	unpin()
	found := make(map[string]memory.File)
	for _, f := range second.Memory {
		qt.Check(t, qt.IsFalse(f.Ahead))
		for _, name := range f.Names {
			found[name] = f.File
		}
	}
	qt.Check(t, qt.DeepEquals(found, bases))
}

// TestCompact makes a dump one that needs no base, which adoptMemory must where
// nothing can be mapped.
func TestCompact(t *testing.T) {
	testenv.Need(t, testenv.Root)
	parent := t.TempDir()
	qt.Assert(t, qt.IsNil(unix.Mount("tmpfs", parent, "tmpfs", 0, "size=128m")))
	defer func() { qt.Check(t, qt.IsNil(unix.Unmount(parent, 0))) }()
	dir, m, s := committed(t, parent)
	p, bases := later(t, filepath.Join(parent, "snapshots", "s2"), dir, m)
	qt.Assert(t, qt.IsNil(unix.Mount("", parent, "", unix.MS_REMOUNT|unix.MS_NOEXEC, "size=128m")))
	second := manifest()
	unpin, err := p.adoptMemory(t.Context(), &MemoryOptions{Store: s, Bases: bases}, second)
	qt.Assert(t, qt.IsNil(err))
	unpin()
	qt.Assert(t, qt.HasLen(second.Memory, 0))
	qt.Assert(t, qt.DeepEquals(names(t, string(p.Dir())), []string{"images"}))
	sizes := make(map[string]int64)
	for name, f := range bases {
		sizes[name] = f.SizeBytes
	}
	use, err := memmap.Measure(t.Context(), p.Dir().Images(), sizes)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(use.BaseBytes, 0))
	for _, f := range m.Memory {
		now, err := os.ReadFile(filepath.Join(p.Dir().Images(), f.Image))
		qt.Assert(t, qt.IsNil(err))
		before, err := os.ReadFile(s.Path(f.ID))
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.IsTrue(string(now) == string(before)), qt.Commentf("%s", f.Image))
	}
	// Half a base makes no snapshot, and loses nothing.
	q, bases := later(t, filepath.Join(parent, "snapshots", "s3"), dir, m)
	qt.Assert(t, qt.IsNil(os.Truncate(s.Path(m.Memory[0].ID), image.PageSize)))
	_, err = q.adoptMemory(t.Context(), &MemoryOptions{Store: s, Bases: bases}, manifest())
	qt.Assert(t, qt.ErrorIs(err, image.ErrInconsistent))
	qt.Assert(t, qt.DeepEquals(names(t, string(q.Dir())), []string{"images"}))
	qt.Assert(t, qt.IsNil(q.Discard()))
}

// TestAdoptStorageOfOneFile: the app has written one file, which is called as the snapshot's own.
func TestAdoptStorageOfOneFile(t *testing.T) {
	parent := t.TempDir()
	layers, err := layer.Open(filepath.Join(parent, "layers"))
	qt.Assert(t, qt.IsNil(err))
	p, m := begin(t, filepath.Join(parent, "snapshots", "s1")), manifest()
	m.WithStorage = true
	qt.Assert(t, qt.IsNil(os.Mkdir(p.Dir().Storage(), 0o700)))
	qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(p.Dir().Storage(), manifestFile), []byte("{}"), 0o600)))
	unpin, err := p.adoptStorage(t.Context(), layers, m)
	qt.Assert(t, qt.IsNil(err))
	defer unpin()
	qt.Assert(t, qt.HasLen(m.Layers, 1))
	b, err := os.ReadFile(filepath.Join(layers.Path(m.Layers[0].ID), manifestFile))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(string(b), "{}"))
	qt.Assert(t, qt.IsNil(p.Discard()))
}
