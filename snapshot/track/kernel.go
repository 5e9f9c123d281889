package track

import (
	"context"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/pagescan"
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
	regionsPerCall    = 4096
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

// A scanner looks at the pages of a process.
type scanner struct {
	pagemap *os.File
	regions []pagescan.Region
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
func (s *scanner) scan(ctx context.Context, a area, q query, found func(pagescan.Region)) error {
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
func (s *scanner) scanSome(a area, q query) (_ []pagescan.Region, next uint64, err error) {
	if s.regions == nil {
		s.regions = make([]pagescan.Region, regionsPerCall)
	}
	arg := pagescan.Arg{
		Size: pagescan.Size, Flags: q.flags, Start: a.start, End: a.end, MaxPages: q.atOnce,
		Inverted: q.without, Mask: q.with | q.without, AnyOf: q.either, Return: q.tell,
	}
	n, err := arg.Scan(s.pagemap.Fd(), s.regions)
	switch {
	case errors.Is(err, unix.EINTR):
		return nil, a.start, nil
	case errors.Is(err, unix.ESRCH):
		return nil, 0, ErrEnded
	case err != nil:
		return nil, 0, fmt.Errorf("scan memory from %#x to %#x: %w", a.start, a.end, err)
	case arg.WalkEnd <= a.start:
		return nil, 0, fmt.Errorf("scan memory from %#x to %#x: it does not go on", a.start, a.end)
	}
	return s.regions[:n], arg.WalkEnd, nil
}

func ioctl(f *os.File, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}
