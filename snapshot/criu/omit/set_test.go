package omit

import (
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/pagescan"
)

// at is the address of a page.
func at(page uint64) uint64 { return 1<<40 + page*image.PageSize }

// regionsOf makes regions that begin and end at these pages.
func regionsOf(pages ...uint64) (regions []pagescan.Region) {
	for i := 0; i < len(pages); i += 2 {
		regions = append(regions, pagescan.Region{Start: at(pages[i]), End: at(pages[i+1]), Categories: pagescan.Tracked})
	}
	return regions
}

func TestSetOfWhatCannotBe(t *testing.T) {
	for name, runs := range map[string][]image.Extent{
		"inside a page": {{Start: 4095, Pages: 1}},
		"of no pages":   {{Start: 4096}},
		"overlapping":   {{Start: 4096, Pages: 2}, {Start: 8192, Pages: 1}},
		"descending":    {{Start: 8192, Pages: 1}, {Start: 4096, Pages: 1}},
		"of the kernel": {{Start: 1 << 63, Pages: 1}},
		"too long":      {{Start: 4096, Pages: 1 << 51}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newSet(runs)
			qt.Assert(t, qt.ErrorMatches(err, ".* can't be left out .*"))
		})
	}
}

// A page that is met again is counted once, and the first that was not met is named.
func TestMissed(t *testing.T) {
	s, err := newSet([]image.Extent{{Start: at(0), Pages: 70}, {Start: at(100), Pages: 200}})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(s.missed(), at(0)))
	for range 2 {
		s.takeOut(nil, regionsOf(0, 69, 90, 130), 10)
		qt.Check(t, qt.Equals(s.left, 69+30))
		qt.Check(t, qt.Equals(s.missed(), at(69)))
	}
	s.takeOut(nil, regionsOf(69, 70), 10)
	qt.Check(t, qt.Equals(s.missed(), at(130)))
	s.takeOut(nil, regionsOf(130, 299), 10)
	qt.Check(t, qt.Equals(s.missed(), at(299)))
	s.takeOut(nil, regionsOf(299, 300), 10)
	qt.Check(t, qt.Equals(s.left, s.total))
}

// spans are runs of pages, by chance: each byte is a gap and a length.
func spans(data []byte, add func(start, end uint64, b byte)) {
	page := uint64(0)
	for _, b := range data {
		start := page + uint64(b>>5)
		page = start + 1 + uint64(b&15)
		add(start, page, b)
	}
}

// Whatever is taken out of whatever, each page that is shown is one that was there, has its own
// categories, and is not among those to be left out; all that ends before the rest was looked at; and what
// is asked for again from there gives the rest.
func FuzzTakeOut(f *testing.F) {
	f.Add([]byte{0x2f, 0x10, 0x41}, []byte{0x05, 0x22, 0x21}, uint8(3))
	f.Add([]byte{0x0f, 0x0f, 0x0f, 0x0f}, []byte{0x00, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20}, uint8(1))
	f.Add([]byte{0x1f}, []byte{0xff}, uint8(0))
	f.Fuzz(func(t *testing.T, there, out []byte, most uint8) {
		if len(there) > 200 || len(out) > 200 {
			return
		}
		var regions []pagescan.Region
		categories := make(map[uint64]uint64) // by page
		spans(there, func(start, end uint64, b byte) {
			c := uint64(pagescan.Present)
			if b&16 != 0 {
				c = pagescan.Present | pagescan.Guard
			}
			regions = append(regions, pagescan.Region{Start: at(start), End: at(end), Categories: c})
			for p := start; p < end; p++ {
				categories[at(p)] = c
			}
		})
		var runs []image.Extent
		wanted := make(map[uint64]bool)
		spans(out, func(start, end uint64, _ byte) {
			runs = append(runs, image.Extent{Start: at(start), Pages: end - start})
			for p := start; p < end; p++ {
				wanted[at(p)] = true
			}
		})
		s, err := newSet(runs)
		qt.Assert(t, qt.IsNil(err))
		limit := int(most)%7 + 1

		shown, met := make(map[uint64]uint64), uint64(0)
		for end := uint64(0); len(regions) > 0; {
			kept, rest := s.takeOut(nil, regions, limit)
			qt.Assert(t, qt.IsTrue(len(kept) <= limit))
			for _, r := range kept {
				qt.Assert(t, qt.IsTrue(r.Start >= end && r.Start < r.End))
				end = r.End
				for p := r.Start; p < r.End; p += image.PageSize {
					shown[p] = r.Categories
				}
			}
			if rest == 0 {
				break
			}
			qt.Assert(t, qt.IsTrue(rest >= end && len(kept) == limit))
			regions = from(regions, rest)
		}
		want := make(map[uint64]uint64)
		for p, c := range categories {
			if !wanted[p] || c&pagescan.Guard != 0 {
				want[p] = c
			} else {
				met++
			}
		}
		qt.Assert(t, qt.CmpEquals(shown, want))
		qt.Assert(t, qt.Equals(s.left, met))
		if s.left < s.total {
			first := s.missed()
			qt.Assert(t, qt.IsTrue(wanted[first] && (categories[first] == 0 || categories[first]&pagescan.Guard != 0)))
			for p := range wanted {
				qt.Assert(t, qt.IsTrue(p >= first || categories[p] == pagescan.Present))
			}
		}
	})
}

// from is what the kernel finds from an address on.
func from(regions []pagescan.Region, start uint64) (rest []pagescan.Region) {
	for _, r := range regions {
		if r.End > start {
			rest = append(rest, pagescan.Region{Start: max(r.Start, start), End: r.End, Categories: r.Categories})
		}
	}
	return rest
}
