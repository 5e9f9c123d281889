package plain

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Values of TCP_REPAIR and TCP_REPAIR_QUEUE, linux/tcp.h.
const (
	repairOn  = 1
	repairOff = -1 // TCP_REPAIR_OFF_NO_WP
	noQueue   = 0
	sendQueue = 2
)

// stream calls fn with the sending stream of a socket selected, whose number is TCP_QUEUE_SEQ.
func (s *Socket) stream(fd int, fn func() error) error {
	set := func(name, value int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, name, value) }
	if err := set(unix.TCP_REPAIR, repairOn); err != nil {
		return fmt.Errorf("number stream: %w", err)
	}
	err := set(unix.TCP_REPAIR_QUEUE, sendQueue)
	if err == nil {
		err = fn()
	}
	err = errors.Join(err, set(unix.TCP_REPAIR_QUEUE, noQueue), set(unix.TCP_REPAIR, repairOff),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, s.Settings.ReuseAddress)) // repair mode has changed it
	if err != nil {
		return fmt.Errorf("number stream: %w", err)
	}
	return nil
}

// ReadSequence reads the number of the stream of a connecting socket.
func (s *Socket) ReadSequence(fd int) error {
	return s.stream(fd, func() error {
		next, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUEUE_SEQ)
		s.Sequence = uint32(next) - 1 // SYN has a number too
		return err
	})
}

// number has the socket send its SYN as the saved one has: the other end may have answered that.
func (s *Socket) number(fd int) error {
	return s.stream(fd, func() error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUEUE_SEQ, int(int32(s.Sequence)))
	})
}

// Connect has a connecting socket that was made again connect. Once it does, connecting again
// does nothing.
func (s *Socket) Connect(fd int) (err error) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	const closed = 7 // include/net/tcp_states.h
	if err != nil || info.State != closed {
		return err
	}
	if !s.Settings.NonBlock {
		if err := unix.SetNonblock(fd, true); err != nil {
			return fmt.Errorf("connect to %s: %w", s.Remote, err)
		}
		defer func() { err = errors.Join(err, unix.SetNonblock(fd, false)) }()
	}
	if err := unix.Connect(fd, s.sockaddr(s.Remote)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return fmt.Errorf("connect to %s: %w", s.Remote, err)
	}
	return nil
}
