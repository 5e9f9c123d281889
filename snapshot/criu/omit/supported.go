package omit

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/criu/apart"
	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/pagescan"
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
	found := make([]pagescan.Region, 1)
	ask := pagescan.Arg{Size: pagescan.Size, Start: page, End: page + image.PageSize, AnyOf: pagescan.Present, Return: pagescan.Present}
	n, err := ask.Scan(uintptr(fd), found)
	switch {
	case errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL):
		return fmt.Errorf("the kernel does not tell CRIU which pages to save (PAGEMAP_SCAN, Linux 6.7): %w", err)
	case err != nil:
		return fmt.Errorf("scan memory: %w", err)
	case n != 1 || found[0].Start != page:
		return errors.New("the kernel does not find a page that is there")
	}
	o, err := Start(unix.Gettid(), map[int][]image.Extent{us: {{Start: page, Pages: 1}}})
	if err != nil {
		return err
	}
	return o.Close()
}
