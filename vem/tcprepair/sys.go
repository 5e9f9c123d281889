package tcprepair

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/sockopt"
)

// Values of TCP_REPAIR and TCP_REPAIR_QUEUE, linux/tcp.h.
const (
	// forceReuse is SK_FORCE_REUSE of include/net/sock.h, the SO_REUSEADDR of repair mode:
	// nobody but TCP_REPAIR sets it.
	forceReuse = 2

	repairOn  = 1
	repairOff = -1 // TCP_REPAIR_OFF_NO_WP: without a window probe

	noQueue = 0
	receive = 1
	send    = 2
)

// States of include/net/tcp_states.h.
const (
	established = 1
	finWait1    = 4
	finWait2    = 5
	closed      = 7
	closeWait   = 8
	lastAck     = 9
	closing     = 11
)

// Bits of tcpi_options.
const (
	optTimestamps = 1
	optSACK       = 2
	optScaling    = 4
	optMicro      = 64
)

func getOption(fd, level, name int, b []byte) ([]byte, error) { return sockopt.Get(fd, level, name, b) }

// optionSize is how long an option says that it is when there is no room for it.
func optionSize(fd, level, name int) (int, error) {
	var size uint32
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), 0, uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, errno
	}
	return int(size), nil
}

func setOption(fd, level, name int, b []byte) error { return sockopt.Set(fd, level, name, b) }

func setTCP(fd, name, value int) error {
	return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, name, value)
}

func getTCP(fd, name int) (int, error) { return getInt(fd, unix.IPPROTO_TCP, name) }

func getInt(fd, level, name int) (int, error) {
	var b [4]byte
	if v, err := getOption(fd, level, name, b[:]); err != nil || len(v) < len(b) {
		return 0, cmp.Or(err, error(unix.EINVAL))
	}
	return int(int32(binary.NativeEndian.Uint32(b[:]))), nil
}

func missing(err error) bool { return sockopt.Missing(err) }

// address is a socket address for system calls, and a scope.
func address(family int, a netip.AddrPort, scope uint32) unix.Sockaddr {
	if family == unix.AF_INET {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().Unmap().As4()}
	}
	sa := &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	if a.Addr().IsLinkLocalUnicast() {
		sa.ZoneId = scope
	}
	return sa
}

// parseAddress is its inverse; IPv4 in IPv6 stays so.
func parseAddress(sa unix.Sockaddr) (family int, a netip.AddrPort, scope uint32) {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return unix.AF_INET, netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), 0
	case *unix.SockaddrInet6:
		return unix.AF_INET6, netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)), sa.ZoneId
	}
	return 0, netip.AddrPort{}, 0
}

func (w Window) encode() []byte {
	b := make([]byte, 0, windowSize)
	for _, v := range []uint32{w.SendUpdate, w.Send, w.Max, w.Receive, w.Announced} {
		b = binary.NativeEndian.AppendUint32(b, v)
	}
	return b
}

// windowSize is that of struct tcp_repair_window.
const windowSize = 20

func (w *Window) decode(b []byte) {
	for i, p := range []*uint32{&w.SendUpdate, &w.Send, &w.Max, &w.Receive, &w.Announced} {
		*p = binary.NativeEndian.Uint32(b[4*i:])
	}
}

// before compares sequence numbers.
func before(a, b uint32) bool { return int32(a-b) < 0 }
