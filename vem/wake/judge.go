package wake

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold"
)

// judge decides on one socket's epoll events; look asks for a look into its
// accept queue.
func (w *Watcher) judge(index int, events uint32) (e Event, wake, look bool, err error) {
	s := &w.set.Sockets[index]
	switch {
	case s.Kind == hold.TCPListen || s.Kind == hold.UnixListen:
		if events&unix.EPOLLIN == 0 {
			return Event{}, false, false, nil
		}
		if w.policy.Mode == OnConnect && (len(w.policy.Ignore) == 0 || s.Kind == hold.UnixListen) {
			return Event{Socket: s, Reason: Connect}, true, false, nil
		}
		return Event{}, false, true, nil
	case s.Kind == hold.TCP || s.Kind == hold.Unix && s.Type != unix.SOCK_DGRAM:
		e, wake, err = w.judgeStream(index, events)
	default:
		e, wake, err = w.judgeDatagram(s, events)
	}
	if err != nil {
		return Event{}, false, false, fmt.Errorf("look at %s socket %d: %w", s.Kind, s.Inode, err)
	}
	return e, wake, false, nil
}

func (w *Watcher) judgeStream(index int, events uint32) (Event, bool, error) {
	s := &w.set.Sockets[index]
	if s.Kind == hold.TCP && s.Remote.IsValid() && w.policy.Ignores(s.Remote.Addr()) {
		return Event{}, false, nil
	}
	e := Event{Socket: s, Remote: s.Remote}
	if events&unix.EPOLLOUT != 0 && w.stuck[index] {
		e.Reason = Writable
		return e, true, nil
	}
	if events&unix.EPOLLIN != 0 {
		n, err := queuedBytes(s)
		if err != nil {
			return Event{}, false, err
		}
		e.Bytes = n
	}
	e.Reason = Data
	if events&unix.EPOLLPRI != 0 || w.policy.Mode == OnConnect && e.Bytes > 0 {
		return e, true, nil
	}
	if e.Bytes > 0 {
		buffer, err := unix.GetsockoptInt(int(s.File.Fd()), unix.SOL_SOCKET, unix.SO_RCVBUF)
		if err != nil || w.policy.enough(e.Bytes, buffer) {
			return e, err == nil, err
		}
	}
	if w.policy.Mode != OnConnect {
		return Event{}, false, nil
	}
	// A socket that was never connected, or whose end the app has seen, shows a
	// hang-up all the time. An error that the app has not seen is news.
	idle := s.State == closedState && !s.Remote.IsValid() && s.Kind == hold.TCP
	gone := events&(unix.EPOLLRDHUP|unix.EPOLLHUP) != 0 && !idle
	if gone || events&unix.EPOLLERR != 0 {
		e.Reason = Closed
		return e, true, nil
	}
	return Event{}, false, nil
}

func (w *Watcher) judgeDatagram(s *hold.Socket, events uint32) (Event, bool, error) {
	e := Event{Socket: s, Reason: Datagram, Remote: s.Remote}
	if events&unix.EPOLLIN != 0 && events&unix.EPOLLRDHUP == 0 {
		// Looking at the source takes a recvmsg with MSG_PEEK, which would eat a
		// waiting error (net/ipv4/udp.c, __skb_recv_udp), so only if it matters.
		if len(w.policy.Ignore) == 0 || s.Kind == hold.Unix || events&unix.EPOLLERR != 0 {
			n, err := queuedBytes(s)
			e.Bytes = n
			return e, err == nil, err
		}
		source, n, found, err := firstDatagram(int(s.File.Fd()), w.policy.Ignores)
		if err != nil {
			return Event{}, false, err
		}
		if found {
			e.Bytes, e.Remote = n, source
			return e, true, nil
		}
	}
	if w.policy.Mode == OnConnect && events&(unix.EPOLLERR|unix.EPOLLHUP|unix.EPOLLRDHUP) != 0 {
		e.Reason = Closed
		return e, true, nil
	}
	return Event{}, false, nil
}

// queuedBytes asks how much payload waits: a FIN or reset does not count. For a
// datagram socket it is the length of the first one.
func queuedBytes(s *hold.Socket) (int, error) {
	n, err := unix.IoctlGetInt(int(s.File.Fd()), unix.SIOCINQ)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTTY) {
		return 0, nil // in no state to have any, or a ping socket: those can't tell
	}
	return n, err
}

// firstDatagram looks for the first datagram in the queue whose source is not
// ignored, and leaves all of them there. It looks past the first one by
// SO_PEEK_OFF, which it puts back. Ping and raw sockets have none: there, whatever
// comes first counts.
func firstDatagram(fd int, ignored func(netip.Addr) bool) (source netip.AddrPort, size int, found bool, err error) {
	before, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF)
	peekable := err == nil && unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, 0) == nil
	if peekable {
		defer func() {
			if e := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, before); e != nil {
				err = errors.Join(err, fmt.Errorf("put back peek offset: %w", e))
			}
		}()
	}
	for offset := 0; ; {
		var buf [1]byte
		n, from, err := unix.Recvfrom(fd, buf[:], unix.MSG_PEEK|unix.MSG_DONTWAIT|unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return source, 0, false, nil
		case err != nil:
			return source, 0, true, nil // an error is news to the app as well
		}
		source = sockaddrPort(from)
		if !source.IsValid() || !ignored(source.Addr()) || !peekable {
			return source, n, true, nil
		}
		offset += n
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, offset); err != nil {
			return source, 0, false, fmt.Errorf("set peek offset: %w", err)
		}
	}
}

func sockaddrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	default:
		return netip.AddrPort{}
	}
}
