package omit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/pagescan"
)

// maxRegions bounds an answer. CRIU asks for as many at once (criu/pagemap-cache.c,
// PAGE_REGIONS_MAX_NR); who asks for more goes on from where the answer ends.
const maxRegions = 1 << 15

// scanner answers scans. It has memory that is used again.
type scanner struct {
	all, kept []pagescan.Region
}

// run has the kernel scan a pagemap, as arg says. It takes what is left out of the answer, and writes it
// to mem, the memory of the process that asks: the regions to where it wants them, and into arg where the
// answer ends. It returns how many regions there are.
//
// Only a scan for pages is changed: that is how CRIU asks what it has to save. It asks for guard
// regions, too (criu/mem.c, collect_madv_guards), to make them again.
func (c *scanner) run(pagemap int, s *set, mem *os.File, arg []byte) (int, error) {
	var a pagescan.Arg
	if _, err := binary.Decode(arg, binary.NativeEndian, &a); err != nil {
		return 0, errors.Join(unix.EINVAL, err)
	}
	vec, limit := a.Vec, int(min(a.VecLen, maxRegions)) //nolint:gosec // it is small
	if c.all == nil {
		c.all, c.kept = make([]pagescan.Region, maxRegions), make([]pagescan.Region, 0, maxRegions)
	}
	found, err := a.Scan(uintptr(pagemap), c.all[:limit])
	if err != nil {
		return 0, err
	}
	answer := c.all[:found]
	if a.Return&pagescan.Present != 0 {
		var rest uint64
		if answer, rest = s.takeOut(c.kept, answer, limit); rest != 0 {
			a.WalkEnd = min(a.WalkEnd, rest)
		}
	}
	binary.NativeEndian.PutUint64(arg[unsafe.Offsetof(a.WalkEnd):], a.WalkEnd)
	return len(answer), write(mem, vec, answer)
}

// write writes regions into the memory of a process, /proc/PID/mem.
func write(mem *os.File, addr uint64, regions []pagescan.Region) error {
	if len(regions) == 0 {
		return nil
	}
	data := unsafe.Slice((*byte)(unsafe.Pointer(&regions[0])), len(regions)*int(unsafe.Sizeof(pagescan.Region{})))
	if _, err := mem.WriteAt(data, int64(addr)); err != nil { //nolint:gosec // of a process
		return fmt.Errorf("write to memory of CRIU: %w", err)
	}
	return nil
}
