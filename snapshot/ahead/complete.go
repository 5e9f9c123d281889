package ahead

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/memmap"
	"github.com/snapctl/snapctl/snapshot/image/pageset"
	"github.com/snapctl/snapctl/snapshot/memory"
)

// Frozen finds out, of processes that stand still, which of the pages that were copied are as they were
// copied. A dump has to leave these out, which it returns by PID, and so no others.
func (m *Memory) Frozen(ctx context.Context) (map[int][]image.Extent, error) {
	out := make(map[int][]image.Extent)
	m.left = make(map[uint32]*memmap.Left)
	for _, p := range m.processes {
		same, other, err := m.tracker.Scan(ctx, p.PID)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			continue // it has ended, say: all of it is CRIU's
		}
		clean, dirty := setOf(same), setOf(other)
		own := memmap.PagesOf(p.own)
		left := &memmap.Left{
			Kept:  memmap.Clip(p.kept, clean.Union(dirty)),
			Pages: long(memmap.PagesOf(p.kept).Intersect(clean).Subtract(own.Union(p.stale))),
			Own:   memmap.Clip(p.own, clean),
		}
		pages := left.Pages.Union(memmap.PagesOf(left.Own))
		if len(pages) == 0 {
			continue
		}
		out[p.PID], m.left[p.Inside] = pages, left
	}
	return out, nil
}

// Complete adds to the images of a dump what that has left out, see [memmap.Complete]. It returns the
// names that the dump has for files of the app's last snapshot, and, by such names, the memory files that
// are new, which are pinned until Close.
func (m *Memory) Complete(ctx context.Context, images string, bases map[string]int64) (earlier []string, files map[string]memory.File, err error) {
	if !m.o.Ends { // the app goes on already, and need not pay for it any longer
		if err := m.tracker.Close(); err != nil {
			return nil, nil, fmt.Errorf("copy memory: %w", err)
		}
		m.ownWasted()
	}
	files = make(map[string]memory.File)
	ids := make(map[*os.File]memmap.Kept)
	for _, k := range m.kept {
		if err := m.adopt(ctx, k); err != nil {
			return nil, nil, fmt.Errorf("copy memory: %w", err)
		}
		if k.adopted != nil {
			ids[k.File] = memmap.Kept{ID: string(k.adopted.ID), File: k.File}
		}
	}
	for _, l := range m.left {
		for i := range l.Kept {
			if id, ours := ids[l.Kept[i].File.File]; ours {
				l.Kept[i].File = id
			}
		}
	}
	used, err := memmap.Complete(ctx, images, bases, m.left)
	if err != nil {
		return nil, nil, fmt.Errorf("copy memory: %w", err)
	}
	named := make(map[string]memory.File)
	for _, k := range m.kept {
		if k.adopted != nil {
			named[ids[k.File].Name()] = *k.adopted
		}
	}
	for _, name := range used {
		if f, ours := named[name]; ours {
			files[name] = f
		} else {
			earlier = append(earlier, name)
		}
	}
	return earlier, files, nil
}

// least is how many pages CRIU is made to leave out at once: to skip fewer costs it more than to save
// them.
const least = 4

// long is what of a set is worth to be left out.
func long(s pageset.Set) pageset.Set {
	return slices.DeleteFunc(s, func(r image.Extent) bool { return r.Pages < least })
}
