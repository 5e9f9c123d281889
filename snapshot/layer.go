package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/snapctl/snapctl/snapshot/keep"
	"github.com/snapctl/snapctl/snapshot/memory"
)

// Layer names the files that a snapshot has of an app: what the app wrote to its
// root, as a layer of an overlay. Clones and restored apps have it below their own
// writes, and snapshots of those name it in turn.
type Layer struct {
	ID        memory.ID `json:"sha256"` // of the list of its files
	SizeBytes int64     `json:"size_bytes"`
	Own       bool      `json:"own,omitempty"` // the snapshot made it; others came with the app
	// Linked is a layer with regular files of several names: see relink.Files.
	Linked bool `json:"linked,omitempty"`
}

// Names within the directory of a layer.
const (
	layerTree = "tree"
	layerList = "files.json"
)

// Layers is a directory of layers. They are immutable, and shared; see package keep.
type Layers struct{ dir *keep.Dir }

// OpenLayers opens the layers in dir, which it makes.
func OpenLayers(dir string) (*Layers, error) {
	d, err := keep.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open storage layers: %w", err)
	}
	return &Layers{d}, nil
}

// Path is the directory that is to be a lower layer of an overlay.
func (l *Layers) Path(id memory.ID) string { return filepath.Join(l.dir.Path(string(id)), layerTree) }

// Pin keeps layers from being swept until Unpin is called as often.
func (l *Layers) Pin(layers []Layer) {
	for _, one := range layers {
		l.dir.Pin(string(one.ID))
	}
}

// Unpin is the inverse of Pin, and of the pinning by adopt.
func (l *Layers) Unpin(layers []Layer) {
	for _, one := range layers {
		l.dir.Unpin(string(one.ID))
	}
}

// Sweep removes the layers that are neither pinned nor needed: see [keep.Dir.Sweep].
func (l *Layers) Sweep(needed func() (map[memory.ID]bool, error)) (freed int64, err error) {
	return keep.Sweep(l.dir, needed)
}

// adopt moves a directory tree, on the same file system, into the layers, and pins
// it. What reaches the disk is the caller's to see to, by syncTree.
func (l *Layers) adopt(ctx context.Context, tree string) (Layer, error) {
	n, err := l.describe(ctx, tree)
	if err != nil {
		return Layer{}, err
	}
	l.Pin([]Layer{n.Layer})
	if err := n.Place(); err != nil {
		l.Unpin([]Layer{n.Layer})
		return Layer{}, err
	}
	return n.Layer, nil
}

// NewLayer is a directory tree that is going to be a layer.
type NewLayer struct {
	Layer
	layers *Layers
	tree   string
	list   []byte
}

// Describe says what layer a directory tree would be, and brings it to the disk; nil
// if there is nothing in it, or it is not there. Nobody may change the tree from now on.
func (l *Layers) Describe(ctx context.Context, tree string) (*NewLayer, error) {
	if there, err := exists(tree); err != nil || !there {
		return nil, err
	}
	if names, err := listTree(tree); err != nil || len(names) == 0 {
		return nil, err
	}
	if err := syncTree(ctx, tree); err != nil {
		return nil, err
	}
	return l.describe(ctx, tree)
}

func (l *Layers) describe(ctx context.Context, tree string) (*NewLayer, error) {
	files, err := describeTree(ctx, tree)
	if err != nil {
		return nil, fmt.Errorf("make storage layer: %w", err)
	}
	linked, size, err := countLinks(tree, files)
	if err != nil {
		return nil, fmt.Errorf("make storage layer: %w", err)
	}
	list, err := json.Marshal(files)
	if err != nil {
		return nil, fmt.Errorf("make storage layer: %w", err)
	}
	sum := sha256.Sum256(list)
	return &NewLayer{Layer: Layer{ID: memory.ID(hex.EncodeToString(sum[:])), Own: true, Linked: linked, SizeBytes: size}, layers: l, tree: tree, list: list}, nil
}

// Place gives the tree and its list the name of their content. It is the only one: its
// list has the inode numbers of its files. If it fails or its process is killed,
// [Layers.Settle] finishes or undoes it.
func (n *NewLayer) Place() error {
	path := n.layers.dir.Path(string(n.ID))
	err := errors.Join(os.RemoveAll(path), os.Mkdir(path, 0o700))
	if err == nil {
		err = os.Rename(n.tree, filepath.Join(path, layerTree))
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(path, layerList), n.list, 0o400)
	}
	if err == nil {
		err = errors.Join(syncPath(filepath.Join(path, layerList)), syncPath(path), syncPath(filepath.Dir(path)))
	}
	if err != nil {
		return fmt.Errorf("make storage layer: %w", err)
	}
	return nil
}

// Settle finds out whether [NewLayer.Place] gave a tree the name of a layer. If it did
// so half-way, the tree gets its own name back.
func (l *Layers) Settle(layer Layer, tree string) (placed bool, err error) {
	path := l.dir.Path(string(layer.ID))
	moved := filepath.Join(path, layerTree)
	if there, err := exists(moved); err != nil || !there {
		return false, err
	}
	list, err := os.ReadFile(filepath.Join(path, layerList))
	if sum := sha256.Sum256(list); err == nil && hex.EncodeToString(sum[:]) == string(layer.ID) {
		return true, nil
	}
	if err := os.Rename(moved, tree); err != nil {
		return false, fmt.Errorf("undo storage layer: %w", err)
	}
	return false, nil
}

// Check tells whether a layer is what its name says: by digest every byte, by
// stamp that no file has changed since. Returns an error wrapping ErrDamaged.
func (l *Layers) Check(ctx context.Context, layer Layer, depth Depth) error {
	if err := layer.ID.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	damaged := func(what string, err error) error {
		return fmt.Errorf("%w: storage layer %s: %s: %w", ErrDamaged, layer.ID, what, err)
	}
	if depth == BySize {
		for _, name := range []string{layerList, layerTree} {
			if _, err := os.Lstat(filepath.Join(l.dir.Path(string(layer.ID)), name)); err != nil {
				return damaged(name, err)
			}
		}
		return nil
	}
	list, err := readRegular(filepath.Join(l.dir.Path(string(layer.ID)), layerList))
	if err != nil {
		return damaged(layerList, err)
	}
	sum := sha256.Sum256(list)
	if hex.EncodeToString(sum[:]) != string(layer.ID) {
		return damaged(layerList, errors.New("its content changed"))
	}
	var files []File
	if err := json.Unmarshal(list, &files); err != nil {
		return damaged(layerList, err)
	}
	if err := checkTree(ctx, l.Path(layer.ID), files, depth); err != nil {
		return fmt.Errorf("storage layer %s: %w", layer.ID, err)
	}
	return nil
}

// describeTree lists all below dir with digests and stamps.
func describeTree(ctx context.Context, dir string) ([]File, error) {
	names, err := listTree(dir)
	if err != nil {
		return nil, err
	}
	files := make([]File, len(names))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for i, name := range names {
		g.Go(func() error {
			f, err := describe(dir, name)
			if err != nil {
				return err
			}
			if f.MetadataOnly { // what it reads as is not its content
				files[i] = f
				return nil
			}
			if f.SHA256, err = digest(ctx, filepath.Join(dir, name), f.Type); err != nil {
				return fmt.Errorf("hash %s: %w", name, err)
			}
			files[i] = f
			return nil
		})
	}
	return files, g.Wait()
}
