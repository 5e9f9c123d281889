package image

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/vma"

	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// SortMappings returns the indexes of the mappings by address, but for guards,
// which lie inside others.
func SortMappings(vmas []*vma.VmaEntry) ([]int, error) {
	order := make([]int, 0, len(vmas))
	for i, v := range vmas {
		if v.GetStatus()&VMAGuard == 0 {
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

// CountPages finds the mapping of each page of a pagemap. An extent may reach
// over several adjacent mappings. Guards lie inside other mappings and have no
// pages.
func CountPages(p *Pagemap, vmas []*vma.VmaEntry) (PageCounts, error) {
	share := PageCounts{Stored: make([]uint64, len(vmas)), Parent: make([]uint64, len(vmas))}
	order, err := SortMappings(vmas)
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

// PageCounts counts the pages of each mapping, by its index.
type PageCounts struct {
	Stored, Parent []uint64

	// Outside counts the stored pages in no mapping at all.
	Outside uint64
}

func (s *PageCounts) count(e Extent, mapping int, pages uint64) {
	stored := e.Flags&PagePresent != 0
	switch {
	case mapping < 0 && stored:
		s.Outside += pages
	case mapping < 0:
	case stored:
		s.Stored[mapping] += pages
	case e.Flags&PageParent != 0:
		s.Parent[mapping] += pages
	}
}

// pagesIn counts the pages of a range, a broken one included.
func pagesIn(start, end uint64) uint64 { return (end - start + PageSize - 1) / PageSize }

// Bits of vma_entry.status (criu/include/image.h).
const (
	VMARegular     = 1 << 0
	VMAStack       = 1 << 1
	VMAVsyscall    = 1 << 2
	VMAVDSO        = 1 << 3
	VMAHeap        = 1 << 5
	VMAFilePrivate = 1 << 6
	VMAFileShared  = 1 << 7
	VMAAnonShared  = 1 << 8
	VMAAnonPrivate = 1 << 9
	VMASysV        = 1 << 10
	VMASocket      = 1 << 11
	VMAVvar        = 1 << 12
	VMAAIO         = 1 << 13
	VMAMemfd       = 1 << 14
	VMAShadowStack = 1 << 15
	VMAGuard       = 1 << 16
)

// MapGrowsDown is MAP_GROWSDOWN, which since 3.x is all that tells a stack:
// CRIU no longer sets vmaStack.
const MapGrowsDown = 0x100
