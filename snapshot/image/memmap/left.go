package memmap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/pstree"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/guard"
	"github.com/snapctl/snapctl/snapshot/image/pageset"
)

// A Place is where a file has pages of a process: those from an address on, one after the other.
type Place struct {
	Start, Pages uint64
	Offset       uint64 // of the first page, in pages, in the file
	File         Kept   // with an ID: a memory file that is kept; without: one that goes with the caller
}

// End is the address behind the pages.
func (p Place) End() uint64 { return p.Start + p.Pages*image.PageSize }

// Left is memory of one process that a dump was made to leave out, since it had been copied before.
type Left struct {
	// Kept are places in files that are kept, which may become mappings of these. They ascend and
	// do not overlap. Each page of them is in Pages or in the dump, which then has what counts.
	Kept []Place
	// Pages are the pages in Kept that the dump lacks.
	Pages pageset.Set
	// Own are pages that the dump lacks and that become its own. They ascend, overlap neither each
	// other nor Pages, and may lie in Kept.
	Own []Place
}

// Complete adds to a dump what it was made to leave out, by the numbers that processes have in the
// dump. Where a process can have memory of a kept file as a mapping, it has that mapped afterwards, as
// if it had been restored from there. All other pages become the dump's own.
//
// The images are changed in place. bases are as for [Measure]. It returns the names that the dump has
// for kept files now, sorted ([Kept.Name]). On an error, which wraps [wire.ErrMalformed] or
// [image.ErrInconsistent] if the images do not fit to what was left out, the dump is only fit to be
// removed.
func Complete(ctx context.Context, images string, bases map[string]int64, left map[uint32]*Left) (used []string, err error) {
	d, err := image.OpenTree(ctx, os.DirFS(images))
	if err != nil {
		return nil, fmt.Errorf("complete memory: %w", err)
	}
	e, err := editInPlace(images, bases)
	if err != nil {
		return nil, fmt.Errorf("complete memory: %w", err)
	}
	f := &family{edit: e, dump: d, lent: make(map[string]string), used: make(map[string]bool)}
	missing := maps.Clone(left)
	for _, entry := range d.Tree {
		l := left[entry.GetPid()]
		if l == nil {
			continue
		}
		delete(missing, entry.GetPid())
		if err := f.complete(ctx, entry, l); err != nil {
			return nil, fmt.Errorf("complete memory of process %d: %w", entry.GetPid(), err)
		}
	}
	for pid := range missing {
		return nil, fmt.Errorf("complete memory of process %d: %w: it is not in the dump", pid, image.ErrInconsistent)
	}
	if err := e.writeTable(); err != nil {
		return nil, fmt.Errorf("complete memory: %w", err)
	}
	return slices.Sorted(maps.Keys(f.used)), nil
}

// complete adds what one process was made to leave out.
func (f *family) complete(ctx context.Context, entry *pstree.PstreeEntry, l *Left) error {
	t, plan, err := f.edit.plan(f.dump, entry)
	if err != nil {
		return err
	}
	if plan == nil {
		return fmt.Errorf("%w: it is dead", image.ErrInconsistent)
	}
	vmas := t.MM.GetVmas()
	own, err := findRuns(t.Pages, vmas)
	if err != nil {
		return err
	}
	has := setOf(own)
	if both := has.Intersect(l.Pages.Union(PagesOf(l.Own))); len(both) > 0 {
		return fmt.Errorf("%w: the dump has pages that it was to leave out, such as that at %#x", image.ErrInconsistent, both[0].Start)
	}
	c := completion{Left: l, plan: plan, dump: has}
	if c.kept, err = c.inMappings(t, l.Kept); err != nil {
		return err
	}
	if c.own, err = c.inMappings(t, l.Own); err != nil {
		return err
	}
	most := min(maxRuns, max(maxMappings-len(vmas), 0)/2)
	if marksHeap(vmas) {
		most = min(most, guard.MaxRanges)
	}
	segments := c.choose(most)
	if len(c.own) > 0 {
		if err := f.addPages(ctx, t, own, c.own); err != nil {
			return err
		}
	}
	if len(segments) == 0 {
		return nil
	}
	return f.mappings(t, plan, segments)
}

// setOf is the set of the pages of runs.
func setOf(runs []Run) pageset.Set {
	list := make([]image.Extent, len(runs))
	for i, r := range runs {
		list[i] = image.Extent{Start: r.Start, Pages: r.Pages}
	}
	return pageset.Of(list...)
}

// PagesOf is the set of the pages of places.
func PagesOf(some []Place) pageset.Set {
	list := make([]image.Extent, len(some))
	for i, p := range some {
		list[i] = image.Extent{Start: p.Start, Pages: p.Pages}
	}
	return pageset.Of(list...)
}

// Clip is what of places is in a set.
func Clip(some []Place, in pageset.Set) (out []Place) {
	j := 0
	for _, p := range some {
		for j < len(in) && in[j].End() <= p.Start {
			j++
		}
		for k := j; k < len(in) && in[k].Start < p.End(); k++ {
			from, to := max(p.Start, in[k].Start), min(p.End(), in[k].End())
			out = append(out, Place{
				Start: from, Pages: (to - from) / image.PageSize, Offset: p.Offset + (from-p.Start)/image.PageSize, File: p.File,
			})
		}
	}
	return out
}

// Over puts newer places over older ones, both of which ascend.
func Over(old, list []Place) []Place {
	all := append(Clip(old, PagesOf(old).Subtract(PagesOf(list))), list...)
	slices.SortFunc(all, func(a, b Place) int { return cmp.Compare(a.Start, b.Start) })
	return all
}

// A stretch is a place in one mapping of the process.
type stretch struct {
	Place
	vma int
}

// completion is what becomes of what one process was made to leave out.
type completion struct {
	*Left
	plan *Plan
	dump pageset.Set // that the dump has itself

	kept []stretch
	own  []stretch // that the dump is to have itself
}

// inMappings cuts places where mappings begin and end.
func (c *completion) inMappings(t *image.Task, some []Place) (out []stretch, err error) {
	vmas := t.MM.GetVmas()
	order, err := image.SortMappings(vmas)
	if err != nil {
		return nil, err
	}
	next := 0
	for _, p := range some {
		for p.Pages > 0 {
			for next < len(order) && vmas[order[next]].GetEnd() <= p.Start {
				next++
			}
			if next == len(order) || vmas[order[next]].GetStart() > p.Start {
				return nil, fmt.Errorf("%w: %#x is in no mapping", image.ErrInconsistent, p.Start)
			}
			n := (min(p.End(), vmas[order[next]].GetEnd()) - p.Start) / image.PageSize
			here := p
			here.Pages = n
			out = append(out, stretch{here, order[next]})
			p.Start, p.Offset, p.Pages = p.Start+n*image.PageSize, p.Offset+n, p.Pages-n
		}
	}
	return out, nil
}

// choose returns what of the kept files is to be mapped, by as many mappings at most. All else becomes
// the dump's own, which has a page at least, see Plan.leaveOne.
func (c *completion) choose(most int) []segment {
	least := uint64(MinRun)
	fits := func(s stretch) bool { return c.plan.fit[s.vma] && s.Pages >= least }
	count := func() (runs int, pages uint64) {
		for _, s := range c.kept {
			if fits(s) {
				runs++
				pages += s.Pages
			}
		}
		return runs, pages
	}
	runs, pages := count()
	for ; runs > most; runs, pages = count() {
		least *= 2
	}
	guarded := len(c.plan.Mapped) > 0 || c.plan.guarded()
	if !guarded && pages < MinMapped {
		least = 1 << 62
	}
	lenders := make(map[string]*lender)
	var segments []segment
	for _, s := range c.kept {
		if !fits(s) {
			c.become(s, c.Pages)
			continue
		}
		l := lenders[s.File.ID]
		if l == nil {
			l = &lender{key: s.File.key(), file: s.File.File}
			lenders[s.File.ID] = l
		}
		l.size = max(l.size, int64(s.Offset+s.Pages)*image.PageSize)
		segments = append(segments, segment{Run: Run{Start: s.Start, Pages: s.Pages, VMA: s.vma}, theirs: s.Offset, lender: l})
	}
	if len(c.own)+len(c.dump) == 0 && len(segments) > 0 {
		for _, s := range c.kept {
			if fits(s) {
				s.Pages = 1
				c.become(s, c.Pages)
				break
			}
		}
	}
	slices.SortFunc(c.own, func(a, b stretch) int { return cmp.Compare(a.Start, b.Start) })
	return segments
}

// become makes those pages of a stretch the dump's own that it lacks.
func (c *completion) become(s stretch, lacks pageset.Set) {
	for _, p := range Clip([]Place{s.Place}, lacks) {
		c.own = append(c.own, stretch{p, s.vma})
	}
}

// addPages makes pages the dump's own, beside those that it has.
func (f *family) addPages(ctx context.Context, t *image.Task, has []Run, more []stretch) error {
	name := filepath.Join(f.edit.view.Dir(), pagesName(t))
	own, err := os.Open(name)
	if err != nil {
		return err
	}
	defer own.Close() //nolint:errcheck // only read from
	all := make([]source, 0, len(has)+len(more))
	for _, r := range has {
		all = append(all, source{r, own})
	}
	for _, s := range more {
		all = append(all, source{Run{Start: s.Start, Pages: s.Pages, Offset: s.Offset, VMA: s.vma}, s.File.File})
	}
	slices.SortFunc(all, func(a, b source) int { return cmp.Compare(a.Start, b.Start) })
	runs := make([]Run, len(all))
	for i, s := range all {
		runs[i] = s.Run
	}
	return errors.Join(writePages(ctx, name, all), setPagemap(f.edit.view, t, runs))
}
