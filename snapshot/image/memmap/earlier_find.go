package memmap

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"github.com/snapctl/snapctl/snapshot/image"
)

// Places are where files of the earlier dump have the memory of the process of a number: a list for each
// file, ascending. A nil Earlier has nothing.
func (e *Earlier) Places(pid uint32) [][]Place {
	if e == nil {
		return nil
	}
	var all [][]Place
	for _, l := range e.lenders[pid] {
		list := make([]Place, len(l.runs))
		for i, r := range l.runs {
			list[i] = Place{Start: r.Start, Pages: r.Pages, Offset: r.Offset, File: l.kept}
		}
		all = append(all, list)
	}
	return all
}

// Find looks for pages that a process has now, from the address start on, at the same addresses of other
// memory, which lists of places have, each ascending. It returns where they are, ascending, without
// overlap. What is too short to be a mapping is left out.
//
// Cost: of every 16 pages one is compared first, and the others only if any of those is the same.
func Find(others [][]Place, start uint64, pages []byte) ([]Place, error) {
	var found []Place
	rest := []Run{{Start: start, Pages: uint64(len(pages)) / image.PageSize}} // offsets are those in pages
	for _, list := range others {
		var open []Run
		for _, r := range rest {
			some, left, err := match(list, r, pages)
			if err != nil {
				return nil, fmt.Errorf("compare memory: %w", err)
			}
			found, open = append(found, some...), append(open, left...)
		}
		rest = open
	}
	slices.SortFunc(found, func(a, b Place) int { return cmp.Compare(a.Start, b.Start) })
	return found, nil
}

// match finds what of a run of pages other memory has.
func match(list []Place, r Run, pages []byte) (found []Place, rest []Run, err error) {
	first, _ := slices.BinarySearchFunc(list, r.Start, func(p Place, start uint64) int { return cmp.Compare(p.End()-1, start) })
	for _, theirs := range list[first:] {
		if theirs.Start >= r.End() {
			break
		}
		before, both := r.splitAt(theirs.Start)
		both, after := both.splitAt(theirs.End())
		if both.Pages < MinRun {
			continue
		}
		if before.Pages > 0 {
			rest = append(rest, before)
		}
		theirs.Offset += (both.Start - theirs.Start) / image.PageSize
		some, left, err := theirs.equal(both, pages)
		if err != nil {
			return nil, nil, err
		}
		found, rest, r = append(found, some...), append(rest, left...), after
	}
	if r.Pages > 0 {
		rest = append(rest, r)
	}
	return found, rest, nil
}

// equal compares a run with the pages of a place from its beginning on.
func (p Place) equal(r Run, pages []byte) (found []Place, rest []Run, err error) {
	same := func(i uint64, content []byte) bool {
		return bytes.Equal(content, pages[(r.Offset+i)*image.PageSize:][:image.PageSize])
	}
	one, hopeful := make([]byte, image.PageSize), false
	for i := uint64(0); i < r.Pages && !hopeful; i += MinRun {
		if _, err := p.File.File.ReadAt(one, int64((p.Offset+i)*image.PageSize)); err != nil {
			return nil, nil, err
		}
		hopeful = same(i, one)
	}
	if !hopeful {
		return nil, []Run{r}, nil
	}
	all := make([]byte, r.Pages*image.PageSize)
	if _, err := p.File.File.ReadAt(all, int64(p.Offset*image.PageSize)); err != nil {
		return nil, nil, err
	}
	part := func(from, to uint64) Run {
		return Run{Start: r.Start + from*image.PageSize, Pages: to - from, Offset: r.Offset + from}
	}
	at := uint64(0)
	for i := uint64(0); i < r.Pages; {
		n := i
		for n < r.Pages && same(n, all[n*image.PageSize:][:image.PageSize]) {
			n++
		}
		if n-i >= MinRun {
			if at < i {
				rest = append(rest, part(at, i))
			}
			found = append(found, Place{Start: part(i, n).Start, Pages: n - i, Offset: p.Offset + i, File: p.File})
			at = n
		}
		i = n + 1
	}
	if at < r.Pages {
		rest = append(rest, part(at, r.Pages))
	}
	return found, rest, nil
}
