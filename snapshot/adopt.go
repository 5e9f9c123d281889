package snapshot

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/memmap"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/tree"
)

// maxBases is how many memory files of earlier snapshots one may build on.
const maxBases = 8

// maxAhead is how many files memory is copied to while an app runs, at most, see package ahead.
const maxAhead = 4

// adoptMemory moves those pages images of a dump that are to be mapped into the
// store, leaves links to them, and notes them down in the manifest, together with
// the bases that the processes have mapped. It returns a function that unpins them
// all, for when the manifest is on the disk.
//
// Unless the dump is to stay whole, processes that were forked share what they have in
// common, and what the app's last snapshot has is not stored again, see [memmap.Share].
//
// If more has changed since the bases were made than has not, or there are too many
// of them, the dump is made one that needs none first. Where the store's
// files can't be mapped, see [memory.Store.Mappable], the memory stays in the dump.
//
// If it fails the images may have been changed, and the partial snapshot is only
// fit to be discarded; what was adopted goes with the next [memory.Store.Sweep].
func (p *Partial) adoptMemory(ctx context.Context, o *MemoryOptions, m *Manifest) (_ func(), err error) {
	images, store, bases := p.Dir().Images(), o.Store, o.Bases
	mappable, err := store.Mappable()
	if err != nil {
		return nil, err
	}
	sizes := make(map[string]int64, len(bases))
	for name, f := range bases {
		sizes[name] = f.SizeBytes
	}
	use, err := memmap.Measure(ctx, images, sizes)
	if err != nil {
		return nil, err
	}
	left := uint64(0)
	if o.Ahead != nil {
		left = o.Ahead.LeftBytes()
	}
	if len(use.Bases) > maxBases || len(use.Bases) > 0 && (use.OwnBytes+left > use.BaseBytes || !mappable) {
		if err := compact(ctx, store, bases, use.Bases, images); err != nil {
			return nil, err
		}
		if use, err = memmap.Measure(ctx, images, nil); err != nil {
			return nil, err
		}
	}
	var ahead map[string]memory.File
	if o.Ahead != nil {
		if bases, ahead, err = o.complete(ctx, images, bases, sizes); err != nil {
			return nil, err
		}
		if use, err = memmap.Measure(ctx, images, sizes); err != nil {
			return nil, err
		}
	}
	shared := &memmap.Shared{}
	switch {
	case !mappable:
		use.Pages = nil
	case !o.Whole:
		last := o.last
		if last == nil {
			last = o.openLast(ctx, maxBases-len(use.Bases))
			defer last.close()
		}
		if err := room(images); err != nil && last.earlier != nil {
			o.unusable(last, err)
		}
		if shared, use, err = share(ctx, images, sizes, use, last); err != nil {
			return nil, err
		}
		bases = last.bases(bases, shared.Earlier)
	}
	m.Memory = nil
	var pinned []memory.File
	defer func() {
		if err != nil {
			store.Unpin(pinned)
		}
	}()
	for _, name := range use.Bases {
		f, ok := bases[name]
		if !ok {
			continue // one of those that are shared
		}
		store.Pin([]memory.File{f})
		pinned = append(pinned, f)
		_, made := ahead[name]
		m.addBase(f, name, made)
	}
	paths := make([]string, len(use.Pages))
	for i, name := range use.Pages {
		paths[i] = filepath.Join(images, name)
	}
	adopt := store.AdoptAll
	if p.volatile || m.Passing {
		adopt = store.AdoptVolatile
	}
	adopted, err := adopt(ctx, paths)
	if err != nil {
		return nil, err
	}
	pinned = append(pinned, adopted...)
	for i, name := range use.Pages {
		f := adopted[i]
		target, err := linkTo(images, store, f.ID)
		if err != nil {
			return nil, err
		}
		if err := os.Symlink(target, filepath.Join(images, name)); err != nil {
			return nil, fmt.Errorf("link memory file: %w", err)
		}
		entry := Memory{File: f, Image: name}
		if as := shared.Images[name]; as != "" {
			entry.Names = []string{as}
		}
		m.Memory = append(m.Memory, entry)
	}
	return func() { store.Unpin(pinned) }, nil
}

// complete adds what was copied while the app ran. It returns all bases that there are then, and those that
// are new, and adds their sizes.
func (o *MemoryOptions) complete(ctx context.Context, images string, bases map[string]memory.File, sizes map[string]int64) (all, files map[string]memory.File, err error) {
	earlier, files, err := o.Ahead.Complete(ctx, images, sizes)
	if err != nil {
		return nil, nil, err
	}
	all = make(map[string]memory.File, len(files)+len(bases))
	maps.Copy(all, files)
	maps.Copy(all, bases)
	if len(earlier) > 0 {
		all = o.last.bases(all, earlier)
	}
	for name, f := range all {
		sizes[name] = f.SizeBytes
	}
	return all, files, nil
}

// share has processes share pages images, and those of the last snapshot, see [memmap.Share], and
// returns what they share, and what [memmap.Measure] finds then. sizes are those of the bases.
func share(ctx context.Context, images string, sizes map[string]int64, use *memmap.Use, last *lastMemory) (*memmap.Shared, *memmap.Use, error) {
	shared, err := memmap.Share(ctx, images, sizes, last.earlier)
	if err != nil || len(shared.Images)+len(shared.Earlier) == 0 {
		return shared, use, err
	}
	sizes = maps.Clone(sizes)
	for file, name := range shared.Images {
		info, err := os.Stat(filepath.Join(images, file))
		if err != nil {
			return nil, nil, fmt.Errorf("share memory: %w", err)
		}
		sizes[name] = info.Size()
	}
	for _, name := range shared.Earlier {
		sizes[name] = last.files[name].SizeBytes
	}
	use, err = memmap.Measure(ctx, images, sizes)
	return shared, use, err
}

// addBase notes a base under one of its names, which is one that was made ahead, or was there before.
func (m *Manifest) addBase(f memory.File, name string, ahead bool) {
	for i := range m.Memory {
		if m.Memory[i].ID == f.ID && m.Memory[i].Image == "" {
			m.Memory[i].Names = append(m.Memory[i].Names, name)
			return
		}
	}
	m.Memory = append(m.Memory, Memory{File: f, Names: []string{name}, Ahead: ahead})
}

// adoptStorage makes a layer of the app's files, if there are any, on top of those
// of the manifest. It returns a function that unpins all of them.
func (p *Partial) adoptStorage(ctx context.Context, layers *layer.Store, m *Manifest) (unpin func(), err error) {
	if !m.WithStorage {
		return func() {}, nil
	}
	pinned := slices.Clone(m.Layers)
	layers.Pin(pinned)
	unpin = func() { layers.Unpin(pinned) }
	defer func() {
		if err != nil {
			unpin()
		}
	}()
	dir := p.Dir().Storage()
	if there, err := tree.Exists(dir); err != nil || !there {
		return unpin, err // it is all in the manifest's layers
	}
	if names, err := tree.List(dir); err != nil || len(names) == 0 {
		return unpin, errors.Join(err, os.RemoveAll(dir))
	}
	if err := tree.Sync(ctx, dir); err != nil {
		return nil, err
	}
	made, err := layers.Adopt(ctx, dir)
	if err != nil {
		return nil, err
	}
	pinned = append(pinned, made)
	m.Layers = append([]layer.Ref{made}, m.Layers...)
	return unpin, nil
}

// compact makes the dump in images one that needs no base.
func compact(ctx context.Context, store *memory.Store, bases map[string]memory.File, names []string, images string) (err error) {
	files := make(map[string]*os.File)
	defer func() {
		for _, f := range files {
			_ = f.Close() // only read from
		}
	}()
	for _, name := range names {
		if files[name], err = store.OpenFile(bases[name].ID); err != nil {
			return err
		}
	}
	view, err := image.NewView(ctx, images, images+".compact")
	if err != nil {
		return err
	}
	if err := memmap.Copy(ctx, view, files); err != nil {
		return errors.Join(err, view.Remove())
	}
	if err := os.RemoveAll(images); err != nil {
		return errors.Join(fmt.Errorf("compact images: %w", err), view.Remove())
	}
	if err := os.Rename(view.Dir(), images); err != nil {
		return fmt.Errorf("compact images: %w", err)
	}
	return nil
}
