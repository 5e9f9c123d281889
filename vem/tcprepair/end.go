package tcprepair

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Reuse reads SO_REUSEADDR, which repair mode overwrites: for [End.Recover].
func (e End) Reuse() (int, error) {
	v, err := getInt(e.FD, unix.SOL_SOCKET, unix.SO_REUSEADDR)
	if err != nil {
		return 0, fmt.Errorf("read SO_REUSEADDR: %w", err)
	}
	return v, nil
}

// Recover ends the repair mode and the shield that a killed process has left the socket
// with, if it did, and gives it back its SO_REUSEADDR.
func (e End) Recover(reuse int) error {
	if now, err := e.Reuse(); err != nil || now != forceReuse {
		return err
	}
	return errors.Join(unshield(e.FD), e.leave(reuse))
}

// leave ends repair mode without a word on the wire.
func (e End) leave(reuse int) error {
	if err := setTCP(e.FD, unix.TCP_REPAIR, repairOff); err != nil {
		return fmt.Errorf("%w: %w", ErrStuck, err)
	}
	if reuse == 0 {
		return nil // as repair mode leaves it (net/ipv4/tcp.c, do_tcp_setsockopt)
	}
	if err := unix.SetsockoptInt(e.FD, unix.SOL_SOCKET, unix.SO_REUSEADDR, reuse); err != nil {
		return fmt.Errorf("set SO_REUSEADDR: %w", err)
	}
	return nil
}

// look reads what does not change while the program stands still, without options if they
// are not wanted.
func (s *State) look(e End, options bool) error {
	s.Inode = e.Inode
	proto, err := getInt(e.FD, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil {
		return fmt.Errorf("look at socket: %w", err)
	}
	if proto != unix.IPPROTO_TCP {
		return unsupported("it is of protocol %d, such as Multipath TCP, and not TCP", proto)
	}
	if err := refuse(e.FD); err != nil {
		return err
	}
	local, err := unix.Getsockname(e.FD)
	if err != nil {
		return fmt.Errorf("find address: %w", err)
	}
	remote, err := unix.Getpeername(e.FD)
	if err != nil {
		return unsupported("it is not connected")
	}
	s.Family, s.Local, s.Scope = parseAddress(local)
	var scope uint32
	if _, s.Remote, scope = parseAddress(remote); scope != 0 {
		s.Scope = scope
	}
	if !options {
		s.Options.BufferLock = -1
		return nil
	}
	return s.Options.save(e.FD, s.Family)
}
