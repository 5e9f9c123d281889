package tcprepair

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// peekSent reads the selected send queue. What it returns ends with the last byte
// that the program wrote, and may begin with some that are acknowledged: a segment is
// there until all of it is.
func peekSent(fd int) ([]byte, error) {
	size, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	if err != nil {
		return nil, err
	}
	if size == 0 {
		return nil, nil
	}
	// The kernel copies segment by segment and gives up if one does not fit
	// (net/ipv4/tcp.c, tcp_peek_sndq).
	for room := size + 1<<16; room < 2*MaxQueue; room *= 2 {
		b := make([]byte, room)
		n, _, err := unix.Recvfrom(fd, b, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch {
		case err == nil:
			if n > MaxQueue {
				return nil, unsupported("more than %d MiB of it are unsent", MaxQueue>>20)
			}
			return b[:n:n], nil
		case errors.Is(err, unix.EAGAIN):
			return nil, nil
		case !errors.Is(err, unix.EFAULT):
			return nil, err
		}
	}
	return nil, unsupported("more than %d MiB of it are unsent", MaxQueue>>20)
}

// peekReceived reads the receive queue and leaves it as it is.
func peekReceived(fd, size int) ([]byte, error) {
	switch {
	case size == 0:
		return nil, nil
	case size > MaxQueue:
		return nil, unsupported("more than %d MiB of it are unread", MaxQueue>>20)
	}
	b := make([]byte, size)
	n, _, err := unix.Recvfrom(fd, b, unix.MSG_PEEK|unix.MSG_DONTWAIT)
	if err != nil {
		return nil, fmt.Errorf("read receive queue: %w", err)
	}
	if n != size {
		return nil, unsupported("%d of %d unread bytes can be read: it has urgent data", n, size)
	}
	return b, nil
}

// fill writes into the selected queue of a socket in repair mode, or, out of it,
// sends.
func fill(fd int, data []byte) error {
	// The kernel takes what fits into one segment of pages, and less if it has no
	// memory in one piece (tcp_send_rcvq).
	const most = 1 << 16
	for chunk := most; len(data) > 0; {
		n, err := write(fd, data[:min(chunk, len(data))])
		switch {
		case errors.Is(err, unix.ENOMEM) && chunk > 1<<10:
			chunk /= 2
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		default:
			data = data[n:]
		}
	}
	return nil
}

func write(fd int, b []byte) (int, error) {
	n, _, errno := unix.Syscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
