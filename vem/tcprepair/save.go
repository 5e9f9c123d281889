package tcprepair

import (
	"errors"
	"fmt"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"
)

// End is one end of a connection that is to be saved.
type End struct {
	FD    int
	Inode uint64
	// Queued is how much the end is known to have received and not been read, FIN
	// included, from sock_diag(7); 0 if it is not known. If less can be read, a mark of
	// urgent data is in the way, and the end is refused.
	Queued uint32
}

// SaveOptions says how to save.
type SaveOptions struct {
	// Paused is called once, when all ends are in repair mode; may be nil. Its error
	// is returned, and the connection is as before.
	Paused func() error
	// Stay leaves the ends in repair mode: to close their last descriptors tells nobody,
	// and [End.Recover] has them go on. If Save fails, they are as before.
	Stay bool
	// Bare leaves out [State.Options], which are most of the cost, for a connection that gets
	// them in another way.
	Bare bool
	// Elsewhere tells that the other end of the only one is on another host, see [SaveOne].
	Elsewhere bool
}

// Save saves a connection, given both of its ends, or the one whose other end has
// been closed. No process may use them meanwhile, but they need not be at rest. The
// connection itself does not change: nothing is sent, and nobody notices.
//
// It fails with an *[UnsupportedError] if the connection can't be saved, and with an
// error wrapping [ErrInconsistent] if the ends are of two connections.
//
// While it works the sockets are in repair mode, and one that has more to send takes
// nothing for some microseconds, see shield. If the process is killed then, they stay so.
// Before a process uses them again, [End.Recover] ends that, and what was not taken is
// sent again. (If all descriptors of such a socket are closed, the other end is not told.)
//
// Order: first what both ends have sent and is not acknowledged, then what they have
// received. So what one end has got is never older than what the other says that it
// has acknowledged, and [Connection.join] finds every byte at one of the ends.
//
// Cost: 25 us for each end with empty queues.
func Save(o SaveOptions, ends ...End) (Connection, error) {
	l, err := look(!o.Bare, ends...)
	if err != nil {
		return Connection{}, err
	}
	return l.Save(o)
}

// SaveOne saves one end of a connection to elsewhere, for [State.Restore]. It is as
// Save otherwise. What arrives afterwards is not in the state: until the socket is made
// again nothing may reach it, nor the host without it, which would reset the connection.
func SaveOne(o SaveOptions, e End) (State, error) {
	o.Elsewhere = true
	c, err := Save(o, e)
	if err != nil {
		return State{}, err
	}
	return c.Ends[0], nil
}

// Looked is a connection of which all is known that does not change while no process uses
// it: its addresses and options. That is most of the cost of saving it.
type Looked struct {
	ends   []End
	states []State
}

// Look is the first half of [Save], and may be called earlier. It changes nothing. It fails
// with an *[UnsupportedError] if the connection can't be saved, as far as that can be
// known.
//
// Cost: 20 us for each end.
func Look(ends ...End) (*Looked, error) { return look(true, ends...) }

func look(options bool, ends ...End) (*Looked, error) {
	l := &Looked{ends: ends, states: make([]State, len(ends))}
	for i, e := range ends {
		if err := l.states[i].look(e, options); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// Reuse is SO_REUSEADDR of each end, for [End.Recover].
func (l *Looked) Reuse() []int {
	out := make([]int, len(l.states))
	for i := range l.states {
		out[i] = l.states[i].Options.ReuseAddress
	}
	return out
}

// Save is the second half of [Save]. queued are those of the ends by now, as in [End];
// without any, they are as they were looked at.
//
// Cost: 8 us for each end with empty queues.
func (l *Looked) Save(o SaveOptions, queued ...uint32) (_ Connection, err error) {
	for i, n := range queued {
		l.ends[i].Queued = n
	}
	c := Connection{Ends: slices.Clone(l.states)}
	defer func() {
		if err != nil && o.Stay {
			for i, e := range l.ends {
				err = errors.Join(err, e.Recover(l.states[i].Options.ReuseAddress))
			}
		}
	}()
	if err := c.save(o, l.ends); err != nil {
		return Connection{}, err
	}
	if o.Elsewhere && len(c.Ends) == 1 {
		return c, nil
	}
	return c, c.check()
}

func (c Connection) save(o SaveOptions, ends []End) (err error) {
	for i, e := range ends {
		if err := setTCP(e.FD, unix.TCP_REPAIR, repairOn); err != nil {
			return fmt.Errorf("begin to save TCP connection: %w", err)
		}
		if o.Stay {
			continue
		}
		defer func() {
			if rerr := e.leave(c.Ends[i].Options.ReuseAddress); rerr != nil {
				err = errors.Join(err, rerr)
			}
		}()
	}
	if o.Paused != nil {
		if err := o.Paused(); err != nil {
			return err
		}
	}
	for i, e := range ends {
		if err := c.Ends[i].saveSent(e.FD); err != nil {
			return err
		}
	}
	for i, e := range ends {
		if err := c.Ends[i].saveReceived(e); err != nil {
			return err
		}
	}
	return nil
}

// check makes sure that the ends match, and that there are enough of them.
func (c Connection) check() error {
	switch len(c.Ends) {
	case 1:
		s := &c.Ends[0]
		if !s.Finished || s.Finish || len(s.Sent) > 0 {
			return unsupported("its other end is in no process, and not all of its data has arrived")
		}
	case 2:
		_, err := c.join()
		return err
	default:
		return fmt.Errorf("%w: %d ends", ErrInconsistent, len(c.Ends))
	}
	return nil
}

// poll tells which of the events are there.
func poll(fd int, events int16) (int16, error) {
	p := []unix.PollFd{{Fd: int32(fd), Events: events}}
	_, err := unix.Poll(p, 0)
	for errors.Is(err, unix.EINTR) {
		_, err = unix.Poll(p, 0)
	}
	return p[0].Revents, err
}

// saveSent reads what is not acknowledged.
func (s *State) saveSent(fd int) error {
	end, data, err := readSent(fd)
	if err != nil {
		return err
	}
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return fmt.Errorf("read TCP_INFO: %w", err)
	}
	switch info.State {
	case established, closeWait:
	case finWait1, finWait2, lastAck, closing:
		s.Finish = true
	default:
		return unsupported("it is in state %d, neither connected nor half-closed", info.State)
	}
	s.SendEnd = uint32(end)
	if s.Finish {
		s.SendEnd-- // FIN has a number too (tcp_send_fin)
	}
	s.Sent = data
	// Where the first unacknowledged byte is in the queue: part of a segment may be
	// acknowledged. FIN, if it is not acknowledged, counts in both.
	fin := 0
	if s.Finish {
		fin = 1
	}
	unacked, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	if err != nil {
		return fmt.Errorf("read SIOCOUTQ: %w", err)
	}
	unsent, err := unix.IoctlGetInt(fd, unix.SIOCOUTQNSD)
	if err != nil {
		return fmt.Errorf("read SIOCOUTQNSD: %w", err)
	}
	s.Sent = s.Sent[max(0, len(s.Sent)-max(unacked-fin, 0)):]
	s.Unsent = min(max(unsent-fin, 0), len(s.Sent))
	return s.negotiated(fd, info)
}

// readSent reads the send queue, and the number of the byte after it.
func readSent(fd int) (end int, data []byte, err error) {
	more, err := settle(fd)
	if err != nil {
		return 0, nil, err
	}
	if more {
		open, err := shield(fd)
		if err != nil {
			return 0, nil, err
		}
		defer func() { err = errors.Join(err, open()) }()
	}
	if err := setTCP(fd, unix.TCP_REPAIR_QUEUE, send); err != nil {
		return 0, nil, fmt.Errorf("select send queue: %w", err)
	}
	if end, err = getTCP(fd, unix.TCP_QUEUE_SEQ); err == nil {
		data, err = peekSent(fd)
	}
	if err := errors.Join(err, setTCP(fd, unix.TCP_REPAIR_QUEUE, noQueue)); err != nil {
		return 0, nil, fmt.Errorf("read send queue: %w", err)
	}
	return end, data, nil
}

// settle waits until nothing is on its way from an end that has more to send, or no
// longer changes, and tells whether there is more. It takes some microseconds: the other
// end is in the same kernel.
func settle(fd int) (more bool, err error) {
	last := -1
	for range 50 {
		unsent, err := unix.IoctlGetInt(fd, unix.SIOCOUTQNSD)
		if err != nil {
			return false, fmt.Errorf("read SIOCOUTQNSD: %w", err)
		}
		unacked, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
		if err != nil {
			return false, fmt.Errorf("read SIOCOUTQ: %w", err)
		}
		if more = unsent > 0; !more || unacked == unsent || unacked == last {
			return more, nil
		}
		last = unacked
		runtime.Gosched()
	}
	return more, nil
}

func (s *State) negotiated(fd int, info *unix.TCPInfo) error {
	mss, err := getTCP(fd, unix.TCP_MAXSEG) // in repair mode that of the handshake
	if err != nil {
		return fmt.Errorf("read TCP_MAXSEG: %w", err)
	}
	n := &s.Negotiated
	n.MSS = uint32(mss)
	n.SACK = info.Options&optSACK != 0
	n.Timestamps = info.Options&optTimestamps != 0
	if n.Scaling = info.Options&optScaling != 0; n.Scaling {
		// struct tcp_info: tcpi_snd_wscale : 4, tcpi_rcv_wscale : 4
		n.SendScale, n.ReceiveScale = scales(info)
	}
	if n.Timestamps {
		now, err := getTCP(fd, unix.TCP_TIMESTAMP)
		if err != nil {
			return fmt.Errorf("read TCP_TIMESTAMP: %w", err)
		}
		// Before Linux 6.7 the lowest bit was any, and means microseconds since.
		if n.Timestamp = uint32(now); info.Options&optMicro == 0 {
			n.Timestamp &^= 1
		}
	}
	var w [windowSize]byte
	b, err := getOption(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR_WINDOW, w[:])
	if err == nil && len(b) != windowSize {
		err = fmt.Errorf("it has %d bytes", len(b))
	}
	if err != nil {
		return fmt.Errorf("read TCP_REPAIR_WINDOW: %w", err)
	}
	s.Window.decode(b)
	return nil
}

// saveReceived reads what has arrived. More may arrive meanwhile; what is read is
// of one moment.
func (s *State) saveReceived(e End) error {
	if err := setTCP(e.FD, unix.TCP_REPAIR_QUEUE, receive); err != nil {
		return fmt.Errorf("select receive queue: %w", err)
	}
	var size int
	for range 1000 {
		end, err := getTCP(e.FD, unix.TCP_QUEUE_SEQ)
		if err != nil {
			return fmt.Errorf("read receive queue: %w", err)
		}
		if size, err = unix.IoctlGetInt(e.FD, unix.SIOCINQ); err != nil {
			return fmt.Errorf("read SIOCINQ: %w", err)
		}
		if err := s.received(e.FD); err != nil {
			return err
		}
		again, err := getTCP(e.FD, unix.TCP_QUEUE_SEQ)
		if err != nil {
			return fmt.Errorf("read receive queue: %w", err)
		}
		if s.ReceiveEnd = uint32(end); end == again {
			break
		}
	}
	fin := uint32(0)
	if s.Finished {
		s.ReceiveEnd-- // FIN has a number too (tcp_fin)
		fin = 1
	}
	urgent, err := poll(e.FD, unix.POLLPRI)
	if err != nil {
		return fmt.Errorf("look for urgent data: %w", err)
	}
	// SIOCINQ ends at the mark of urgent data, read or not (tcp_inq).
	if urgent&unix.POLLPRI != 0 || uint32(size)+fin < e.Queued {
		return unsupported("it has urgent data")
	}
	if s.Received, err = peekReceived(e.FD, size); err != nil {
		return err
	}
	return setTCP(e.FD, unix.TCP_REPAIR_QUEUE, noQueue)
}

// received reads the window and whether the stream has ended, with what belongs to them.
func (s *State) received(fd int) error {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return fmt.Errorf("read TCP_INFO: %w", err)
	}
	events, err := poll(fd, unix.POLLRDHUP)
	if err != nil {
		return fmt.Errorf("poll: %w", err)
	}
	if events&unix.POLLERR != 0 {
		return unsupported("it has an error, or a notification, that the program has not read")
	}
	switch info.State {
	case established, finWait1, finWait2:
		s.Finished, s.Deaf = false, events&unix.POLLRDHUP != 0
	case closeWait, lastAck, closing:
		s.Finished = true
	default:
		return unsupported("it is in state %d, neither connected nor half-closed", info.State)
	}
	var w [windowSize]byte
	b, err := getOption(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR_WINDOW, w[:])
	if err != nil {
		return fmt.Errorf("read TCP_REPAIR_WINDOW: %w", err)
	}
	var now Window
	now.decode(b)
	s.Window.Receive, s.Window.Announced = now.Receive, now.Announced
	return nil
}
