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
	files, err := describeTree(ctx, tree)
	if err != nil {
		return Layer{}, fmt.Errorf("make storage layer: %w", err)
	}
	list, err := json.Marshal(files)
	if err != nil {
		return Layer{}, fmt.Errorf("make storage layer: %w", err)
	}
	sum := sha256.Sum256(list)
	layer := Layer{ID: memory.ID(hex.EncodeToString(sum[:])), Own: true}
	for _, f := range files {
		if !f.MetadataOnly {
			layer.SizeBytes += f.SizeBytes
		}
	}
	l.dir.Pin(string(layer.ID))
	if err := l.place(tree, list, l.dir.Path(string(layer.ID))); err != nil {
		l.dir.Unpin(string(layer.ID))
		return Layer{}, fmt.Errorf("make storage layer: %w", err)
	}
	return layer, nil
}

// place gives a tree and its list the name of their content. What a crash leaves of
// it has no list.
func (l *Layers) place(tree string, list []byte, path string) error {
	if _, err := os.Lstat(filepath.Join(path, layerList)); err == nil {
		return os.RemoveAll(tree) // a tree of the same files, or with none
	}
	if err := errors.Join(os.RemoveAll(path), os.Mkdir(path, 0o700)); err != nil {
		return err
	}
	if err := os.Rename(tree, filepath.Join(path, layerTree)); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(path, layerList), list, 0o400); err != nil {
		return err
	}
	return errors.Join(syncPath(filepath.Join(path, layerList)), syncPath(path), syncPath(filepath.Dir(path)))
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
