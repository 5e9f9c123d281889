package omit

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/criu/apart"
	"github.com/snapctl/snapctl/snapshot/image"
)

// Supported returns an error unless pages can be left out on this host: it does all but ask, with a page
// of the calling process, on a thread that is apart.
func Supported() error {
	page, err := unix.Mmap(-1, 0, image.PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("map a page: %w", err)
	}
	defer unix.Munmap(page) //nolint:errcheck // it was mapped
	page[0] = 1
	return apart.OnThread(func() error {
		if err := apart.Move(); err != nil {
			return err
		}
		return try(uint64(uintptr(unsafe.Pointer(&page[0]))))
	})
}

// try scans a page of this process as CRIU does, and has it left out, of which nobody makes use: a process
// that asks itself can't be killed until it has answered (fs/fuse/dev.c, request_wait_answer).
func try(page uint64) error {
	us := os.Getpid()
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/pagemap", us), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open pagemap: %w", err)
	}
	defer unix.Close(fd) //nolint:errcheck // only read from
	var found region
	ask := scan{
		Start: page, End: page + image.PageSize, Vec: uint64(uintptr(unsafe.Pointer(&found))), VecLen: 1, AnyOf: isPresent, Return: isPresent,
	}
	ask.Size = uint64(unsafe.Sizeof(ask))
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), pagemapScan, uintptr(unsafe.Pointer(&ask)))
	switch {
	case errno == unix.ENOTTY || errno == unix.EINVAL:
		return fmt.Errorf("the kernel does not tell CRIU which pages to save (PAGEMAP_SCAN, Linux 6.7): %w", errno)
	case errno != 0:
		return fmt.Errorf("scan memory: %w", errno)
	case n != 1 || found.start != page:
		return errors.New("the kernel does not find a page that is there")
	}
	o, err := Start(unix.Gettid(), map[int][]image.Extent{us: {{Start: page, Pages: 1}}})
	if err != nil {
		return err
	}
	return o.Close()
}
