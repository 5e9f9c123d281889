package omit

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/pagescan"
)

// set is what is left out of one process, and which of it CRIU has come across.
type set struct {
	runs   []image.Extent
	before []uint64 // how many pages there are before each run
	total  uint64
	met    []uint64 // a bit for each page
	left   uint64   // how many are set
}

func newSet(runs []image.Extent) (*set, error) {
	s := &set{runs: runs, before: make([]uint64, len(runs))}
	const bound = 1 << 63 // makes all sums safe
	var end uint64
	for i, r := range runs {
		if r.Start%image.PageSize != 0 || r.Start < end || r.Start >= bound || r.Pages == 0 || r.Pages > (bound-r.Start)/image.PageSize {
			return nil, fmt.Errorf("%d pages at %#x can't be left out after those up to %#x", r.Pages, r.Start, end)
		}
		end = r.End()
		s.before[i] = s.total
		s.total += r.Pages
	}
	s.met = make([]uint64, (s.total+63)/64)
	return s, nil
}

// takeOut appends to dst what remains of regions, which are ascending: limit pieces at most. If there are
// more, rest is where the next one begins; else it is 0.
func (s *set) takeOut(dst, regions []pagescan.Region, limit int) (kept []pagescan.Region, rest uint64) {
	if len(regions) == 0 {
		return dst, 0
	}
	next, _ := slices.BinarySearchFunc(s.runs, regions[0].Start, func(r image.Extent, at uint64) int {
		return cmp.Compare(r.End(), at+1) // the first that ends behind it
	})
	for _, r := range regions {
		for at := r.Start; at < r.End; {
			for next < len(s.runs) && s.runs[next].End() <= at {
				next++
			}
			end := r.End
			if next < len(s.runs) && r.Categories&pagescan.Guard == 0 { // of which CRIU saves nothing
				run := s.runs[next]
				if run.Start <= at {
					end = min(r.End, run.End())
					s.meet(next, at, end)
					at = end
					continue
				}
				end = min(end, run.Start)
			}
			if len(dst) == limit {
				return dst, at
			}
			dst = append(dst, pagescan.Region{Start: at, End: end, Categories: r.Categories})
			at = end
		}
	}
	return dst, 0
}

// meet notes that CRIU has come across pages of a run.
func (s *set) meet(run int, start, end uint64) {
	first := s.before[run] + (start-s.runs[run].Start)/image.PageSize
	last := first + (end-start)/image.PageSize // the one behind
	for at := first; at < last; {
		word := at / 64
		to := min(last, (word+1)*64)
		mask := (^uint64(0) >> (64 - (to - at))) << (at % 64)
		s.left += uint64(bits.OnesCount64(mask &^ s.met[word]))
		s.met[word] |= mask
		at = to
	}
}

// missed is the address of the first page that CRIU has not come across. There has to be one.
func (s *set) missed() uint64 {
	word := slices.IndexFunc(s.met, func(w uint64) bool { return w != ^uint64(0) })
	page := uint64(word*64 + bits.TrailingZeros64(^s.met[word]))
	run, found := slices.BinarySearch(s.before, page)
	if !found {
		run--
	}
	return s.runs[run].Start + (page-s.before[run])*image.PageSize
}
