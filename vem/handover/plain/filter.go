package plain

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/sockopt"
)

const (
	filterSize = int(unsafe.Sizeof(unix.SockFilter{}))
	maxFilter  = 4096 * filterSize // BPF_MAXINSNS
)

// readFilter reads a socket's packet filter: nil if it has none. SO_GET_FILTER is the same
// number as SO_ATTACH_FILTER, counts instructions instead of bytes, and fails with EACCES if
// the filter is an eBPF program (net/core/filter.c, sk_get_filter).
func readFilter(fd int) ([]byte, error) {
	var count uint32
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, 0, uintptr(unsafe.Pointer(&count)), 0)
	switch {
	case errno == unix.EACCES:
		return nil, unsupported("an eBPF program filters its packets")
	case errno != 0:
		return nil, fmt.Errorf("read packet filter: %w", errno)
	case count == 0:
		return nil, nil
	}
	b := make([]byte, int(count)*filterSize)
	_, _, errno = unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(unsafe.Pointer(&count)), 0)
	if errno != 0 {
		return nil, fmt.Errorf("read packet filter: %w", errno)
	}
	return b, nil
}

func attachFilter(fd int, filter []byte) error {
	prog := make([]unix.SockFilter, len(filter)/filterSize)
	copy(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(prog))), len(filter)), filter)
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}); err != nil {
		return fmt.Errorf("attach packet filter: %w", err)
	}
	return nil
}

// shut has a socket take no packet, until open.
func shut(fd int) error {
	drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop}); err != nil {
		return fmt.Errorf("shut socket: %w", err)
	}
	return nil
}

func open(fd int) error {
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("open socket: %w", err)
	}
	return nil
}

// memory is how much memory what waits in a socket takes, as the kernel counts:
// SK_MEMINFO_RMEM_ALLOC of include/uapi/linux/sock_diag.h.
func memory(fd int) (uint32, error) {
	var info [9 * 4]byte
	b, err := sockopt.Get(fd, unix.SOL_SOCKET, unix.SO_MEMINFO, info[:])
	if err != nil || len(b) < 4 {
		return 0, fmt.Errorf("read SO_MEMINFO: %w", err)
	}
	return *(*uint32)(unsafe.Pointer(&info[0])), nil
}
