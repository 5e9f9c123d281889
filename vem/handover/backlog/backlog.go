// Package backlog has connections wait in the accept queue of a listener that another socket
// has had: the app gets them from accept(2), as if they had come in there.
//
// A connection that waits to be accepted has no descriptor, so that TCP_REPAIR can't make it.
// But a listener makes such a connection itself of one packet, if that proves that there was a
// handshake (a SYN cookie), and since Linux 6.9 a BPF program may say so, and what the ends have
// agreed on (net/core/filter.c, bpf_sk_assign_tcp_reqsk). The packet tells both sequence
// numbers. So the last packet of the handshake, an acknowledgement, is forged for the numbers
// that the connection has by now, and behind it come the data that nobody has read, and the end
// of the stream, if that had ended (package forge):
//
//	Open ──▶ Put, for each connection ──▶ Close
//	program at the loopback device        it is taken off, also if the process dies
//
// The app has sent nothing yet on such a connection, so nothing else has to be made. What the
// kernel acknowledges meanwhile, again, must get nowhere: the gate is closed.
//
// Needs CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF.
package backlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric/tcx"
	"github.com/snapctl/snapctl/vem/handover/forge"
	"github.com/snapctl/snapctl/vem/netns"
	"github.com/snapctl/snapctl/vem/tcprepair"
)

// assign is the number of the kernel's function. It is looked for once.
var assign = sync.OnceValues(func() (int32, error) { return kfunc("bpf_sk_assign_tcp_reqsk") })

// Supported tells why the kernel can't make such connections; nil if it can.
func Supported() error {
	_, err := assign()
	if err == nil && !tcx.Supported() {
		err = errNoTCX
	}
	return err
}

var errNoTCX = errors.New("the kernel has no tcx programs")

const (
	programName = "snapctl_backlog"
	loopback    = 1 // in every namespace (net/core/dev.c, LOOPBACK_IFINDEX)
)

// Queue puts connections into accept queues of one network namespace.
type Queue struct {
	ns               *netns.NS
	values, listener *ebpf.Map
	program          *ebpf.Program
	hook             link.Link
	wire             *forge.Wire
	cookies          bool // the sysctl was changed
}

// Open prepares a network namespace. The caller closes the queue. One namespace has one at a
// time.
func Open(ns *netns.NS) (_ *Queue, err error) {
	q := &Queue{ns: ns}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("prepare to have connections wait: %w", err), q.Close())
		}
	}()
	if err := Supported(); err != nil {
		return nil, err
	}
	id, err := assign()
	if err != nil {
		return nil, err
	}
	if q.values, err = ebpf.NewMap(&ebpf.MapSpec{Name: programName, Type: ebpf.Array, KeySize: 4, ValueSize: valueSize, MaxEntries: 1}); err != nil {
		return nil, err
	}
	if q.listener, err = ebpf.NewMap(&ebpf.MapSpec{Name: programName, Type: ebpf.SockMap, KeySize: 4, ValueSize: 4, MaxEntries: 1}); err != nil {
		return nil, err
	}
	q.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: programName, Type: ebpf.SchedCLS, License: "GPL", Instructions: program(q.values, q.listener, id),
	})
	if err != nil {
		return nil, err
	}
	return q, ns.Do(q.attach)
}

const cookiesSysctl = "ipv4/tcp_syncookies"

func (q *Queue) attach() (err error) {
	if q.wire, err = forge.Open(""); err != nil {
		return err
	}
	if netns.HasSysctl(cookiesSysctl, "0") {
		if err := netns.WriteSysctl(cookiesSysctl, "1"); err != nil {
			return err
		}
		q.cookies = true
	}
	q.hook, err = link.AttachTCX(link.TCXOptions{Interface: loopback, Program: q.program, Attach: ebpf.AttachTCXIngress, Anchor: link.Head()})
	return err
}

// Close takes the program off. Closing again does nothing.
func (q *Queue) Close() error {
	var errs []error
	if q.hook != nil {
		errs = append(errs, q.hook.Close())
		q.hook = nil
	}
	if q.wire != nil {
		errs = append(errs, q.wire.Close())
		q.wire = nil
	}
	if q.cookies {
		errs = append(errs, q.ns.Do(func() error { return netns.WriteSysctl(cookiesSysctl, "0") }))
		q.cookies = false
	}
	if q.program != nil {
		errs = append(errs, q.program.Close())
		q.program = nil
	}
	for _, m := range []*ebpf.Map{q.values, q.listener} {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// ErrRefused is that a connection can't wait in a listener's queue.
var ErrRefused = errors.New("connection can't wait to be accepted")

// Put has a connection wait at a listener. The listener's queue has room for it. What waits in
// a connection besides is as in [tcprepair.State], of which nothing was sent.
//
// Cost: 40 us, and a copy of what was not read.
func (q *Queue) Put(listener int, s *tcprepair.State) error {
	if err := q.put(listener, s); err != nil {
		return fmt.Errorf("have %s <-> %s wait to be accepted: %w", s.Local, s.Remote, err)
	}
	return nil
}

func (q *Queue) put(listener int, s *tcprepair.State) (err error) {
	if len(s.Sent) > 0 || s.Finish {
		return fmt.Errorf("%w: something was sent on it", ErrRefused)
	}
	restore, err := widen(listener, len(s.Received))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, restore()) }()
	if err := q.listener.Put(uint32(0), uint32(listener)); err != nil {
		return fmt.Errorf("show the listener to the kernel: %w", err)
	}
	defer func() { err = errors.Join(err, q.listener.Delete(uint32(0))) }()
	if err := q.handshake(s); err != nil {
		return err
	}
	return q.deliver(s)
}

// segment is one of the other end's, which comes at a place in its stream.
func segment(s *tcprepair.State, flags forge.Flags, at uint32, data []byte) forge.Segment {
	return forge.Segment{
		Header:   forge.Header{From: s.Remote, To: s.Local},
		Sequence: at, Acknowledged: s.SendEnd, Flags: flags | forge.ACK, Data: data,
		Window: uint16(min(s.Window.Send>>s.Negotiated.SendScale, 1<<16-1)),
	}
}

// first is the number of the first byte that was not read.
func first(s *tcprepair.State) uint32 { return s.ReceiveEnd - uint32(len(s.Received)) }

// handshake has the listener take a connection for one whose handshake is over.
func (q *Queue) handshake(s *tcprepair.State) error {
	v := value(s)
	if err := q.values.Put(uint32(0), v); err != nil {
		return fmt.Errorf("tell the kernel of it: %w", err)
	}
	if err := q.wire.Segment(segment(s, 0, first(s), nil)); err != nil {
		return err
	}
	for start := time.Now(); ; runtime.Gosched() {
		if err := q.values.Lookup(uint32(0), &v); err != nil {
			return fmt.Errorf("hear of the kernel whether it took it: %w", err)
		}
		switch answer := int32(binary.NativeEndian.Uint32(v[valueAnswer:])); {
		case answer == 0:
			return nil
		case answer < 0:
			return fmt.Errorf("%w: %w", ErrRefused, unix.Errno(-answer))
		case time.Since(start) > time.Second:
			return fmt.Errorf("%w: the kernel does not see it", ErrRefused)
		}
	}
}

// deliver has the connection receive what had arrived.
func (q *Queue) deliver(s *tcprepair.State) error {
	const most = 16 << 10 // the loopback device takes 64 kB
	at := first(s)
	for data := s.Received; len(data) > 0; {
		n := min(most, len(data))
		if err := q.wire.Segment(segment(s, forge.PSH, at, data[:n])); err != nil {
			return err
		}
		at, data = at+uint32(n), data[n:]
	}
	if s.Finished {
		return q.wire.Segment(segment(s, forge.FIN, at, nil))
	}
	return nil
}

// value is what the program is told: see its offsets.
func value(s *tcprepair.State) []byte {
	ne, be := binary.NativeEndian, binary.BigEndian
	v := make([]byte, valueSize)
	remote, local := s.Remote.Addr().Unmap(), s.Local.Addr().Unmap()
	protocol, least := bigEndian(unix.ETH_P_IP), uint32(536) // of what the kernel takes as segment size
	if remote.Is6() {
		protocol, least = bigEndian(unix.ETH_P_IPV6), 1280-60
	}
	ne.PutUint32(v[valueProtocol:], uint32(protocol))
	k := append(append(v[valueKnown:valueKnown], remote.AsSlice()...), local.AsSlice()...)
	k = be.AppendUint16(be.AppendUint16(k, s.Remote.Port()), s.Local.Port())
	be.AppendUint32(be.AppendUint32(k, first(s)), s.SendEnd)

	// struct bpf_tcp_req_attrs
	n := &s.Negotiated
	a := v[valueAgreed:]
	flag := func(at int, set bool) {
		if set {
			a[at] = 1
		}
	}
	ne.PutUint32(a[4:], n.Timestamp) // the clock of this end goes on from it
	ne.PutUint16(a[8:], uint16(min(max(n.MSS, least), 1<<16-1)))
	a[10], a[11] = n.ReceiveScale, n.SendScale
	flag(13, n.Scaling)
	flag(14, n.SACK)
	flag(15, n.Timestamps)
	flag(16, n.Timestamps && n.Timestamp&1 != 0)
	ne.PutUint32(v[valueAnswer:], unasked)
	return v
}

// widen has a new connection of a listener have room for so many bytes, until restore.
func widen(listener, size int) (restore func() error, err error) {
	const little = 16 << 10 // fits everywhere
	if size < little {
		return func() error { return nil }, nil
	}
	have, err := unix.GetsockoptInt(listener, unix.SOL_SOCKET, unix.SO_RCVBUF)
	if err != nil {
		return nil, fmt.Errorf("read SO_RCVBUF: %w", err)
	}
	lock, err := unix.GetsockoptInt(listener, unix.SOL_SOCKET, unix.SO_BUF_LOCK)
	if err != nil {
		return nil, fmt.Errorf("read SO_BUF_LOCK: %w", err)
	}
	set := func(n int) error {
		if err := errors.Join(
			unix.SetsockoptInt(listener, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, n/2), unix.SetsockoptInt(listener, unix.SOL_SOCKET, unix.SO_BUF_LOCK, lock),
		); err != nil {
			return fmt.Errorf("set SO_RCVBUF: %w", err)
		}
		return nil
	}
	return func() error { return set(have) }, set(max(have, 8*size))
}
