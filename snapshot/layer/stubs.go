package layer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/keep"
	"github.com/snapctl/snapctl/snapshot/tree"
)

// ErrNoStubs are layers that stubs can't be made of.
var ErrNoStubs = errors.New("storage layers can't be told by stubs")

// Stubs makes trees of stubs. A stub is a file without data that is marked as a file of
// which only the metadata was copied. It leads to its data by a path in the lower root. A
// tree has a stub for each file that an overlay would show of a stack of layers above a
// lower root. So the tree stands for the layers where an overlay refuses them for lower
// directories, since they are inside the lower root themselves.
//
//	tree            a lower directory of overlays; on another file system than the root
//	lower root      the next one: the stubs' data is found in it
//
// One tree stands for a whole stack: a layer between a stub and the lower root could
// hide the directory that the layers are in, as apps' files do.
//
// [Stubs.Make] makes a tree when it is needed. Only complete trees outlive a crash, and no
// tree outlives its file system. Many may use a Stubs at the same time.
type Stubs struct {
	dir      *keep.Dir
	building string
	layers   *Store

	mu sync.Mutex // while a tree is made
}

// OpenStubs opens the trees in dir, and removes what a crash has left half-made there. The
// directory should be on a tmpfs, since no file in it needs to outlive a reboot.
func OpenStubs(dir string, layers *Store) (*Stubs, error) {
	s := &Stubs{building: filepath.Join(dir, "building"), layers: layers}
	tries, err := filepath.Glob(filepath.Join(dir, tryPrefix+"*"))
	if err != nil {
		return nil, fmt.Errorf("open stubs: %w", err)
	}
	for _, left := range append(tries, s.building) {
		if err := os.RemoveAll(left); err != nil {
			return nil, fmt.Errorf("open stubs: %w", err)
		}
	}
	s.dir, err = keep.Open(filepath.Join(dir, "trees"))
	return s, err
}

// Stack names the tree of layers, the topmost first, that are in the directory
// within of the lower root.
func (s *Stubs) Stack(layers []Ref, within string) string {
	h := sha256.New()
	fmt.Fprintln(h, within)
	for _, l := range layers {
		fmt.Fprintln(h, l.ID)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Make makes the tree of layers, if it is not there, and returns where it is. within
// is where the layers' directory is in the lower root. The caller has a record that
// names the layers, or the tree may be swept. Returns an error wrapping ErrNoStubs if
// the layers have what the tree's file system can't take.
func (s *Stubs) Make(ctx context.Context, layers []Ref, root, within string) (string, error) {
	name := s.Stack(layers, within)
	s.dir.Pin(name)
	defer s.dir.Unpin(name)
	made := s.dir.Path(name)
	if there, err := tree.Exists(made); err != nil || there {
		return made, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if there, err := tree.Exists(made); err != nil || there {
		return made, err
	}
	if err := os.RemoveAll(s.building); err != nil { // of one that failed
		return "", fmt.Errorf("make stubs: %w", err)
	}
	if err := s.build(ctx, layers, root, within); err != nil {
		return "", errors.Join(fmt.Errorf("make stubs: %w", err), os.RemoveAll(s.building))
	}
	if err := os.Rename(s.building, made); err != nil {
		return "", fmt.Errorf("make stubs: %w", err)
	}
	return made, nil
}

// tryPrefix is the prefix of the directories in which Takes tries something. OpenStubs removes
// those that a crash has left.
const tryPrefix = "try-"

// Takes tells whether stubs can have the extended attributes of the files of a tree
// that is to be a layer.
func (s *Stubs) Takes(dir string) (_ bool, err error) {
	try, err := os.MkdirTemp(filepath.Dir(s.building), tryPrefix)
	if err != nil {
		return false, fmt.Errorf("try stubs: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(try)) }()
	file := filepath.Join(try, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return false, fmt.Errorf("try stubs: %w", err)
	}
	tried := make(map[string]bool)
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		names, err := tree.Xattrs(p)
		to := file
		if d.IsDir() {
			to = try
		}
		if slices.ContainsFunc(names, func(name string) bool { return !tried[to+name] }) && err == nil {
			err = tree.CopyXattrs(p, to)
		}
		for _, name := range names {
			tried[to+name] = true
		}
		return err
	})
	if _, ok := errors.AsType[*tree.XattrError](err); ok {
		return false, nil
	}
	return err == nil, err
}

func (s *Stubs) build(ctx context.Context, layers []Ref, root, within string) error {
	trees, data := make([]string, len(layers)), make([]string, len(layers))
	for i, l := range layers {
		trees[i] = s.layers.Path(l.ID)
		data[i] = path.Join(within, string(l.ID), treeDir)
	}
	v, err := openView(trees, root)
	if err != nil {
		return err
	}
	defer v.close()
	m := tree.NewMaker()
	err = v.flatten(ctx, s.building, func(f *seen, natural, to string) error {
		var marks tree.Marks
		switch {
		case f.kind == directory:
			if f.fromRoot != natural {
				marks.Redirect, marks.Opaque = f.fromRoot, f.fromRoot == ""
			}
		case f.st.Mode&unix.S_IFMT != unix.S_IFREG || f.st.Size == 0:
		case f.fromRoot == "":
			marks = tree.Marks{MetadataOnly: true, Redirect: path.Join(data[f.data.layer], f.data.path)}
		case f.fromRoot == natural:
			marks.MetadataOnly = true
		default:
			marks = tree.Marks{MetadataOnly: true, Redirect: f.fromRoot}
		}
		if err := m.Make(v.file(f.at), to, &f.st, ""); err != nil {
			return err
		}
		return marks.Set(to)
	})
	if _, ok := errors.AsType[*tree.XattrError](err); ok {
		// Before Linux 6.6 a tmpfs takes none of users (mm/shmem.c,
		// shmem_user_xattr_handler).
		return fmt.Errorf("%w: %w", ErrNoStubs, err)
	}
	return err
}

// Sweep removes the trees that are not needed: see [keep.Dir.Sweep].
func (s *Stubs) Sweep(needed func() (map[string]bool, error)) error {
	_, err := s.dir.Sweep(needed)
	return err
}

// Used tells whether there are trees.
func (s *Stubs) Used() (bool, error) {
	entries, err := os.ReadDir(s.dir.Path("."))
	if err != nil {
		return false, fmt.Errorf("look for stubs: %w", err)
	}
	return len(entries) > 0, nil
}
