package image

import (
	"fmt"
	"math"
	"slices"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/vma"

	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// memory describes the memory of a process.
func (in *inspection) memory(t *task) (*ProcessMemory, error) {
	m := &ProcessMemory{Brk: Address(t.mm.GetMmBrk()), Mappings: make([]Mapping, 0, len(t.mm.GetVmas()))}
	for _, v := range t.mm.GetVmas() {
		mapping, err := in.mapping(v)
		if err != nil {
			return nil, err
		}
		m.Mappings = append(m.Mappings, mapping)
	}
	share, err := sharePages(t.pages, t.mm.GetVmas())
	if err != nil {
		return nil, err
	}
	plan, err := planMemory(t, func(file uint32) (int64, bool) {
		return math.MaxInt64, slices.Contains(in.bases, in.names[file].name) // long enough: nothing is mapped
	}, func(file uint32) insistence { return programInsists(in.names[file].name) })
	if err != nil {
		return nil, err
	}
	for _, r := range plan.mapped {
		m.Mappings[r.vma].RemappedBytes += r.pages * PageSize
	}
	for i := range m.Mappings {
		mapping := &m.Mappings[i]
		if plan.based[i] {
			mapping.RemappedBytes = mapping.SizeBytes
		}
		if share.stored[i] > 0 && mapping.RemappedBytes < share.stored[i]*PageSize {
			mapping.CopiedBecause = plan.why[i]
		}
		m.RemappedBytes += mapping.RemappedBytes
		mapping.StoredPages = share.stored[i]
		mapping.StoredBytes = share.stored[i] * PageSize
		mapping.ParentBytes = share.parent[i] * PageSize
		if mapping.Kind != MapGuard {
			m.MappedBytes += mapping.SizeBytes
		}
		m.StoredBytes += mapping.StoredBytes
		m.ParentBytes += mapping.ParentBytes
	}
	return m, nil
}

func (in *inspection) mapping(v *vma.VmaEntry) (Mapping, error) {
	if v.GetEnd() <= v.GetStart() {
		return Mapping{}, fmt.Errorf("read mapping: %w: from %#x to %#x", wire.ErrMalformed, v.GetStart(), v.GetEnd())
	}
	m := Mapping{
		Start:       Address(v.GetStart()),
		End:         Address(v.GetEnd()),
		SizeBytes:   v.GetEnd() - v.GetStart(),
		Prot:        protection(v.GetProt(), v.GetFlags()),
		Kind:        mappingKind(v.GetStatus(), v.GetFlags()),
		Flags:       mapFlagNames(v.GetFlags()),
		OffsetBytes: v.GetPgoff(),
	}
	switch {
	case hasFile(v):
		m.FileID = uint32(v.GetShmid())
		m.File = in.names[m.FileID].name
	case v.GetStatus()&vmaAnonShared != 0:
		m.Object = v.GetShmid()
	}
	return m, nil
}

// hasFile tells whether shmid of a vma_entry is the id of a file.
func hasFile(v *vma.VmaEntry) bool {
	return v.GetStatus()&(vmaFilePrivate|vmaFileShared|vmaSocket|vmaMemfd) != 0
}

// pageShare counts the pages of each mapping, by its index.
type pageShare struct {
	stored, parent []uint64

	// outside counts the stored pages in no mapping at all.
	outside uint64
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
