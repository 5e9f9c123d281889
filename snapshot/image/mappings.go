package image

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/vma"

	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// sortMappings returns the indexes of the mappings by address, but for guards,
// which lie inside others.
func sortMappings(vmas []*vma.VmaEntry) ([]int, error) {
	order := make([]int, 0, len(vmas))
	for i, v := range vmas {
		if v.GetStatus()&vmaGuard == 0 {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Compare(vmas[a].GetStart(), vmas[b].GetStart())
	})
	var end uint64
	for _, i := range order {
		if vmas[i].GetStart() < end {
			return nil, fmt.Errorf("read mappings: %w: two at %#x", wire.ErrMalformed, vmas[i].GetStart())
		}
		end = vmas[i].GetEnd()
	}
	return order, nil
}

// sharePages finds the mapping of each page of a pagemap. An extent may reach
// over several adjacent mappings. Guards lie inside other mappings and have no
// pages.
func sharePages(p *Pagemap, vmas []*vma.VmaEntry) (pageShare, error) {
	share := pageShare{stored: make([]uint64, len(vmas)), parent: make([]uint64, len(vmas))}
	order, err := sortMappings(vmas)
	if err != nil {
		return share, err
	}
	next := 0
	for _, e := range p.Extents {
		at := e.Start
		for at < e.End() {
			for next < len(order) && vmas[order[next]].GetEnd() <= at {
				next++
			}
			stop, in := e.End(), -1
			if next < len(order) {
				v := vmas[order[next]]
				if v.GetStart() <= at {
					stop, in = min(stop, v.GetEnd()), order[next]
				} else {
					stop = min(stop, v.GetStart())
				}
			}
			share.count(e, in, pagesIn(at, stop))
			at = stop
		}
	}
	return share, nil
}

// pageShare counts the pages of each mapping, by its index.
type pageShare struct {
	stored, parent []uint64

	// outside counts the stored pages in no mapping at all.
	outside uint64
}

func (s *pageShare) count(e Extent, mapping int, pages uint64) {
	stored := e.Flags&PagePresent != 0
	switch {
	case mapping < 0 && stored:
		s.outside += pages
	case mapping < 0:
	case stored:
		s.stored[mapping] += pages
	case e.Flags&PageParent != 0:
		s.parent[mapping] += pages
	}
}

// pagesIn counts the pages of a range, a broken one included.
func pagesIn(start, end uint64) uint64 { return (end - start + PageSize - 1) / PageSize }

// Bits of vma_entry.status (criu/include/image.h).
const (
	vmaRegular     = 1 << 0
	vmaStack       = 1 << 1
	vmaVsyscall    = 1 << 2
	vmaVDSO        = 1 << 3
	vmaHeap        = 1 << 5
	vmaFilePrivate = 1 << 6
	vmaFileShared  = 1 << 7
	vmaAnonShared  = 1 << 8
	vmaAnonPrivate = 1 << 9
	vmaSysV        = 1 << 10
	vmaSocket      = 1 << 11
	vmaVvar        = 1 << 12
	vmaAIO         = 1 << 13
	vmaMemfd       = 1 << 14
	vmaShadowStack = 1 << 15
	vmaGuard       = 1 << 16
)

// mapGrowsDown is MAP_GROWSDOWN, which since 3.x is all that tells a stack:
// CRIU no longer sets vmaStack.
const mapGrowsDown = 0x100
