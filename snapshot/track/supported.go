package track

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/pagescan"
)

// ErrUnsupported is a kernel that can't tell which memory was written.
var ErrUnsupported = errors.New("the kernel can't note writes to memory (needs Linux 6.9, CONFIG_USERFAULTFD and CONFIG_PROC_PAGE_MONITOR)")

// Supported tells why nothing can be tracked on this machine. It needs no capability.
//
// Linux 6.7 and 6.8 have all that is needed, but lose changes of a process at the moment in which memory
// is protected (CVE-2024-36943, mended in 6.8.10), and leave pages protected when a userfaultfd is closed.
//
// Returns an error wrapping [ErrUnsupported].
func Supported() error { return supported() }

var supported = sync.OnceValue(func() error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return os.NewSyscallError("uname", err)
	}
	release := unix.ByteSliceToString(u.Release[:])
	if strings.HasPrefix(release, "6.7.") || strings.HasPrefix(release, "6.8.") {
		return fmt.Errorf("%w: %s may lose what is written meanwhile (CVE-2024-36943)", ErrUnsupported, release)
	}
	if err := probe(0); err != nil {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return nil
})

// guardCategory is PAGE_IS_GUARD where the kernel knows it, else nothing.
var guardCategory = sync.OnceValue(func() uint64 {
	if err := probe(pagescan.Guard); err != nil {
		return 0
	}
	return pagescan.Guard
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
	q := query{flags: pagescan.WriteProtect, with: pagescan.Tracked, without: without, either: pagescan.Present}
	_, _, err = s.scanSome(area{0, page}, q)
	return err
}
