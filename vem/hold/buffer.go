package hold

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Buffer is the receive buffer of a datagram socket, as it was when it was collected.
type Buffer struct {
	Bytes int `json:"bytes"` // as the kernel counts, with what it needs for each datagram
	// Lock says which buffers the app has set itself (SO_BUF_LOCK, socket(7)).
	Lock int `json:"lock"`
	// Drops is how many datagrams the socket had lost.
	Drops uint32 `json:"drops"`
}

// roomyBuffer is the receive buffer of a held datagram socket, as the kernel counts it:
// some 20000 small datagrams. It takes memory only for what waits.
const roomyBuffer = 16 << 20

// datagrams tells whether the socket loses what there is no room for.
func (k Kind) datagrams() bool { return k == UDP || k == Ping || k == Raw }

// ReadBuffer reads the receive buffer of a socket that loses what there is no room for:
// nil for any other.
func ReadBuffer(kind Kind, fd int) (*Buffer, error) {
	if !kind.datagrams() {
		return nil, nil
	}
	var b Buffer
	var err error
	if b.Bytes, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF); err != nil {
		return nil, fmt.Errorf("read size of receive buffer: %w", err)
	}
	if b.Lock, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BUF_LOCK); err != nil {
		return nil, fmt.Errorf("read what was set of the buffers: %w", err)
	}
	b.Drops, err = drops(fd)
	return &b, err
}

// drops asks how many datagrams a socket has lost: SK_MEMINFO_DROPS of
// include/uapi/linux/sock_diag.h.
func drops(fd int) (uint32, error) {
	const index = 8
	var info [index + 1]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, fmt.Errorf("read lost datagrams: %w", errno)
	}
	return info[index], nil
}

// Widen gives the datagram sockets large receive buffers, for nobody reads: what there
// is no room for is lost. [Set.Narrow] undoes it, also in a later daemon, since what the
// app has is in [Socket.Receive]. Widening again does nothing. Needs CAP_NET_ADMIN.
func (s *Set) Widen() error {
	var errs []error
	for i := range s.Sockets {
		sock := &s.Sockets[i]
		if sock.Receive == nil || sock.Receive.Bytes >= roomyBuffer {
			continue
		}
		if err := setBuffer(int(sock.File.Fd()), roomyBuffer, sock.Receive.Lock); err != nil {
			errs = append(errs, fmt.Errorf("give %s socket %s a larger buffer: %w", sock.Kind, sock.Local, err))
		}
	}
	return errors.Join(errs...)
}

// Narrow puts back what [Set.Widen] changed. What waits beyond the app's own limit
// stays; more comes only when the app has read enough.
func (s *Set) Narrow() error {
	var errs []error
	for i := range s.Sockets {
		sock := &s.Sockets[i]
		if sock.Receive == nil || sock.Receive.Bytes >= roomyBuffer {
			continue
		}
		if err := setBuffer(int(sock.File.Fd()), sock.Receive.Bytes, sock.Receive.Lock); err != nil {
			errs = append(errs, fmt.Errorf("give %s socket %s its own buffer: %w", sock.Kind, sock.Local, err))
		}
	}
	return errors.Join(errs...)
}

// setBuffer sets the size of a receive buffer as the kernel counts it: twice what is
// asked for (net/core/sock.c, __sock_set_rcvbuf). That counts as set by the app, until
// SO_BUF_LOCK says otherwise (Linux 5.14).
func setBuffer(fd, size, lock int) error {
	return errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size/2),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BUF_LOCK, lock),
	)
}

// Lost is a datagram socket that has lost some while it was held.
type Lost struct {
	Socket *Socket
	Count  uint32 // datagrams
}

// Lost lists the datagram sockets that have lost some since they were collected.
func (s *Set) Lost() ([]Lost, error) {
	var out []Lost
	for i := range s.Sockets {
		sock := &s.Sockets[i]
		if sock.Receive == nil {
			continue
		}
		now, err := drops(int(sock.File.Fd()))
		if err != nil {
			return out, fmt.Errorf("%s socket %s: %w", sock.Kind, sock.Local, err)
		}
		if n := now - sock.Receive.Drops; n > 0 {
			out = append(out, Lost{Socket: sock, Count: n})
		}
	}
	return out, nil
}
