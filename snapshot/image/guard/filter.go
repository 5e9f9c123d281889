package guard

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// An Range is memory from start up to end.
type Range struct{ Start, End uint64 }

// MaxRanges bounds the ranges of one guard: a filter has at most 4096
// instructions (BPF_MAXINSNS), and a madvise looks at each range.
const MaxRanges = 128

// Merge sorts ranges and joins those that touch, then those that are
// nearest to each other until there are no more than most. What lies between is
// guarded too: there the program loses an optimisation, and nothing else.
func Merge(ranges []Range, most int) []Range {
	ranges = slices.Clone(ranges)
	slices.SortFunc(ranges, func(a, b Range) int { return cmp.Compare(a.Start, b.Start) })
	ranges = joinCloser(ranges, 0)
	if len(ranges) <= most {
		return ranges
	}
	gaps := make([]uint64, 0, len(ranges)-1)
	for i := 1; i < len(ranges); i++ {
		gaps = append(gaps, ranges[i].Start-ranges[i-1].End)
	}
	slices.Sort(gaps)
	return joinCloser(ranges, gaps[len(ranges)-most-1])
}

// joinCloser joins sorted ranges with no more than gap between them.
func joinCloser(ranges []Range, gap uint64) []Range {
	out := ranges[:0]
	for _, r := range ranges {
		if n := len(out); n > 0 && r.Start <= out[n-1].End+gap {
			out[n-1].End = max(out[n-1].End, r.End)
			continue
		}
		out = append(out, r)
	}
	return out
}

// guardMark is loaded by every guard, so that a later dump's is known again.
const guardMark = 0x736e6170

// Is tells whether a filter, as struct sock_filter[], is a guard.
func Is(filter []byte) bool {
	mark := appendInsn(nil, insn(unix.BPF_LD|unix.BPF_IMM, guardMark))
	for ; len(filter) >= len(mark); filter = filter[len(mark):] {
		if string(filter[:len(mark)]) == string(mark) {
			return true
		}
	}
	return false
}

// guardedAdvice is the advice of madvise(2) whose effect on private file mappings
// is not that on anonymous memory: those that drop pages would bring the file's
// back instead of zeros (mm/madvise.c), WIPEONFORK and FREE are refused by the
// kernel, HWPOISON and SOFT_OFFLINE would poison pages that other apps share, and
// of merged pages see mappable.
var guardedAdvice = []uint32{
	4,   // MADV_DONTNEED
	8,   // MADV_FREE
	9,   // MADV_REMOVE
	12,  // MADV_MERGEABLE
	18,  // MADV_WIPEONFORK
	24,  // MADV_DONTNEED_LOCKED
	100, // MADV_HWPOISON
	101, // MADV_SOFT_OFFLINE
	102, // MADV_GUARD_INSTALL
}

// Offsets in struct seccomp_data, of the lower half of each argument. All
// architectures of these filters are little endian.
const (
	dataNr   = 0
	dataArch = 4
	dataArgs = 16
)

// Scratch memory of a guard.
const (
	memStart  = iota // of the range that the call is about, low and high half
	memStartH        //
	memEnd           //
	memEndH          //
	memAction        // what to return if it is guarded
)

// Filter assembles the seccomp filter that keeps converted memory from
// behaving as the file mapping that it is:
//
//	madvise(start, length, advice)  EINVAL if the advice is one of guardedAdvice
//	process_madvise                 EINVAL likewise, wherever
//	mremap(start, length, ...)      ENOMEM unless it shrinks in place
//	io_uring_setup                  EPERM, as where kernel.io_uring_disabled is 2
//	prctl(PR_SET_MEMORY_MERGE, 1)   EINVAL, as where there is no KSM: see mappable
//
// if [start, start+length) meets one of the ranges; the callers that matter fall
// back on what they would do on a kernel without it. Everything else is allowed
// by the number alone, which the kernel then no longer runs the filter for (since
// Linux 5.11: kernel/seccomp.c, seccomp_is_const_allow, which understands only
// loads of number and architecture, AND, and jumps). So the number is masked, not
// compared twice: x32 calls have bit 30 set.
//
// What a guard changes besides: the process can't enter seccomp's strict mode any
// more (kernel/seccomp.c, seccomp_may_assign_mode), and a wrong mremap may be told
// ENOMEM where it would be EFAULT or EINVAL.
//
// No filter sees what is asked for through an io_uring, IORING_OP_MADVISE among
// it. A program with one can't have been saved; one restored must not make one.
func Filter(ranges []Range) []byte {
	const (
		archX86 = 0xc000003e // AUDIT_ARCH_X86_64
		arch386 = 0x40000003 // AUDIT_ARCH_I386
		x32     = 0x40000000
	)
	f := &filter{labels: make(map[string]int)}
	f.add(loadData(dataArch))
	f.jump(unix.BPF_JEQ, arch386, "i386", "")
	f.jump(unix.BPF_JEQ, archX86, "", "allow-other")
	f.add(loadData(dataNr), insn(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, ^uint32(x32)))
	f.jump(unix.BPF_JEQ, unix.SYS_MADVISE, "madvise", "")
	f.jump(unix.BPF_JEQ, unix.SYS_MREMAP, "mremap", "")
	f.jump(unix.BPF_JEQ, unix.SYS_IO_URING_SETUP, "io_uring_setup", "")
	f.jump(unix.BPF_JEQ, unix.SYS_PRCTL, "prctl", "")
	f.jump(unix.BPF_JEQ, unix.SYS_PROCESS_MADVISE, "process_madvise", "allow-other")
	f.label("i386")
	f.add(loadData(dataNr))
	f.jump(unix.BPF_JEQ, 219, "madvise", "") // arch/x86/entry/syscalls/syscall_32.tbl
	f.jump(unix.BPF_JEQ, 163, "mremap", "")
	f.jump(unix.BPF_JEQ, 425, "io_uring_setup", "")
	f.jump(unix.BPF_JEQ, 172, "prctl", "")
	f.jump(unix.BPF_JEQ, 440, "process_madvise", "allow-other")
	f.label("allow-other")
	f.add(ret(unix.SECCOMP_RET_ALLOW))

	f.label("io_uring_setup")
	f.add(ret(errno(unix.EPERM)))

	f.label("prctl")
	f.add(loadArg(0))
	f.jump(unix.BPF_JEQ, unix.PR_SET_MEMORY_MERGE, "", "allow-prctl")
	f.add(loadArg(1), insn(unix.BPF_MISC|unix.BPF_TAX, 0), loadArgHigh(1), insn(unix.BPF_ALU|unix.BPF_OR|unix.BPF_X, 0))
	f.jump(unix.BPF_JEQ, 0, "", "refuse")
	f.label("allow-prctl")
	f.add(ret(unix.SECCOMP_RET_ALLOW))

	f.label("process_madvise")
	f.add(loadArg(3))
	for _, a := range guardedAdvice {
		f.jump(unix.BPF_JEQ, a, "refuse", "")
	}
	f.add(ret(unix.SECCOMP_RET_ALLOW))
	f.label("refuse")
	f.add(ret(errno(unix.EINVAL)))

	f.label("madvise")
	f.add(insn(unix.BPF_LD|unix.BPF_IMM, errno(unix.EINVAL)), store(memAction), loadArg(2))
	for _, a := range guardedAdvice {
		f.jump(unix.BPF_JEQ, a, "range", "")
	}
	f.add(ret(unix.SECCOMP_RET_ALLOW))

	f.label("mremap")
	f.add(insn(unix.BPF_LD|unix.BPF_IMM, errno(unix.ENOMEM)), store(memAction))
	f.jumpWider(2, 1, "range") // it grows
	f.add(loadArg(3))
	f.jump(unix.BPF_JSET, ^uint32(unix.MREMAP_MAYMOVE), "range", "")
	f.add(ret(unix.SECCOMP_RET_ALLOW)) // it shrinks in place: mm/mremap.c moves nothing then

	f.label("range")
	f.add(insn(unix.BPF_LD|unix.BPF_IMM, guardMark))
	f.loadRange()
	for i, r := range ranges {
		f.overlap(i, r)
	}
	f.add(ret(unix.SECCOMP_RET_ALLOW))
	return f.bytes()
}

// jumpWider jumps if argument a is greater than argument b.
func (f *filter) jumpWider(a, b int, to string) {
	tax := insn(unix.BPF_MISC|unix.BPF_TAX, 0)
	f.add(loadArgHigh(b), tax, loadArgHigh(a))
	f.jump(unix.BPF_JGT|unix.BPF_X, 0, to, "")
	f.jump(unix.BPF_JEQ|unix.BPF_X, 0, "", "not-wider")
	f.add(loadArg(b), tax, loadArg(a))
	f.jump(unix.BPF_JGT|unix.BPF_X, 0, to, "")
	f.label("not-wider")
}

// loadRange stores the first two arguments as start and end; a call about
// nothing is allowed.
func (f *filter) loadRange() {
	tax := insn(unix.BPF_MISC|unix.BPF_TAX, 0)
	add := insn(unix.BPF_ALU|unix.BPF_ADD|unix.BPF_X, 0)
	f.add(loadArg(1), tax, loadArgHigh(1), insn(unix.BPF_ALU|unix.BPF_OR|unix.BPF_X, 0))
	// Returns stand before what is stored next: the kernel takes what was valid
	// at one for all that is valid behind it (net/core/filter.c,
	// check_load_and_stores).
	f.jump(unix.BPF_JEQ, 0, "", "sized")
	f.add(ret(unix.SECCOMP_RET_ALLOW))
	f.label("sized")
	// Linear address masking, where a process has it (Linux 6.4), has the kernel
	// ignore bits 57 to 62 of both calls' addresses (untagged_addr).
	untag := insn(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, 0x81ffffff)
	f.add(loadArgHigh(0), untag, store(memStartH), loadArg(0), store(memStart), add, store(memEnd))
	f.jump(unix.BPF_JGE|unix.BPF_X, 0, "no-carry", "") // X is still the length's lower half
	f.add(insn(unix.BPF_LD|unix.BPF_IMM, 1))
	f.jump(unix.BPF_JA, 0, "carry", "")
	f.label("no-carry")
	f.add(insn(unix.BPF_LD|unix.BPF_IMM, 0))
	f.label("carry")
	f.add(tax, insn(unix.BPF_LD|unix.BPF_MEM, memStartH), add, tax, loadArgHigh(1), add, store(memEndH))
}

// overlap returns the stored action if start < r.end and end > r.start.
func (f *filter) overlap(i int, r Range) {
	name := func(s string) string { return fmt.Sprintf("%s-%d", s, i) }
	load := func(m uint32) sockFilter { return insn(unix.BPF_LD|unix.BPF_MEM, m) }
	f.add(load(memStartH))
	f.jump(unix.BPF_JGT, uint32(r.End>>32), name("next"), "")
	f.jump(unix.BPF_JEQ, uint32(r.End>>32), "", name("before"))
	f.add(load(memStart))
	f.jump(unix.BPF_JGE, uint32(r.End), name("next"), "")
	f.label(name("before"))
	f.add(load(memEndH))
	f.jump(unix.BPF_JGT, uint32(r.Start>>32), name("hit"), "")
	f.jump(unix.BPF_JEQ, uint32(r.Start>>32), "", name("next"))
	f.add(load(memEnd))
	f.jump(unix.BPF_JGT, uint32(r.Start), "", name("next"))
	f.label(name("hit"))
	f.add(load(memAction), insn(unix.BPF_RET|unix.BPF_A, 0))
	f.label(name("next"))
}

// sockFilter is struct sock_filter of classic BPF.
type sockFilter struct {
	code   uint16
	jt, jf uint8
	k      uint32
}

func insn(code int, k uint32) sockFilter { return sockFilter{code: uint16(code), k: k} }

func loadData(offset uint32) sockFilter { return insn(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offset) }
func loadArg(n int) sockFilter          { return loadData(dataArgs + 8*uint32(n)) }
func loadArgHigh(n int) sockFilter      { return loadData(dataArgs + 8*uint32(n) + 4) }
func store(m uint32) sockFilter         { return insn(unix.BPF_ST, m) }
func ret(action uint32) sockFilter      { return insn(unix.BPF_RET|unix.BPF_K, action) }

func errno(e unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(e) }

// filter collects instructions and resolves jumps to labels; an empty label is
// the next instruction.
type filter struct {
	list   []sockFilter
	labels map[string]int
	jumps  []pendingJump
}

type pendingJump struct {
	at     int
	jt, jf string
}

func (f *filter) add(list ...sockFilter) { f.list = append(f.list, list...) }

func (f *filter) label(name string) { f.labels[name] = len(f.list) }

func (f *filter) jump(op int, k uint32, jt, jf string) {
	f.jumps = append(f.jumps, pendingJump{len(f.list), jt, jf})
	f.add(insn(unix.BPF_JMP|op, k))
}

func (f *filter) bytes() []byte {
	to := func(from int, label string) int {
		if label == "" {
			return 0
		}
		return f.labels[label] - from - 1
	}
	for _, j := range f.jumps {
		i := &f.list[j.at]
		if i.code == unix.BPF_JMP|unix.BPF_JA {
			i.k = uint32(to(j.at, j.jt))
			continue
		}
		i.jt, i.jf = uint8(to(j.at, j.jt)), uint8(to(j.at, j.jf))
	}
	out := make([]byte, 0, 8*len(f.list))
	for _, i := range f.list {
		out = appendInsn(out, i)
	}
	return out
}

func appendInsn(dst []byte, i sockFilter) []byte {
	dst = binary.NativeEndian.AppendUint16(dst, i.code)
	dst = append(dst, i.jt, i.jf)
	return binary.NativeEndian.AppendUint32(dst, i.k)
}
