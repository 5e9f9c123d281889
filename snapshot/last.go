package snapshot

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/image/memmap"
	"github.com/snapctl/snapctl/snapshot/memory"
)

// lastMemory is the memory of an app's last snapshot, open and pinned until it is closed.
type lastMemory struct {
	store   *memory.Store
	pinned  []memory.File
	open    []memmap.Kept
	earlier *memmap.Earlier        // nil: there is nothing to compare with
	files   map[string]memory.File // by the name that a dump has for it if it uses it
}

// OpenLast opens the memory of the app's last snapshot, for memory that is copied while the app runs to be
// compared with; it may be nil. [Take] uses the same then. The caller calls CloseLast when that has
// returned.
func (o *MemoryOptions) OpenLast(ctx context.Context) *memmap.Earlier {
	if o.last == nil {
		o.last = o.openLast(ctx, maxBases-len(o.Bases)-maxAhead)
	}
	return o.last.earlier
}

// CloseLast closes what OpenLast has opened.
func (o *MemoryOptions) CloseLast() {
	if o.last != nil {
		o.last.close()
	}
	o.last = nil
}

// openLast opens the memory of the last snapshot, of whose files a dump may use so many. If it can't be
// used that is told, and the memory is stored whole. The caller closes it.
func (o *MemoryOptions) openLast(ctx context.Context, most int) *lastMemory {
	l := &lastMemory{store: o.Store, files: make(map[string]memory.File)}
	if o.Last == "" || most <= 0 {
		return l
	}
	if err := l.read(ctx, o.Last, most); err != nil {
		o.unusable(l, err)
	}
	return l
}

// unusable tells why the last snapshot is not compared with.
func (o *MemoryOptions) unusable(l *lastMemory, err error) {
	l.earlier = nil
	if o.Remark != nil {
		o.Remark(fmt.Sprintf("memory is stored whole, since the app's last snapshot, %s, could not be compared: %v", filepath.Base(string(o.Last)), err))
	}
}

// room tells whether what a dump does not share with others may be written beside all that it has.
func room(images string) error {
	paths, err := filepath.Glob(filepath.Join(images, "pages-*.img"))
	if err != nil {
		return err
	}
	needed := uint64(0)
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		needed += uint64(info.Size())
	}
	var st unix.Statfs_t
	if err := unix.Statfs(images, &st); err != nil {
		return fmt.Errorf("look for room: %w", err)
	}
	if free := st.Bavail * uint64(st.Bsize); free < needed {
		return fmt.Errorf("that may take %d MiB of room for a moment, and %d MiB are there", needed>>20, free>>20)
	}
	return nil
}

func (l *lastMemory) read(ctx context.Context, last Dir, most int) error {
	m, err := last.Manifest()
	if err != nil {
		return err
	}
	l.pinned = m.MemoryFiles()
	l.store.Pin(l.pinned)
	kept := make(map[string]memmap.Kept)
	for i := range m.Memory {
		f := &m.Memory[i]
		// It may have been swept before it was pinned.
		if err := l.store.Check(ctx, f.File, ByStamp); err != nil {
			return err
		}
		file, err := l.store.OpenFile(f.ID)
		if err != nil {
			return err
		}
		k := memmap.Kept{ID: string(f.ID), File: file}
		l.open = append(l.open, k)
		l.files[k.Name()] = f.File
		if f.Image != "" {
			kept[f.Image] = k
		}
		for _, name := range f.Names {
			kept[name] = k
		}
	}
	l.earlier, err = memmap.OpenEarlier(ctx, last.Images(), kept, most)
	return err
}

// bases adds the files that a dump uses, by their names, to other ones.
func (l *lastMemory) bases(others map[string]memory.File, used []string) map[string]memory.File {
	if len(used) == 0 {
		return others
	}
	all := maps.Clone(others)
	if all == nil {
		all = make(map[string]memory.File)
	}
	for _, name := range used {
		all[name] = l.files[name]
	}
	return all
}

func (l *lastMemory) close() {
	for _, k := range l.open {
		_ = k.File.Close() // only read from
	}
	l.store.Unpin(l.pinned)
}
