package omit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// PAGEMAP_SCAN and what it asks for (include/uapi/linux/fs.h, Linux 6.7).
const (
	pagemapScan = 0xc0606610
	isPresent   = 1 << 3 // PAGE_IS_PRESENT
	isGuard     = 1 << 8 // PAGE_IS_GUARD, Linux 6.15
)

// scan is a struct pm_scan_arg.
type scan struct {
	Size, Flags                   uint64
	Start, End, WalkEnd           uint64
	Vec, VecLen                   uint64
	MaxPages                      uint64
	Inverted, Mask, AnyOf, Return uint64
}

// maxRegions bounds an answer. CRIU asks for as many at once (criu/pagemap-cache.c,
// PAGE_REGIONS_MAX_NR); who asks for more goes on from where the answer ends.
const maxRegions = 1 << 15

// scanner answers scans. It has memory that is used again.
type scanner struct {
	all, kept []region
}

// run has the kernel scan a pagemap, as arg says. It takes what is left out of the answer, and writes it
// to mem, the memory of the process that asks: the regions to where it wants them, and into arg where the
// answer ends. It returns how many regions there are.
//
// Only a scan for pages is changed: that is how CRIU asks what it has to save. It asks for guard
// regions, too (criu/mem.c, collect_madv_guards), to make them again.
func (c *scanner) run(pagemap int, s *set, mem *os.File, arg []byte) (int, error) {
	var a scan
	if _, err := binary.Decode(arg, binary.NativeEndian, &a); err != nil {
		return 0, errors.Join(unix.EINVAL, err)
	}
	vec, limit := a.Vec, int(min(a.VecLen, maxRegions)) //nolint:gosec // it is small
	if c.all == nil {
		c.all, c.kept = make([]region, maxRegions), make([]region, 0, maxRegions)
	}
	if a.VecLen = uint64(limit); limit > 0 { //nolint:gosec // it was one
		a.Vec = uint64(uintptr(unsafe.Pointer(&c.all[0])))
	}
	found, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(pagemap), pagemapScan, uintptr(unsafe.Pointer(&a)))
	runtime.KeepAlive(c)
	if errno != 0 {
		return 0, errno
	}
	answer := c.all[:found]
	if a.Return&isPresent != 0 {
		var rest uint64
		if answer, rest = s.takeOut(c.kept, answer, limit); rest != 0 {
			a.WalkEnd = min(a.WalkEnd, rest)
		}
	}
	binary.NativeEndian.PutUint64(arg[unsafe.Offsetof(a.WalkEnd):], a.WalkEnd)
	return len(answer), write(mem, vec, answer)
}

// write writes regions into the memory of a process, /proc/PID/mem.
func write(mem *os.File, addr uint64, regions []region) error {
	if len(regions) == 0 {
		return nil
	}
	data := unsafe.Slice((*byte)(unsafe.Pointer(&regions[0])), len(regions)*int(unsafe.Sizeof(region{})))
	if _, err := mem.WriteAt(data, int64(addr)); err != nil { //nolint:gosec // of a process
		return fmt.Errorf("write to memory of CRIU: %w", err)
	}
	return nil
}
