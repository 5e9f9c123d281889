package inspect

import (
	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/memmap"
)

// ProcessMemory is the memory of one process.
type ProcessMemory struct {
	MappedBytes uint64 `json:"mapped_bytes"`
	StoredBytes uint64 `json:"stored_bytes"` // in this dump
	ParentBytes uint64 `json:"parent_bytes"` // in the parent dump
	// RemappedBytes is what a restore maps from memory files and does not copy.
	RemappedBytes uint64    `json:"remapped_bytes"`
	Brk           Address   `json:"brk"`
	Mappings      []Mapping `json:"mappings"`
}

// Mapping is one mapping, as in /proc/PID/maps.
type Mapping struct {
	Start       Address     `json:"start"`
	End         Address     `json:"end"`
	SizeBytes   uint64      `json:"size_bytes"`
	Prot        string      `json:"prot"` // like rwxp
	Kind        MappingKind `json:"kind"`
	Flags       []string    `json:"flags,omitempty"` // of mmap(2), in lower case
	OffsetBytes uint64      `json:"offset_bytes,omitempty"`

	// File is the name of what is mapped; FileID is its File.ID. Object is the
	// number of a shared memory object, the same for all that map it.
	File   string `json:"file,omitempty"`
	FileID uint32 `json:"file_id,omitempty"`
	Object uint64 `json:"object,omitempty"`

	StoredPages uint64 `json:"stored_pages"`
	StoredBytes uint64 `json:"stored_bytes"`
	ParentBytes uint64 `json:"parent_bytes,omitempty"`

	// RemappedBytes is what a restore maps, CopiedBecause why it copies some.
	RemappedBytes uint64        `json:"remapped_bytes,omitempty"`
	CopiedBecause memmap.Copied `json:"copied_because,omitempty"`
}

// MappingKind tells what is behind a mapping.
type MappingKind string

// The kinds of mapping.
const (
	MapAnon        MappingKind = "anon"
	MapHeap        MappingKind = "heap"  // by brk(2); anonymous
	MapStack       MappingKind = "stack" // of the first thread; anonymous
	MapShadowStack MappingKind = "shadow-stack"
	MapFile        MappingKind = "file" // private: a changed page is stored
	MapFileShared  MappingKind = "file-shared"
	MapShared      MappingKind = "shared" // anonymous, stored once for all
	MapSysV        MappingKind = "sysv"   // shmat(2)
	MapMemfd       MappingKind = "memfd"
	MapSocket      MappingKind = "socket"
	MapAIO         MappingKind = "aio"
	MapGuard       MappingKind = "guard" // MADV_GUARD_INSTALL, inside other mappings
	MapVDSO        MappingKind = "vdso"
	MapVvar        MappingKind = "vvar"
	MapVsyscall    MappingKind = "vsyscall"
	MapOther       MappingKind = "other"
)

// mappingKind names the first of the bits that says most.
func mappingKind(status, flags uint32) MappingKind {
	for _, k := range []struct {
		bit  uint32
		kind MappingKind
	}{
		{image.VMAGuard, MapGuard},
		{image.VMAVDSO, MapVDSO},
		{image.VMAVvar, MapVvar},
		{image.VMAVsyscall, MapVsyscall},
		{image.VMAShadowStack, MapShadowStack},
		{image.VMAAIO, MapAIO},
		{image.VMASysV, MapSysV},
		{image.VMASocket, MapSocket},
		{image.VMAMemfd, MapMemfd},
		{image.VMAStack, MapStack},
		{image.VMAHeap, MapHeap},
		{image.VMAFilePrivate, MapFile},
		{image.VMAFileShared, MapFileShared},
		{image.VMAAnonShared, MapShared},
	} {
		if status&k.bit != 0 {
			return k.kind
		}
	}
	switch {
	case status&image.VMAAnonPrivate == 0:
		return MapOther
	case flags&image.MapGrowsDown != 0:
		return MapStack
	}
	return MapAnon
}

// protection renders the bits of mmap(2) as /proc/PID/maps does.
func protection(prot, flags uint32) string {
	const mapShared = 1
	out := []byte("---p")
	for i, c := range []byte("rwx") {
		if prot&(1<<i) != 0 {
			out[i] = c
		}
	}
	if flags&mapShared != 0 {
		out[3] = 's'
	}
	return string(out)
}

// mapFlagNames lists the flags of mmap(2) that change what a mapping is.
func mapFlagNames(flags uint32) []string {
	var names []string
	for _, f := range []struct {
		bit  uint32
		name string
	}{
		{image.MapGrowsDown, "growsdown"},
		{0x2000, "locked"},
		{0x4000, "noreserve"},
		{0x8000, "populate"},
		{0x20000, "stack"},
		{0x40000, "hugetlb"},
		{0x80000, "sync"},
	} {
		if flags&f.bit != 0 {
			names = append(names, f.name)
		}
	}
	return names
}
