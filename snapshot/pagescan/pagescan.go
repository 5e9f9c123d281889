// Package pagescan asks the kernel about the pages of a process, by the ioctl PAGEMAP_SCAN of its
// /proc/PID/pagemap: which there are, which were written, which hold nothing. It is Linux 6.7 and
// newer; all names and values are those of include/uapi/linux/fs.h.
//
// Package track asks so itself. Package omit answers so in the kernel's place, to CRIU.
package pagescan

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Request is PAGEMAP_SCAN.
const Request = 0xc0606610

// Categories of pages (PAGE_IS_...).
const (
	Tracked = 1 << 0 // PAGE_IS_WPALLOWED: writes to it are noted, by userfaultfd(2)
	Written = 1 << 1 // since it was protected
	Present = 1 << 3
	Swapped = 1 << 4
	Zero    = 1 << 5 // PAGE_IS_PFNZERO: the zero page
	Guard   = 1 << 8 // MADV_GUARD_INSTALL, a page that must not be reached. Linux 6.15; before, EINVAL
)

// WriteProtect is a flag of [Arg]: what is found is protected (PM_SCAN_WP_MATCHING).
const WriteProtect = 1 << 0

// Region is a struct page_region: pages next to each other, of the same categories.
type Region struct{ Start, End, Categories uint64 }

// Arg is a struct pm_scan_arg.
type Arg struct {
	Size, Flags         uint64
	Start, End, WalkEnd uint64 // WalkEnd is the answer's: up to where the kernel has looked
	Vec, VecLen         uint64 // where the regions go in the memory of who asks, and how many fit
	MaxPages            uint64 // 0: any number
	// Meant are pages that have the categories of Mask, or lack them where Inverted has them, too, and
	// have one of AnyOf. Regions are told apart by the categories of Return.
	Inverted, Mask, AnyOf, Return uint64
}

// Size is that of an Arg in bytes, and its field of that name.
const Size = 96

// The kernel's structures have these sizes.
var (
	_ = [1]struct{}{}[unsafe.Sizeof(Arg{})-Size]
	_ = [1]struct{}{}[unsafe.Sizeof(Region{})-24]
)

// Scan asks, about the process of an open pagemap, and returns how many regions it has put into
// found. It fills in Vec and VecLen unless found is empty. The error is the kernel's: EINTR if
// nothing was found by then, ESRCH if the memory is no more, ENOTTY before Linux 6.7, EINVAL for a
// category that the kernel does not know.
//
// It needs the rights that whoever opened the pagemap had, and for WriteProtect those to write to
// the process.
func (a *Arg) Scan(pagemap uintptr, found []Region) (int, error) {
	var stays runtime.Pinner
	defer stays.Unpin()
	if len(found) > 0 {
		stays.Pin(&found[0]) // the kernel finds it by a number, which nobody would change
		a.Vec, a.VecLen = uint64(uintptr(unsafe.Pointer(&found[0]))), uint64(len(found))
	}
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, pagemap, Request, uintptr(unsafe.Pointer(a)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
