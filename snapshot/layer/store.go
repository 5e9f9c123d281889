package layer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/snapctl/snapctl/snapshot/keep"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/tree"
)

// Ref names the files that a snapshot has of an app: what the app wrote to its
// root, as a layer of an overlay. Clones and restored apps have it below their own
// writes, and snapshots of those name it in turn.
type Ref struct {
	ID        memory.ID `json:"sha256"` // of the list of its files
	SizeBytes int64     `json:"size_bytes"`
	Own       bool      `json:"own,omitempty"` // the snapshot made it; others came with the app
	// Linked is a layer with regular files of several names: see relink.Files.
	Linked bool `json:"linked,omitempty"`
}

// Names within the directory of a layer.
const (
	treeDir  = "tree"
	listFile = "files.json"
)

// unlisted are files at the top of a layer that its list does not have if an older snapctl made it.
var unlisted = []string{"manifest.json", "manifest.sha256"} //nolint:gochecknoglobals // a constant

// Store is a directory of layers. They are immutable, and shared; see package keep.
type Store struct{ dir *keep.Dir }

// Open opens the layers in dir, which it makes.
func Open(dir string) (*Store, error) {
	d, err := keep.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open storage layers: %w", err)
	}
	return &Store{d}, nil
}

// Dir is the directory of the store.
func (l *Store) Dir() string { return l.dir.Path("") }

// Temporary returns a path for a directory tree that is to be adopted: see [keep.Dir.Temporary].
func (l *Store) Temporary() (path string, done func() error) { return l.dir.Temporary() }

// Path is the directory that is to be a lower layer of an overlay.
func (l *Store) Path(id memory.ID) string { return filepath.Join(l.dir.Path(string(id)), treeDir) }

// Pin keeps layers from being swept until Unpin is called as often.
func (l *Store) Pin(layers []Ref) {
	for _, one := range layers {
		l.dir.Pin(string(one.ID))
	}
}

// Unpin is the inverse of Pin, and of the pinning by Adopt.
func (l *Store) Unpin(layers []Ref) {
	for _, one := range layers {
		l.dir.Unpin(string(one.ID))
	}
}

// Sweep removes the layers that are neither pinned nor needed: see [keep.Dir.Sweep].
func (l *Store) Sweep(needed func() (map[memory.ID]bool, error)) (freed int64, err error) {
	return keep.Sweep(l.dir, needed)
}

// Adopt moves a directory tree, on the same file system, into the layers, and pins
// it. What reaches the disk is the caller's to see to, by [tree.Sync].
func (l *Store) Adopt(ctx context.Context, dir string) (Ref, error) {
	n, err := l.describe(ctx, dir)
	if err != nil {
		return Ref{}, err
	}
	l.Pin([]Ref{n.Ref})
	if err := n.Place(); err != nil {
		l.Unpin([]Ref{n.Ref})
		return Ref{}, err
	}
	return n.Ref, nil
}

// Draft is a directory tree that is going to be a layer.
type Draft struct {
	Ref
	layers *Store
	tree   string
	list   []byte
}

// Describe says what layer a directory tree would be, and brings it to the disk; nil
// if there is nothing in it, or it is not there. Nobody may change the tree from now on.
func (l *Store) Describe(ctx context.Context, dir string) (*Draft, error) {
	if there, err := tree.Exists(dir); err != nil || !there {
		return nil, err
	}
	if names, err := tree.List(dir); err != nil || len(names) == 0 {
		return nil, err
	}
	if err := tree.Sync(ctx, dir); err != nil {
		return nil, err
	}
	return l.describe(ctx, dir)
}

func (l *Store) describe(ctx context.Context, dir string) (*Draft, error) {
	files, err := tree.Describe(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("make storage layer: %w", err)
	}
	linked, size, err := countLinks(dir, files)
	if err != nil {
		return nil, fmt.Errorf("make storage layer: %w", err)
	}
	list, err := json.Marshal(files)
	if err != nil {
		return nil, fmt.Errorf("make storage layer: %w", err)
	}
	sum := sha256.Sum256(list)
	return &Draft{Ref: Ref{ID: memory.ID(hex.EncodeToString(sum[:])), Own: true, Linked: linked, SizeBytes: size}, layers: l, tree: dir, list: list}, nil
}

// Place gives the tree and its list the name of their content. It is the only one: its
// list has the inode numbers of its files. If it fails or its process is killed,
// [Store.Settle] finishes or undoes it.
func (n *Draft) Place() error {
	path := n.layers.dir.Path(string(n.ID))
	err := errors.Join(os.RemoveAll(path), os.Mkdir(path, 0o700))
	if err == nil {
		err = os.Rename(n.tree, filepath.Join(path, treeDir))
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(path, listFile), n.list, 0o400)
	}
	if err == nil {
		err = tree.SyncPaths(filepath.Join(path, listFile), path, filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("make storage layer: %w", err)
	}
	return nil
}

// Settle finds out whether [Draft.Place] gave a tree the name of a layer. If it did
// so half-way, the tree gets its own name back.
func (l *Store) Settle(layer Ref, dir string) (placed bool, err error) {
	path := l.dir.Path(string(layer.ID))
	moved := filepath.Join(path, treeDir)
	if there, err := tree.Exists(moved); err != nil || !there {
		return false, err
	}
	list, err := os.ReadFile(filepath.Join(path, listFile))
	if sum := sha256.Sum256(list); err == nil && hex.EncodeToString(sum[:]) == string(layer.ID) {
		return true, nil
	}
	if err := os.Rename(moved, dir); err != nil {
		return false, fmt.Errorf("undo storage layer: %w", err)
	}
	return false, nil
}

// Check tells whether a layer is what its name says: by digest every byte, by
// stamp that no file has changed since. Returns an error wrapping
// [tree.ErrDamaged].
func (l *Store) Check(ctx context.Context, layer Ref, depth memory.Depth) error {
	if err := layer.ID.Validate(); err != nil {
		return fmt.Errorf("%w: %w", tree.ErrDamaged, err)
	}
	if depth == memory.BySize {
		for _, name := range []string{listFile, treeDir} {
			if _, err := os.Lstat(filepath.Join(l.dir.Path(string(layer.ID)), name)); err != nil {
				return fmt.Errorf("%w: storage layer %s: %s: %w", tree.ErrDamaged, layer.ID, name, err)
			}
		}
		return nil
	}
	files, err := l.Files(layer.ID)
	if err != nil {
		return err
	}
	if err := tree.Check(ctx, l.Path(layer.ID), files, depth, unlisted...); err != nil {
		return fmt.Errorf("storage layer %s: %w", layer.ID, err)
	}
	return nil
}
