// Package pageset computes with sets of pages of a process's memory.
package pageset

import (
	"slices"

	"github.com/snapctl/snapctl/snapshot/image"
)

// A Set is pages as runs of them that ascend, do not overlap and do not touch. The flags of extents
// are 0. The zero value is the empty set. Functions make new sets and change none.
type Set []image.Extent

// Of makes a set of runs in any order, which may overlap.
func Of(runs ...image.Extent) Set {
	sorted := slices.Clone(runs)
	slices.SortFunc(sorted, func(a, b image.Extent) int {
		switch {
		case a.Start < b.Start:
			return -1
		case a.Start > b.Start:
			return 1
		}
		return 0
	})
	var s Set
	for _, r := range sorted {
		s = s.add(r.Start, r.End())
	}
	return s
}

// add adds what begins nowhere before the last run.
func (s Set) add(from, to uint64) Set {
	if from >= to {
		return s
	}
	if n := len(s); n > 0 && from <= s[n-1].End() {
		if to > s[n-1].End() {
			s[n-1].Pages = (to - s[n-1].Start) / image.PageSize
		}
		return s
	}
	return append(s, image.Extent{Start: from, Pages: (to - from) / image.PageSize})
}

// Pages counts the pages.
func (s Set) Pages() (n uint64) {
	for _, r := range s {
		n += r.Pages
	}
	return n
}

// Union is what is in either set.
func (s Set) Union(other Set) Set {
	return Of(slices.Concat(s, other)...)
}

// Intersect is what is in both sets.
func (s Set) Intersect(other Set) Set {
	var out Set
	for i, j := 0, 0; i < len(s) && j < len(other); {
		out = out.add(max(s[i].Start, other[j].Start), min(s[i].End(), other[j].End()))
		if s[i].End() < other[j].End() {
			i++
		} else {
			j++
		}
	}
	return out
}

// Subtract is what is in s and not in other.
func (s Set) Subtract(other Set) Set {
	var out Set
	j := 0
	for _, r := range s {
		at := r.Start
		for j < len(other) && other[j].End() <= at {
			j++
		}
		for k := j; k < len(other) && other[k].Start < r.End(); k++ {
			out = out.add(at, other[k].Start)
			at = max(at, other[k].End())
		}
		out = out.add(at, r.End())
	}
	return out
}
