package inspect

import (
	"fmt"
	"math"
	"slices"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/vma"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/memmap"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// memory describes the memory of a process.
func (in *inspection) memory(t *image.Task) (*ProcessMemory, error) {
	m := &ProcessMemory{Brk: Address(t.MM.GetMmBrk()), Mappings: make([]Mapping, 0, len(t.MM.GetVmas()))}
	for _, v := range t.MM.GetVmas() {
		mapping, err := in.mapping(v)
		if err != nil {
			return nil, err
		}
		m.Mappings = append(m.Mappings, mapping)
	}
	share, err := image.CountPages(t.Pages, t.MM.GetVmas())
	if err != nil {
		return nil, err
	}
	plan, err := memmap.NewPlan(t, func(file uint32) (int64, bool) {
		return math.MaxInt64, slices.Contains(in.bases, in.names[file].name) // long enough: nothing is mapped
	}, func(file uint32) memmap.Insistence { return memmap.ProgramInsists(in.names[file].name) })
	if err != nil {
		return nil, err
	}
	for _, r := range plan.Mapped {
		m.Mappings[r.VMA].RemappedBytes += r.Pages * image.PageSize
	}
	for i := range m.Mappings {
		mapping := &m.Mappings[i]
		if plan.Based[i] {
			mapping.RemappedBytes = mapping.SizeBytes
		}
		if share.Stored[i] > 0 && mapping.RemappedBytes < share.Stored[i]*image.PageSize {
			mapping.CopiedBecause = plan.Why[i]
		}
		m.RemappedBytes += mapping.RemappedBytes
		mapping.StoredPages = share.Stored[i]
		mapping.StoredBytes = share.Stored[i] * image.PageSize
		mapping.ParentBytes = share.Parent[i] * image.PageSize
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
	case v.GetStatus()&image.VMAAnonShared != 0:
		m.Object = v.GetShmid()
	}
	return m, nil
}

// hasFile tells whether shmid of a vma_entry is the id of a file.
func hasFile(v *vma.VmaEntry) bool {
	return v.GetStatus()&(image.VMAFilePrivate|image.VMAFileShared|image.VMASocket|image.VMAMemfd) != 0
}
