package track

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Supported tells why nothing can be tracked on this machine. It needs no capability.
//
// Returns an error wrapping [ErrUnsupported].
func Supported() error {
	if err := probe(0); err != nil {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return nil
}

// ErrUnsupported is a kernel that can't tell which memory was written.
var ErrUnsupported = errors.New("the kernel can't note writes to memory (needs Linux 6.7, CONFIG_USERFAULTFD and CONFIG_PROC_PAGE_MONITOR)")

// guardCategory is PAGE_IS_GUARD where the kernel knows it, else nothing.
var guardCategory = sync.OnceValue(func() uint64 {
	if err := probe(categoryGuard); err != nil {
		return 0
	}
	return categoryGuard
})

// probe does to this process what Start and Collect do, to no pages.
func probe(without uint64) (err error) {
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|userModeOnly, 0, 0)
	if errno != 0 {
		return os.NewSyscallError("userfaultfd", errno)
	}
	uffd := os.NewFile(fd, "userfaultfd")
	defer func() { err = errors.Join(err, uffd.Close()) }()
	if err := enable(uffd); err != nil {
		return err
	}
	pagemap, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pagemap.Close()) }()
	s := scanner{pagemap: pagemap}
	// Nothing is at the lowest page (mmap_min_addr), and nothing is registered.
	const page = 4096
	q := query{flags: scanWriteProtect, with: categoryTracked, without: without, either: categoryPresent}
	return s.scan(area{0, page}, q, func(region) {})
}
