package cargo

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/tree"
)

// admit looks whether there is room for what is going to be sent.
func (in *intake) admit(p plan) error {
	for _, n := range []int64{p.Bytes, p.Room.Memory, p.Room.Layers, p.Room.Files, p.Room.Snapshot} {
		if n < 0 || n > mostBytes {
			return malformed("%d bytes", n)
		}
	}
	const mostFiles = 1 << 30
	if p.Files < 0 || p.Files > mostFiles {
		return malformed("%d files", p.Files)
	}
	in.plan = p
	in.meter.TotalBytes, in.meter.TotalFiles = p.Bytes, p.Files
	return in.room(p.Room)
}

// margin is what a file system needs besides files.
func margin(needed int64) int64 { return needed/64 + 1<<20 }

// room looks for room on each of the file systems.
func (in *intake) room(r room) error {
	needed := make(map[unix.Fsid]int64)
	dirs := []string{in.stores.Memory.Dir(), in.stores.Layers.Dir(), in.stores.HostFiles.Dir(), filepath.Dir(in.target)}
	for i, n := range []int64{r.Memory, r.Layers, r.Files, r.Snapshot} {
		var st unix.Statfs_t
		if err := unix.Statfs(dirs[i], &st); err != nil {
			return fmt.Errorf("look for room in %s: %w", dirs[i], err)
		}
		needed[st.Fsid] += n
		free := int64(min(st.Bavail, mostBytes/uint64(st.Bsize))) * st.Bsize //nolint:gosec // bounded
		if all := needed[st.Fsid] + margin(needed[st.Fsid]); n > 0 && all > free {
			return &SpaceError{Dir: dirs[i], NeededBytes: all, FreeBytes: free}
		}
	}
	return nil
}

// full says how much is missing, if an error is that the disk has become full.
func (in *intake) full(err error) error {
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	if _, ok := errors.AsType[*SpaceError](err); ok {
		return err
	}
	// What was received is removed by now: it is as before the transfer, but for what others do.
	dir := filepath.Dir(in.target)
	e := &SpaceError{Dir: dir, NeededBytes: in.plan.Room.total() + margin(in.plan.Room.total())}
	var st unix.Statfs_t
	if serr := unix.Statfs(dir, &st); serr == nil {
		e.FreeBytes = int64(min(st.Bavail, mostBytes/uint64(st.Bsize))) * st.Bsize //nolint:gosec // bounded
	}
	return fmt.Errorf("%w: the disk became full in the middle: %w", e, err)
}

func (r room) total() int64 { return r.Memory + r.Layers + r.Files + r.Snapshot }

// adopt checks what was received, brings it to the disk, gives it its place in the stores, and has the
// manifest say how it is there.
func (in *intake) adopt(ctx context.Context) error {
	if err := in.adoptMemory(ctx); err != nil {
		return err
	}
	for id, b := range in.came.files {
		at := slices.IndexFunc(in.m.HostFiles, func(f hostfile.File) bool { return f.ID == id })
		got, err := in.stores.HostFiles.Put(ctx, in.m.HostFiles[at], b.path, b.modified)
		if err != nil {
			return err
		}
		in.here.files[id] = got
	}
	for content, g := range in.came.layers {
		if err := tree.Check(ctx, g.path, g.files, memory.ByDigest); err != nil {
			return err
		}
		if err := tree.Sync(ctx, g.path); err != nil {
			return err
		}
		ref, err := in.stores.Layers.Adopt(ctx, g.path)
		if err != nil {
			return err
		}
		in.here.layers[content] = ref
		if _, err := in.stores.Layers.Content(ref.ID); err != nil { // it is noted for the next time
			return err
		}
	}
	in.localize()
	return nil
}

func (in *intake) adoptMemory(ctx context.Context) error {
	var ids []memory.ID
	var paths []string
	for id, b := range in.came.memory {
		ids, paths = append(ids, id), append(paths, b.path)
	}
	if len(ids) == 0 {
		return nil
	}
	adopt := in.stores.Memory.AdoptAll
	if in.m.Passing {
		adopt = in.stores.Memory.AdoptVolatile
	}
	files, err := adopt(ctx, paths)
	if err != nil {
		return err
	}
	for i, f := range files {
		if f.ID != ids[i] {
			in.stores.Memory.Unpin(files)
			return fmt.Errorf("%w: memory file %s came with other bytes", tree.ErrDamaged, ids[i])
		}
	}
	for _, f := range files {
		in.here.memory[f.ID] = f
	}
	return nil
}

// localize has the manifest name what it needs as it is here.
func (in *intake) localize() {
	for i := range in.m.Memory {
		in.m.Memory[i].File = in.here.memory[in.m.Memory[i].ID]
	}
	for i, c := range in.contents {
		l := in.here.layers[c]
		in.m.Layers[i] = layer.Ref{ID: l.ID, SizeBytes: l.SizeBytes, Linked: l.Linked, Own: in.m.Layers[i].Own}
	}
	for i := range in.m.HostFiles {
		f := &in.m.HostFiles[i]
		// Without a stamp it is compared by its digest, or the copy is taken.
		f.Stamp = ""
		if got, ok := in.here.files[f.ID]; ok {
			f.StoreStamp, f.Own = got.StoreStamp, got.Own
			if f.Bind == "" {
				f.Stamp = got.Stamp
			}
		}
	}
}
