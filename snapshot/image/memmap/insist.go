package memmap

import (
	"path"
	"slices"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/vma"

	"github.com/snapctl/snapctl/snapshot/image"
)

// Insistence says what memory a program must be able to drop: it takes a madvise(2)
// with MADV_DONTNEED that is refused for a defect of its own, and ends. A guard would
// refuse it, so such memory is not mapped.
type Insistence int

const (
	insistsNot Insistence = iota
	// insistsOnHeap: V8 checks what it drops of its heap (MemoryChunk and, later,
	// MutablePageMetadata: DiscardUnusedMemory). As Node.js builds it, since
	// version 20, it marks that memory by MADV_DONTFORK
	// (v8_enable_private_mapping_fork_optimization), which hardly anybody else uses:
	// then all other memory can be mapped. If it does not, none can.
	insistsOnHeap
	// insistsOnAll: Chromium's PartitionAlloc, whose memory nothing marks
	// (page_allocator_internals_posix.h, DiscardSystemPagesInternal).
	insistsOnAll
)

// ProgramInsists knows programs and libraries by their names. Under another one it is
// only known what marks its heap.
func ProgramInsists(name string) Insistence {
	base := strings.TrimSuffix(path.Base(name), " (deleted)")
	for kind, names := range map[Insistence][]string{
		insistsOnHeap: {"node", "nodejs", "deno", "d8"},
		insistsOnAll:  {"chrome", "chromium", "chrome_crashpad_handler", "headless_shell", "chrome-headless-shell", "electron"},
	} {
		if slices.Contains(names, base) {
			return kind
		}
	}
	library, _, ok := strings.Cut(base, ".so")
	switch {
	case !ok:
		return insistsNot
	case library == "libnode" || library == "libv8":
		return insistsOnHeap
	case library == "libcef" || strings.HasSuffix(library, "WebEngineCore"):
		return insistsOnAll
	}
	return insistsNot
}

// MapsNothing tells whether no memory of a process is mapped that has code of a file of this name.
func MapsNothing(name string) bool { return ProgramInsists(name) == insistsOnAll }

// insistenceOf is that of the program and the libraries of a process.
func insistenceOf(vmas []*vma.VmaEntry, file func(id uint32) Insistence) Insistence {
	most := insistsNot
	for _, v := range vmas {
		if v.GetStatus()&image.VMAFilePrivate != 0 && v.GetProt()&protExec != 0 {
			most = max(most, file(uint32(v.GetShmid())))
		}
	}
	return most
}

// marksHeap tells whether a process has memory that its children are not to have.
func marksHeap(vmas []*vma.VmaEntry) bool {
	for _, v := range vmas {
		if v.GetStatus()&image.VMAAnonPrivate != 0 && v.GetMadv()&madvDontFork != 0 {
			return true
		}
	}
	return false
}
