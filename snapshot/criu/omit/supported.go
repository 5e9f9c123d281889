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

// Supported returns an error unless pages can be left out on this host: it does so with a page of
// the calling process, on a thread that is apart.
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

// try leaves out a page of this process, and scans for it as CRIU does.
func try(page uint64) (err error) {
	us := os.Getpid()
	o, err := Start(unix.Gettid(), map[int][]image.Extent{us: {{Start: page, Pages: 1}}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.Close()) }()
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/pagemap", us), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open pagemap: %w", err)
	}
	defer unix.Close(fd) //nolint:errcheck // only read from
	// What is found would be written to the page itself.
	ask := scan{Start: page, End: page + image.PageSize, Vec: page, VecLen: 1, AnyOf: isPresent, Return: isPresent}
	ask.Size = uint64(unsafe.Sizeof(ask))
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), pagemapScan, uintptr(unsafe.Pointer(&ask)))
	switch {
	case errno == unix.ENOTTY || errno == unix.EINVAL:
		return fmt.Errorf("the kernel does not tell CRIU which pages to save (PAGEMAP_SCAN, Linux 6.7): %w", errno)
	case errno != 0:
		return fmt.Errorf("scan memory: %w", errors.Join(errno, o.Check()))
	case n != 0:
		return errors.New("a page was not left out")
	}
	return o.Check()
}
