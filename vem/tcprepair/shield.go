package tcprepair

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// shield has the kernel drop what arrives at a socket while its send queue is selected,
// until the returned function is called. Without it an acknowledgement that arrives then
// has the kernel count all that waits in the queue as sent, beyond the other end's window
// too, though none of it leaves (net/ipv4/tcp_output.c, tcp_write_xmit): timers repair
// that, one timeout after the other, which can take 20 s. What is dropped is sent again
// by the other end, and there is hardly ever anything, see settle.
//
// Of a daemon that is killed meanwhile [End.Recover] ends it.
func shield(fd int) (open func() error, err error) {
	drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop})
	if errors.Is(err, unix.EPERM) {
		return func() error { return nil }, nil // SO_LOCK_FILTER: it goes without
	}
	if err != nil {
		return nil, fmt.Errorf("shield socket: %w", err)
	}
	return func() error { return unshield(fd) }, nil
}

// unshield ends what shield does; a socket without a shield stays as it is.
func unshield(fd int) error {
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("end shield of socket: %w", err)
	}
	return nil
}
