package memmap

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/snapctl/snapctl/snapshot/image"
)

// Processes that were forked share memory until one of them writes to it, but a dump
// has it once for each. Here is how a process's pages are found again in the pages
// images of its relatives.
const (
	// minShared is how many pages a process must have in common with others to get a
	// guard for their sake. One that gets a guard anyway shares every run of MinRun.
	minShared = 64
	// shareWorth bounds what is written anew to leave pages out: so many pages for each.
	shareWorth = 16
	// maxSiblings is with how many processes of the same parent one is compared.
	maxSiblings = 4
	// probes is how many pages of a long run are compared first. If none of them is the
	// same, the run is taken for a different one.
	probes = 64
)

// A lender is a process whose pages others may have, too, or the same process as an earlier dump has
// it, by one of the files that are kept of that.
type lender struct {
	pid, ppid uint32
	image     string // the pages image; empty in an earlier dump
	key       string // what the images are going to have for it
	size      int64  // of the file, in bytes
	file      io.ReaderAt
	kept      Kept  // the same file, of an earlier dump
	runs      []Run // that a restore maps from it, ascending
}

// A segment is a part of a process's memory that is to come from a lender's pages.
type segment struct {
	Run           // in the process's own pages image
	theirs uint64 // where the same addresses begin in the lender's, in pages
	lender *lender
	equal  []bool // the pages that the lender has; the others stay the process's own
}

// A sharing is the search for the pages of one process.
type sharing struct {
	file     io.ReaderAt // its own pages image
	segments []segment
	open     []Run // what nobody else has so far
	a, b     []byte
}

// find looks for what is still open in the pages of a lender.
func (s *sharing) find(ctx context.Context, o *lender) error {
	var rest []Run
	next := 0
	for _, r := range s.open {
		for r.Pages > 0 {
			for next < len(o.runs) && o.runs[next].End() <= r.Start {
				next++
			}
			if next == len(o.runs) || o.runs[next].Start >= r.End() {
				break
			}
			theirs := o.runs[next]
			before, both := r.splitAt(theirs.Start)
			both, after := both.splitAt(theirs.End())
			_, theirs = theirs.splitAt(both.Start)
			if before.Pages > 0 {
				rest = append(rest, before)
			}
			left, err := s.match(ctx, both, theirs.Offset, o)
			if err != nil {
				return err
			}
			rest, r = append(rest, left...), after
		}
		if r.Pages > 0 {
			rest = append(rest, r)
		}
	}
	s.open = rest
	return nil
}

// splitAt cuts a run at an address, which may lie outside of it.
func (r Run) splitAt(address uint64) (before, after Run) {
	at := min(max(address, r.Start), r.End())
	pages := (at - r.Start) / image.PageSize
	before, after = r, r
	before.Pages = pages
	after.Start, after.Offset, after.Pages = at, r.Offset+pages, r.Pages-pages
	return before, after
}

// match compares a run with the pages of a lender from theirs on, makes segments of
// what is the same, and returns the rest.
func (s *sharing) match(ctx context.Context, r Run, theirs uint64, o *lender) (rest []Run, err error) {
	hopeful, err := s.probe(r, theirs, o)
	if err != nil || !hopeful {
		return []Run{r}, err
	}
	equal := make([]bool, r.Pages)
	for done := uint64(0); done < r.Pages; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n := min(r.Pages-done, 64)
		if err := s.compare(equal[done:done+n], r.Offset+done, theirs+done, o); err != nil {
			return nil, err
		}
		done += n
	}
	at := uint64(0)
	part := func(from, to uint64) Run {
		return Run{Start: r.Start + from*image.PageSize, Pages: to - from, Offset: r.Offset + from, VMA: r.VMA}
	}
	for _, span := range spans(equal) {
		if at < span.from {
			rest = append(rest, part(at, span.from))
		}
		s.segments = append(s.segments, segment{
			Run: part(span.from, span.to), theirs: theirs + span.from, lender: o, equal: equal[span.from:span.to],
		})
		at = span.to
	}
	if at < r.Pages {
		rest = append(rest, part(at, r.Pages))
	}
	return rest, nil
}

// probe tells whether it may be worth while to compare all pages of a run.
func (s *sharing) probe(r Run, theirs uint64, o *lender) (hopeful bool, err error) {
	if r.Pages < MinRun {
		return false, nil
	}
	if r.Pages <= 4*probes {
		return true, nil
	}
	var one [1]bool
	for i := range uint64(probes) {
		at := i * (r.Pages / probes)
		if err := s.compare(one[:], r.Offset+at, theirs+at, o); err != nil || one[0] {
			return one[0], err
		}
	}
	return false, nil
}

// compare tells of as many pages as equal has places whether they are the same.
func (s *sharing) compare(equal []bool, own, theirs uint64, o *lender) error {
	size := len(equal) * image.PageSize
	s.a, s.b = slices.Grow(s.a[:0], size)[:size], slices.Grow(s.b[:0], size)[:size]
	if _, err := s.file.ReadAt(s.a, int64(own*image.PageSize)); err != nil {
		return fmt.Errorf("compare pages: %w", err)
	}
	if _, err := o.file.ReadAt(s.b, int64(theirs*image.PageSize)); err != nil {
		return fmt.Errorf("compare pages: %w", err)
	}
	for i := range equal {
		equal[i] = bytes.Equal(s.a[i*image.PageSize:(i+1)*image.PageSize], s.b[i*image.PageSize:(i+1)*image.PageSize])
	}
	return nil
}

// A span is a range of pages.
type span struct{ from, to uint64 }

// spans says which parts of a run to take from somebody who has the pages that are
// marked: each has at least MinRun of them. A few others between them, or before the
// first and behind the last, are in the part, since each part costs a mapping. That the
// parts begin and end where the lender's do also lets CRIU find, by the addresses alone,
// what it can share of the memory between them (check_cow_vmas in criu/mem.c).
func spans(equal []bool) []span {
	var all []span
	total := uint64(len(equal))
	same, last := uint64(0), span{}
	end := func() {
		if same >= MinRun {
			if last.from < MinRun && len(all) == 0 {
				last.from = 0
			}
			all = append(all, last)
		}
		same = 0
	}
	for i, is := range equal {
		at := uint64(i)
		if !is {
			continue
		}
		if same > 0 && at-last.to >= MinRun {
			end()
		}
		if same == 0 {
			last.from = at
		}
		same++
		last.to = at + 1
	}
	if same > 0 {
		if total-last.to < MinRun {
			last.to = total
		}
		end()
	}
	return all
}

// choose drops what is not worth a mapping or a guard, and returns what the process
// keeps of its own. guarded tells that it gets a guard anyway, most is how many
// mappings there may be.
func (s *sharing) choose(guarded bool, most int) (kept []Run) {
	for least := uint64(MinRun); len(s.segments) > most; least *= 2 {
		s.drop(func(g *segment) bool { return g.Pages < least })
	}
	shared := uint64(0)
	for i := range s.segments {
		shared += s.segments[i].shared()
	}
	if kept = s.kept(); !guarded && shared < minShared || countPages(kept) > shareWorth*shared {
		s.drop(func(*segment) bool { return true })
		return nil
	}
	if len(kept) == 0 { // see Plan.leaveOne
		s.segments[0].equal[0] = false
		kept = s.kept()
	}
	return kept
}

// drop gives up some segments.
func (s *sharing) drop(is func(*segment) bool) {
	s.segments = slices.DeleteFunc(s.segments, func(g segment) bool {
		if !is(&g) {
			return false
		}
		s.open = append(s.open, g.Run)
		return true
	})
}

// shared counts the pages that a segment's lender has.
func (g *segment) shared() (n uint64) {
	for _, is := range g.equal {
		if is {
			n++
		}
	}
	return n
}

// kept lists what the process keeps of its own pages, ascending.
func (s *sharing) kept() []Run {
	all := slices.Clone(s.open)
	for _, g := range s.segments {
		for i, is := range g.equal {
			if !is {
				at := uint64(i)
				all = append(all, Run{Start: g.Start + at*image.PageSize, Pages: 1, Offset: g.Offset + at, VMA: g.VMA})
			}
		}
	}
	slices.SortFunc(all, func(a, b Run) int { return cmp.Compare(a.Start, b.Start) })
	var joined []Run
	for _, r := range all {
		joined = appendRun(joined, r)
	}
	return joined
}

func countPages(runs []Run) (n uint64) {
	for _, r := range runs {
		n += r.Pages
	}
	return n
}
