package tcprepair

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// Socket is an end that was made again and is still in repair mode.
type Socket struct {
	Inode uint64 // that of the saved one
	// File is the socket, until Release or Close.
	File  *os.File
	state State
}

// Restored is a connection that was made again.
type Restored struct {
	// Sockets are as the ends of the connection.
	Sockets []*Socket
	gone    *Socket // the end that is closed at once
}

// Restore makes a connection's sockets, in the network namespace of the calling thread,
// where its addresses must be. They are in repair mode, in which they can be bound
// beside a listener, and others beside them: nothing is sent, and nobody may use them,
// until Release. The caller closes it.
//
// Cost: 50 us for each end, and a copy of its queues.
func (c Connection) Restore() (_ *Restored, err error) {
	ends, err := c.Whole().join()
	if err != nil {
		return nil, fmt.Errorf("restore TCP connection: %w", err)
	}
	r := &Restored{}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	for i := range ends {
		s, err := ends[i].Restore()
		if err != nil {
			return nil, err
		}
		if i < len(c.Ends) {
			r.Sockets = append(r.Sockets, s)
		} else {
			r.gone = s
		}
	}
	return r, nil
}

// Close closes the sockets without a word to anybody, unless they were released.
func (r *Restored) Close() error {
	var errs []error
	for _, s := range r.all() {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

func (r *Restored) all() []*Socket {
	if r.gone == nil {
		return r.Sockets
	}
	return append(slices.Clip(r.Sockets), r.gone)
}

// Release lets the connection go on: the kernel sends what was unsent, and ends
// streams that had ended. Then it closes the files: others must have the sockets.
// Nobody may use them before.
func (r *Restored) Release() error {
	all := r.all()
	ends := make([]Made, len(all))
	for i, s := range all {
		ends[i] = Made{State: &s.state, FD: s.fd()}
	}
	if err := Release(ends...); err != nil {
		return err
	}
	return r.Close()
}

// Release is as that of a whole connection.
func (s *Socket) Release() error { return (&Restored{Sockets: []*Socket{s}}).Release() }

// Close closes the socket's file. Without another descriptor of it, and in repair mode,
// nobody is told (net/ipv4/tcp.c, __tcp_close).
func (s *Socket) Close() error {
	if s.File == nil {
		return nil
	}
	f := s.File
	s.File = nil
	return f.Close()
}

func (s *Socket) fd() int { return int(s.File.Fd()) }

func (s *State) fail(err error) error {
	return fmt.Errorf("restore TCP connection %s to %s: %w", s.Local, s.Remote, err)
}

// Restore makes one end in the network namespace of the calling thread, in repair mode.
// What was sent and is not acknowledged is in its queue as such; what was unsent is sent
// by Release, which also does what a program does to close a side. Of an end whose stream
// had ended (Finished) it makes one whose stream has not: the other end has to say so
// again, as that of a [Connection] does, and one elsewhere does not: see [Made].
//
// The kernel drops what arrives before Release, since the other end has acknowledged what
// the new one is to send again: it would have to be sent twice.
func (s *State) Restore() (_ *Socket, err error) {
	made := &Socket{Inode: s.Inode, state: *s}
	fd, err := unix.Socket(s.Family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return nil, s.fail(err)
	}
	made.File = os.NewFile(uintptr(fd), "tcp") // blocking: not with the runtime's poller
	defer func() {
		if err != nil {
			err = errors.Join(s.fail(err), made.Close())
		}
	}()
	if err := setTCP(fd, unix.TCP_REPAIR, repairOn); err != nil {
		return nil, fmt.Errorf("begin repair mode: %w", err)
	}
	// The queues may be longer than the buffers are: those shrink later.
	const endless = 1 << 29
	if err := errors.Join(buffer(fd, unix.SO_SNDBUFFORCE, endless), buffer(fd, unix.SO_RCVBUFFORCE, endless)); err != nil {
		return nil, err
	}
	if err := s.Options.apply(fd, early); err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, address(s.Family, s.Local, s.Scope)); err != nil {
		return nil, fmt.Errorf("bind: %w", err)
	}
	if err := s.sequence(fd); err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, address(s.Family, s.Remote, s.Scope)); err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	if err := s.agree(fd); err != nil {
		return nil, err
	}
	if err := s.queues(fd); err != nil {
		return nil, err
	}
	if err := s.Options.apply(fd, late); err != nil {
		return nil, err
	}
	return made, nil
}

// sequence numbers the streams, which the kernel allows before they are connected.
func (s *State) sequence(fd int) error {
	for queue, next := range map[int]uint32{
		receive: s.ReceiveEnd - uint32(len(s.Received)),
		send:    s.SendEnd - uint32(len(s.Sent)) - s.repeated(),
	} {
		if err := errors.Join(setTCP(fd, unix.TCP_REPAIR_QUEUE, queue), setTCP(fd, unix.TCP_QUEUE_SEQ, int(int32(next)))); err != nil {
			return fmt.Errorf("set TCP_QUEUE_SEQ: %w", err)
		}
	}
	return nil
}

// agree sets what both ends agreed on, which the kernel allows once they are connected.
func (s *State) agree(fd int) error {
	// TCPOPT_* of include/net/tcp.h, and struct tcp_repair_opt of linux/tcp.h.
	const (
		optMSS       = 2
		optWindow    = 3
		optSACKPerm  = 4
		optTimestamp = 8
	)
	n := &s.Negotiated
	var b []byte
	add := func(code, value uint32) {
		b = binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(b, code), value)
	}
	if n.SACK {
		add(optSACKPerm, 0)
	}
	// Also if windows are not scaled: the kernel has chosen a scale for the SYN that it
	// did not send (net/ipv4/tcp_output.c, tcp_connect_init).
	add(optWindow, uint32(n.SendScale)|uint32(n.ReceiveScale)<<16)
	if n.Timestamps {
		add(optTimestamp, 0)
	}
	add(optMSS, n.MSS)
	if err := setOption(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR_OPTIONS, b); err != nil {
		return fmt.Errorf("set TCP_REPAIR_OPTIONS: %w", err)
	}
	if n.Timestamps {
		if err := setTCP(fd, unix.TCP_TIMESTAMP, int(int32(n.Timestamp))); err != nil {
			return fmt.Errorf("set TCP_TIMESTAMP: %w", err)
		}
	}
	return nil
}

// queues fills the queues, and then sets the windows, which are measured from their ends.
func (s *State) queues(fd int) error {
	for _, q := range []struct {
		which int
		data  []byte
	}{{receive, s.Received}, {send, s.Sent[:len(s.Sent)-s.Unsent]}} {
		if len(q.data) == 0 {
			continue
		}
		if err := errors.Join(setTCP(fd, unix.TCP_REPAIR_QUEUE, q.which), fill(fd, q.data)); err != nil {
			return fmt.Errorf("fill queue: %w", err)
		}
	}
	if err := setTCP(fd, unix.TCP_REPAIR_QUEUE, noQueue); err != nil {
		return fmt.Errorf("deselect queue: %w", err)
	}
	window := s.Window
	if before(s.ReceiveEnd, window.Announced) { // FIN was counted, of a stream that has not ended yet
		window.Announced, window.Receive = s.ReceiveEnd, s.edge()-s.ReceiveEnd
	}
	window.Send += s.repeated()
	window.Max = max(window.Max, window.Send)
	if err := setOption(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR_WINDOW, window.encode()); err != nil {
		return fmt.Errorf("set TCP_REPAIR_WINDOW: %w", err)
	}
	return s.segment(fd)
}

// segment has the kernel compute the segment size from what is known now.
//
// A socket that connects in repair mode takes the other end for one that takes 536
// bytes at a time (net/ipv4/tcp_ipv4.c, tcp_v4_connect). TCP_REPAIR_OPTIONS corrects
// that, but the size in use stays until the path's MTU changes (net/ipv4/tcp_output.c,
// tcp_current_mss). Setting the IP options, to none, makes the kernel compute it again
// (net/ipv4/ip_sockglue.c, do_ip_setsockopt), for IPv6 too, since a socket that has
// connected has no IPv4 address that says it is of IPv6. Half of the largest window is
// a bound: so it comes after the windows.
func (s *State) segment(fd int) error {
	if err := setOption(fd, unix.IPPROTO_IP, unix.IP_OPTIONS, nil); err != nil {
		return fmt.Errorf("compute segment size: %w", err)
	}
	return nil
}
