package memmap

import (
	"fmt"
	"slices"

	corex86 "github.com/checkpoint-restore/go-criu/v8/crit/images/core-x86"
	core "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/vma"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/guard"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// How memory comes back by mapping: a run of stored pages of private anonymous
// memory becomes a private mapping of the file that CRIU wrote them to, so that
// nothing is copied, restores of one dump share the pages, and the next dump
// holds those alone that were written to. Pages that were never there stay
// anonymous, so a mapping may come back in pieces.
const (
	// MinRun is the shortest run of pages for whose sake memory is compared, copied
	// ahead or mapped.
	MinRun = 16
	// minOwn is the shortest run of a dump's own pages to be mapped where others are
	// anyway: a mapping costs the kernel and CRIU some 2 us, and so does copying a few
	// pages, but what is mapped is no clone's own until it writes there.
	minOwn = 4
	// maxRuns bounds the runs of one process. With more, short ones are copied.
	maxRuns = 8192
	// maxMappings is how many mappings a process may come back with, half of the
	// kernel's default limit (vm.max_map_count, 65530). Each run may make three
	// of one, and what it makes of memory that is mapped already stays so for
	// all later dumps.
	maxMappings = 32768
	// MinMapped is from how many pages on a process is worth a guard, which its
	// system calls then pay for.
	MinMapped = 256
	// minData is from how many pages on changed data of programs and libraries, which changes
	// once, is worth one more memory file to a process that has a guard anyway.
	minData = 128
)

// Copied says why pages are copied and not mapped.
type Copied string

// The reasons for copying.
const (
	CopiedNot        Copied = ""                                   // they are mapped, or there are none
	CopiedStack      Copied = "grows down"                         // the kernel maps no file that way (mm/mmap.c)
	CopiedLocked     Copied = "locked"                             // mapping would copy it all at once
	CopiedHuge       Copied = "huge pages"                         // MAP_HUGETLB or MADV_HUGEPAGE
	CopiedExecutable Copied = "executable"                         // the snapshot's file system may forbid it
	CopiedAdvice     Copied = "wiped on fork, droppable or merged" // see mappable
	CopiedShared     Copied = "shared memory"
	CopiedFile       Copied = "changed pages of a file" // which no code is mapped of, see codeOf
	CopiedKernel     Copied = "kernel object"           // AIO ring, shadow stack, socket
	CopiedShort      Copied = "runs of few pages"
	CopiedSmall      Copied = "small process"
	CopiedTask       Copied = "32-bit or foreign process" // the guard is for x86-64
	CopiedInsists    Copied = "must be droppable"         // see Insistence
)

// madvise(2) advice that CRIU keeps as bits of vma_entry.madv.
const (
	madvDontFork   = 1 << 10
	madvMergeable  = 1 << 12
	madvHugepage   = 1 << 14
	madvWipeOnFork = 1 << 18
)

// Bits of mmap(2) in vma_entry.
const (
	mapShared    = 0x1
	mapDroppable = 0x8 // with MAP_PRIVATE's place: a type of its own (Linux 6.11)
	mapAnonymous = 0x20
	mapLocked    = 0x2000
	mapHugeTLB   = 0x40000
	protExec     = 0x4
)

// codeOf is the files, by their ids in the images, of which a process has code mapped: its program
// and libraries. Their data can be mapped where it was changed, mostly by the dynamic linker, for no
// program drops it to have that of the file again. With other private mappings of files that is
// what madvise(2) is for.
func codeOf(vmas []*vma.VmaEntry) map[uint64]bool {
	code := make(map[uint64]bool)
	for _, v := range vmas {
		if v.GetStatus() == image.VMARegular|image.VMAFilePrivate && v.GetProt()&protExec != 0 {
			code[v.GetShmid()] = true
		}
	}
	return code
}

// mappable tells whether the pages of a mapping may be mapped. code is as codeOf returns it.
func mappable(v *vma.VmaEntry, code map[uint64]bool) Copied {
	const pure = image.VMARegular | image.VMAHeap | image.VMAAnonPrivate
	status, flags := v.GetStatus(), v.GetFlags()
	switch {
	case status&(image.VMAAnonShared|image.VMAFileShared|image.VMASysV|image.VMAMemfd) != 0:
		return CopiedShared
	case status == image.VMARegular|image.VMAFilePrivate && code[v.GetShmid()]:
	case status&image.VMAFilePrivate != 0:
		return CopiedFile
	case status&^pure != 0 || status&image.VMAAnonPrivate == 0:
		return CopiedKernel
	}
	switch {
	case flags&image.MapGrowsDown != 0:
		return CopiedStack
	case flags&mapLocked != 0:
		return CopiedLocked
	case flags&mapHugeTLB != 0, v.GetMadv()&madvHugepage != 0:
		return CopiedHuge
	case flags&mapShared != 0, flags&mapDroppable != 0, v.GetMadv()&(madvWipeOnFork|madvMergeable) != 0:
		// No file mapping can be wiped or droppable. KSM may put the zero page in
		// the place of a changed one (use_zero_pages), which the next dump leaves
		// out (should_dump_page in criu/mem.c): the file's would be back.
		return CopiedAdvice
	case v.GetMadv()&madvDontFork != 0:
		return CopiedInsists
	case v.GetProt()&protExec != 0:
		return CopiedExecutable
	}
	return CopiedNot
}

// A Run is stored pages that follow each other in memory and in the pages image.
type Run struct {
	Start, Pages uint64
	Offset       uint64 // of the first page, in pages, in the pages image
	VMA          int    // index of the mapping
}

// End is the address behind the run.
func (r Run) End() uint64 { return r.Start + r.Pages*image.PageSize }

// A Plan says how the memory of one process comes back.
type Plan struct {
	Mapped []Run    // to be mapped, ascending
	copied []Run    // to be copied by CRIU, ascending
	Why    []Copied // of each mapping that has pages to be copied
	Based  []bool   // of each mapping: it is of the memory of an earlier dump
	fit    []bool   // of each mapping: its pages may be mapped
	data   []bool   // of each mapping: it is of a program or library, see codeOf
	own    uint64   // stored pages in mappings that may be mapped or are based
	over   uint64   // those of them that are in based ones
}

// NewPlan decides. base tells which files, by their id in the images, hold the
// memory of earlier dumps, and how long they are; insists which are programs that end
// if memory can't be dropped. It only computes.
//
// Returns an error wrapping [wire.ErrMalformed] or [image.ErrInconsistent] if the mappings
// make no sense, or one of them reaches beyond the file of an earlier dump: the
// process would get a SIGBUS there.
func NewPlan(t *image.Task, base func(file uint32) (size int64, ok bool), insists func(file uint32) Insistence) (*Plan, error) {
	vmas := t.MM.GetVmas()
	if err := checkMappings(vmas); err != nil {
		return nil, err
	}
	fit := make([]bool, len(vmas))
	p := &Plan{Why: make([]Copied, len(vmas)), Based: make([]bool, len(vmas)), fit: fit, data: make([]bool, len(vmas))}
	refuse := CopiedNot // all of the process
	if foreignTask(t) {
		refuse = CopiedTask
	}
	marked := marksHeap(vmas)
	if kind := insistenceOf(vmas, insists); kind == insistsOnAll || kind == insistsOnHeap && !marked {
		refuse = CopiedInsists
	}
	code := codeOf(vmas)
	for i, v := range vmas {
		p.Why[i] = mappable(v, code)
		if v.GetStatus() == image.VMARegular|image.VMAFilePrivate {
			if size, ok := base(uint32(v.GetShmid())); ok {
				if err := checkBase(t, v, size); err != nil {
					return nil, err
				}
				p.Based[i], p.Why[i] = true, CopiedNot
			} else {
				p.data[i] = true
			}
		}
		if fit[i] = p.Why[i] == CopiedNot; fit[i] && refuse != CopiedNot {
			fit[i], p.Why[i] = false, refuse
		}
	}
	runs, err := findRuns(t.Pages, vmas)
	if err != nil {
		return nil, err
	}
	for _, r := range runs {
		if fit[r.VMA] {
			p.own += r.Pages
		}
		if p.Based[r.VMA] {
			p.over += r.Pages
		}
	}
	least, most := uint64(minOwn), min(maxRuns, max(maxMappings-len(vmas), 0)/2)
	if marked {
		most = min(most, guard.MaxRanges) // a guard of more ranges would also cover what lies between them
	}
	for countRuns(runs, fit, least) > most {
		least *= 2
	}
	for _, r := range runs {
		switch {
		case !fit[r.VMA]:
			p.copied = append(p.copied, r)
		case r.Pages < least:
			p.Why[r.VMA] = CopiedShort
			p.copied = append(p.copied, r)
		default:
			p.Mapped = append(p.Mapped, r)
		}
	}
	if !p.worthwhile() {
		p.copyAll(runs, CopiedSmall)
	}
	p.leaveOne()
	return p, nil
}

// guarded tells whether a process gets a guard whatever of its own pages is mapped.
func (p *Plan) guarded() bool { return slices.Contains(p.Based, true) }

// worthwhile tells whether what is to be mapped is worth a guard or, where there is one, a file.
// Short runs are not: they change from dump to dump, and each file is one more to build on.
func (p *Plan) worthwhile() bool {
	var long, data uint64
	for _, r := range p.Mapped {
		switch {
		case p.data[r.VMA]:
			data += r.Pages
		case r.Pages >= MinRun:
			long += r.Pages
		}
	}
	return long >= MinMapped || data >= minData && p.guarded()
}

// checkMappings checks each mapping by itself. sortMappings finds those that
// overlap.
func checkMappings(vmas []*vma.VmaEntry) error {
	for _, v := range vmas {
		if v.GetStart() >= v.GetEnd() || (v.GetStart()|v.GetEnd())%image.PageSize != 0 {
			return fmt.Errorf("read mappings: %w: from %#x to %#x", wire.ErrMalformed, v.GetStart(), v.GetEnd())
		}
	}
	return nil
}

// checkBase checks a mapping of a file of an earlier dump.
func checkBase(t *image.Task, v *vma.VmaEntry, size int64) error {
	length, offset := v.GetEnd()-v.GetStart(), v.GetPgoff()
	if offset%image.PageSize != 0 || offset > uint64(size) || length > uint64(size)-offset {
		return fmt.Errorf("read mappings: %w: at %#x, %d bytes from %d on of a memory file of %d",
			image.ErrInconsistent, v.GetStart(), length, offset, size)
	}
	if strictTask(t) {
		// A guard forbids strict mode (kernel/seccomp.c, seccomp_may_assign_mode),
		// and must not lift it.
		return fmt.Errorf("read mappings: %w: a process in strict seccomp mode has memory of an earlier dump", image.ErrInconsistent)
	}
	return nil
}

// copyAll maps nothing.
func (p *Plan) copyAll(runs []Run, why Copied) {
	for _, r := range p.Mapped {
		p.Why[r.VMA] = why
	}
	p.Mapped, p.copied = nil, runs
}

// leaveOne keeps a page to copy: CRIU needs a pagemap that has an entry
// (premap_priv_vmas in criu/mem.c reads the first without asking).
func (p *Plan) leaveOne() {
	if len(p.copied) > 0 || len(p.Mapped) == 0 {
		return
	}
	last := &p.Mapped[len(p.Mapped)-1]
	last.Pages--
	one := Run{Start: last.End(), Pages: 1, Offset: last.Offset + last.Pages, VMA: last.VMA}
	p.copied = []Run{one}
}

func countRuns(runs []Run, fit []bool, least uint64) int {
	n := 0
	for _, r := range runs {
		if fit[r.VMA] && r.Pages >= least {
			n++
		}
	}
	return n
}

// foreignTask tells whether a guard can't be made for a process.
func foreignTask(t *image.Task) bool {
	if t.Core.GetMtype() != core.CoreEntry_X86_64 {
		return true
	}
	if t.Core.GetThreadInfo().GetGpregs().GetMode() == corex86.UserX86RegsMode_COMPAT {
		return true
	}
	return strictTask(t)
}

// strictTask tells whether a thread is in the mode of seccomp that no filter can
// be added to.
func strictTask(t *image.Task) bool {
	for _, c := range t.Threads {
		if c.GetThreadCore().GetSeccompMode() == core.SeccompMode_strict {
			return true
		}
	}
	return false
}

// findRuns lists the stored pages as runs, each in one mapping.
func findRuns(p *image.Pagemap, vmas []*vma.VmaEntry) ([]Run, error) {
	order, err := image.SortMappings(vmas)
	if err != nil {
		return nil, err
	}
	var runs []Run
	offset, next := uint64(0), 0
	for _, e := range p.Extents {
		if e.Flags&image.PageParent != 0 {
			return nil, fmt.Errorf("find pages: %w: at %#x they are in a parent dump", image.ErrInconsistent, e.Start)
		}
		if e.Flags&image.PagePresent == 0 {
			continue
		}
		for at := e.Start; at < e.End(); {
			for next < len(order) && vmas[order[next]].GetEnd() <= at {
				next++
			}
			if next == len(order) || vmas[order[next]].GetStart() > at {
				return nil, fmt.Errorf("find pages: %w: %#x is in no mapping", image.ErrInconsistent, at)
			}
			stop := min(e.End(), vmas[order[next]].GetEnd())
			runs = appendRun(runs, Run{Start: at, Pages: (stop - at) / image.PageSize, Offset: offset, VMA: order[next]})
			offset += (stop - at) / image.PageSize
			at = stop
		}
	}
	return runs, nil
}

// appendRun adds a run, or makes the last one longer.
func appendRun(runs []Run, r Run) []Run {
	if n := len(runs); n > 0 && runs[n-1].VMA == r.VMA && runs[n-1].End() == r.Start && runs[n-1].Offset+runs[n-1].Pages == r.Offset {
		runs[n-1].Pages += r.Pages
		return runs
	}
	return append(runs, r)
}
