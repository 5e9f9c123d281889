package track

import (
	"context"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/image"
)

// From include/uapi/linux/userfaultfd.h.
const (
	userModeOnly      = 1 // UFFD_USER_MODE_ONLY
	apiVersion        = 0xaa
	featureWPAsync    = 1 << 15
	registerModeWP    = 1 << 1
	ioctlAPI          = 0xc018aa3f // UFFDIO_API
	ioctlRegister     = 0xc020aa00 // UFFDIO_REGISTER
	ioctlUnregister   = 0x8010aa01 // UFFDIO_UNREGISTER
	ioctlPagemapScan  = 0xc0606610 // PAGEMAP_SCAN, include/uapi/linux/fs.h
	scanWriteProtect  = 1 << 0     // PM_SCAN_WP_MATCHING
	categoryTracked   = 1 << 0     // PAGE_IS_WPALLOWED
	categoryWritten   = 1 << 1
	categoryPresent   = 1 << 3
	categorySwapped   = 1 << 4
	categoryZero      = 1 << 5 // PAGE_IS_PFNZERO: the zero page
	categoryGuard     = 1 << 8 // Linux 6.15: MADV_GUARD_INSTALL, a page that must not be reached
	regionsPerCall    = 4096
	sizeofScanArg     = 96
	sizeofRegion      = 24
	sizeofAPI         = 24
	sizeofRegisterArg = 32
)

// enable makes a userfaultfd one of asynchronous write protection.
func enable(uffd *os.File) error {
	api := struct{ version, features, ioctls uint64 }{apiVersion, featureWPAsync, 0}
	_ = [1]struct{}{}[unsafe.Sizeof(api)-sizeofAPI]
	if err := ioctl(uffd, ioctlAPI, unsafe.Pointer(&api)); err != nil {
		return fmt.Errorf("enable asynchronous write protection: %w", err)
	}
	return nil
}

// register has writes to an area noted, of pages that are protected.
func register(uffd *os.File, a area) error {
	arg := struct{ start, length, mode, ioctls uint64 }{a.start, a.end - a.start, registerModeWP, 0}
	_ = [1]struct{}{}[unsafe.Sizeof(arg)-sizeofRegisterArg]
	if err := ioctl(uffd, ioctlRegister, unsafe.Pointer(&arg)); err != nil {
		return fmt.Errorf("track memory at %#x: %w", a.start, err)
	}
	return nil
}

// unregister ends that, and the protection of the pages.
func unregister(uffd *os.File, a area) error {
	arg := struct{ start, length uint64 }{a.start, a.end - a.start}
	return ioctl(uffd, ioctlUnregister, unsafe.Pointer(&arg))
}

// region is struct page_region.
type region struct{ start, end, categories uint64 }

// A scanner looks at the pages of a process.
type scanner struct {
	pagemap *os.File
	regions []region
}

// query says which pages are meant: those that have all categories of with, none of without, and one of
// either. Regions are told apart by the categories of tell.
type query struct {
	flags                       uint64
	with, without, either, tell uint64
	atOnce                      uint64 // pages that the kernel looks for in one call; 0: any number
}

// few is an atOnce for a process that runs: it can't map memory meanwhile (mm's mmap_lock).
const few = 64 << 20 / image.PageSize

// scan calls found for each region of pages in an area. What is not mapped is passed over. It returns
// [ErrEnded] if the memory is no more.
func (s *scanner) scan(ctx context.Context, a area, q query, found func(region)) error {
	for a.start < a.end {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		regions, next, err := s.scanSome(a, q)
		if err != nil {
			return err
		}
		for _, r := range regions {
			found(r)
		}
		a.start = next
	}
	return nil
}

// scanSome makes one call, and returns the address up to which it got.
func (s *scanner) scanSome(a area, q query) (_ []region, next uint64, err error) {
	if s.regions == nil {
		s.regions = make([]region, regionsPerCall)
	}
	arg := struct {
		size, flags, start, end, walkEnd, vec, vecLen, maxPages, inverted, mask, anyOf, tell uint64
	}{
		size: sizeofScanArg, flags: q.flags, start: a.start, end: a.end,
		vec: uint64(uintptr(unsafe.Pointer(&s.regions[0]))), vecLen: uint64(len(s.regions)), maxPages: q.atOnce,
		inverted: q.without, mask: q.with | q.without, anyOf: q.either, tell: q.tell,
	}
	_ = [1]struct{}{}[unsafe.Sizeof(arg)-sizeofScanArg]
	_ = [1]struct{}{}[unsafe.Sizeof(s.regions[0])-sizeofRegion]
	n, err := ioctlResult(s.pagemap, ioctlPagemapScan, unsafe.Pointer(&arg))
	switch {
	case errors.Is(err, unix.EINTR):
		return nil, a.start, nil
	case errors.Is(err, unix.ESRCH):
		return nil, 0, ErrEnded
	case err != nil:
		return nil, 0, fmt.Errorf("scan memory from %#x to %#x: %w", a.start, a.end, err)
	case arg.walkEnd <= a.start:
		return nil, 0, fmt.Errorf("scan memory from %#x to %#x: it does not go on", a.start, a.end)
	}
	return s.regions[:n], arg.walkEnd, nil
}

func ioctl(f *os.File, request uintptr, arg unsafe.Pointer) error {
	_, err := ioctlResult(f, request, arg)
	return err
}

func ioctlResult(f *os.File, request uintptr, arg unsafe.Pointer) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(arg))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
