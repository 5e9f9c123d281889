package ahead

import (
	"context"
	"errors"
	"os"
	"slices"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/memmap"
	"github.com/snapctl/snapctl/snapshot/memory"
)

// Memory files are kept whole, however much of them is written to while the app runs on. So one of which
// less than half counts at last is not kept: what counts goes elsewhere.

// wasted are the files that are going to be memory files, and of which less than half is used.
func (m *Memory) wasted(used map[*os.File]uint64) []*keptFile {
	var list []*keptFile
	for _, k := range m.kept {
		if k.pages > 0 && 2*used[k.File] < k.pages {
			list = append(list, k)
		}
	}
	return list
}

// count adds how many pages there are in each file.
func count(used map[*os.File]uint64, places []memmap.Place) {
	for _, p := range places {
		used[p.File.File] += p.Pages
	}
}

// divide takes the places in some files out of a list.
func divide(places []memmap.Place, files []*keptFile) (in, rest []memmap.Place) {
	for _, p := range places {
		if slices.ContainsFunc(files, func(k *keptFile) bool { return k.File == p.File.File }) {
			in = append(in, p)
		} else {
			rest = append(rest, p)
		}
	}
	return in, rest
}

// counts are the places of a process that are as they were when they were copied.
func (p *process) counts() []memmap.Place {
	return memmap.Clip(p.kept, memmap.PagesOf(p.kept).Subtract(p.stale))
}

// compact moves what counts of wasted files to one more file, while the app runs, and drops them. It is for an
// app that ends: it would have to wait for that later. What it writes from now on is not looked at.
func (m *Memory) compact(ctx context.Context) error {
	used := make(map[*os.File]uint64)
	for _, p := range m.processes {
		count(used, p.counts())
	}
	files, pages := m.wasted(used), uint64(0)
	for _, k := range files {
		pages += used[k.File]
	}
	if len(files) == 0 || !m.fits(pages) {
		return nil
	}
	to, err := m.keep()
	if err != nil {
		return err
	}
	for _, p := range m.processes {
		from, _ := divide(p.counts(), files)
		moved, err := move(ctx, from, to.file)
		if err != nil {
			return err
		}
		_, rest := divide(p.kept, files)
		p.kept = memmap.Over(rest, moved)
	}
	var errs []error
	for _, k := range files {
		errs = append(errs, m.drop(k))
	}
	return errors.Join(errors.Join(errs...), m.settle(ctx, to))
}

// move copies places to a file, and returns where they are there.
func move(ctx context.Context, from []memmap.Place, to *file) (moved []memmap.Place, err error) {
	buf := make([]byte, chunk)
	for _, p := range from {
		for done := uint64(0); done < p.Pages; {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			content := buf[:min(chunk, (p.Pages-done)*image.PageSize)]
			if _, err := p.File.File.ReadAt(content, int64((p.Offset+done)*image.PageSize)); err != nil { //nolint:gosec // of a file
				return nil, err
			}
			place, err := to.append(p.Start+done*image.PageSize, content)
			if err != nil {
				return nil, err
			}
			moved = join(moved, place)
			done += place.Pages
		}
	}
	return moved, nil
}

// drop lets go of a file in which no process has a place any more.
func (m *Memory) drop(k *keptFile) error {
	m.kept = slices.DeleteFunc(m.kept, func(o *keptFile) bool { return o == k })
	if k.adopted != nil { // the next sweep of the store removes it
		m.o.Store.Unpin([]memory.File{*k.adopted})
		return k.Close()
	}
	return errors.Join(k.Close(), os.Remove(k.Name()))
}

// ownWasted has what counts of wasted files become the dump's own: the app goes on already. They are not
// adopted then.
func (m *Memory) ownWasted() {
	used := make(map[*os.File]uint64)
	for _, l := range m.left {
		count(used, memmap.Clip(l.Kept, l.Pages))
	}
	files := m.wasted(used)
	for _, k := range files {
		k.wasted = true
	}
	for _, l := range m.left {
		var in []memmap.Place
		in, l.Kept = divide(l.Kept, files)
		own := memmap.Clip(in, l.Pages)
		l.Own = memmap.Over(l.Own, own)
		l.Pages = l.Pages.Subtract(memmap.PagesOf(own))
	}
}
