package plain

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/handover/forge"
	"github.com/snapctl/snapctl/vem/sockopt"
)

// Maker makes sockets in a network namespace. All of its methods are called on threads in
// it. The sockets of an app are made one after the other: while one gets its datagrams,
// those that were made before take none.
type Maker struct {
	devices map[string]int
	wires   map[string]*forge.Wire
	shut    []*Made
	// groups counts the sockets of each group that shares a port (SO_REUSEPORT).
	groups map[group]int
}

// NewMaker makes a maker; the caller calls Finish.
func NewMaker() (*Maker, error) {
	devices, err := sockopt.Devices()
	if err != nil {
		return nil, err
	}
	return &Maker{devices: devices, wires: make(map[string]*forge.Wire), groups: make(map[group]int)}, nil
}

// Make makes a socket, with what waits in it. Nothing is sent. backlog is a listener's.
// Listeners and sockets that are bound alone are to be made before connections that are
// bound beside them.
func (m *Maker) Make(s *Socket, backlog int) (_ *Made, err error) {
	fd, err := unix.Socket(s.Family, s.Type|unix.SOCK_CLOEXEC, s.Proto)
	if err != nil {
		return nil, s.fail(err)
	}
	made := &Made{Socket: s, File: os.NewFile(uintptr(fd), s.Settings.What)} // blocking: not with the runtime's poller
	defer func() {
		if err != nil {
			err = errors.Join(s.fail(err), made.File.Close())
		}
	}()
	made.Problems = m.configure(s, fd)
	if err := s.place(fd, backlog); err != nil {
		return nil, err
	}
	index := m.join(s)
	if s.Queues() {
		problems, err := m.fill(s, fd, index)
		if err != nil {
			return nil, err
		}
		made.Problems = append(made.Problems, problems...)
	}
	made.Problems = append(made.Problems, s.Settings.late(fd, m.devices)...)
	if err := s.shutDown(fd); err != nil {
		return nil, err
	}
	if s.Settings.NonBlock {
		if err := unix.SetNonblock(fd, true); err != nil {
			return nil, fmt.Errorf("set O_NONBLOCK: %w", err)
		}
	}
	if s.Queues() {
		if err := shut(fd); err != nil {
			return nil, err
		}
	}
	m.shut = append(m.shut, made)
	return made, nil
}

// Finish ends what was for the time of making only.
func (m *Maker) Finish() error {
	var errs []error
	for _, made := range m.shut {
		fd, s := int(made.File.Fd()), &made.Settings
		if made.Type == unix.SOCK_DGRAM || made.Type == unix.SOCK_STREAM {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, s.ReuseAddress); err != nil {
				errs = append(errs, made.fail(err))
			}
		}
		if made.Queues() {
			errs = append(errs, open(fd))
		}
		if len(s.Filter) > 0 {
			if err := attachFilter(fd, s.Filter); err != nil {
				made.Problems = append(made.Problems, err)
			}
		}
		if s.locked() {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_LOCK_FILTER, 1); err != nil {
				made.Problems = append(made.Problems, fmt.Errorf("set SO_LOCK_FILTER: %w", err))
			}
		}
	}
	m.shut = nil
	for _, w := range m.wires {
		errs = append(errs, w.Close())
	}
	m.wires = make(map[string]*forge.Wire)
	return errors.Join(errs...)
}

func (s *Socket) fail(err error) error { return fmt.Errorf("make %s again: %w", s.Settings.What, err) }

// latter tells the options that are set when the datagrams wait in the socket: with these
// they would not get there.
func latter(o sockopt.Option) bool {
	return o.Level == unix.SOL_SOCKET && (o.Name == unix.SO_PEEK_OFF || o.Name == unix.SO_LOCK_FILTER) ||
		o.Level == unix.IPPROTO_UDP && o.Name == unix.UDP_ENCAP || o.Level == unix.SOL_RAW || o.Level == unix.IPPROTO_ICMPV6 ||
		o.Level == unix.IPPROTO_IP && o.Name == unix.IP_MINTTL || o.Level == unix.IPPROTO_IPV6 && o.Name == unix.IPV6_MINHOPCOUNT
}

func (s *Settings) locked() bool {
	return slices.ContainsFunc(s.Options, func(o sockopt.Option) bool { return o.Level == unix.SOL_SOCKET && o.Name == unix.SO_LOCK_FILTER })
}

// configure sets the options, before the socket has an address.
func (m *Maker) configure(s *Socket, fd int) []error {
	early := s.Settings.Socket
	early.Options = slices.DeleteFunc(slices.Clone(early.Options), latter)
	errs := early.Apply(fd, m.devices)
	set := func(name, value int, label string) {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, name, value); err != nil {
			errs = append(errs, fmt.Errorf("set %s: %w", label, err))
		}
	}
	if s.Family == unix.AF_INET6 {
		only := 0
		if s.Settings.OnlyIPv6 {
			only = 1
		}
		now, err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		if err == nil && now != only { // a raw socket has it, and does not take it (net/ipv6/raw.c, rawv6_init_sk)
			err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("set IPV6_V6ONLY: %w", err))
		}
	}
	if s.Settings.Device != "" {
		if err := unix.BindToDevice(fd, s.Settings.Device); err != nil {
			errs = append(errs, fmt.Errorf("bind to device %s: %w", s.Settings.Device, err))
		}
	}
	// Sockets that share an address may have allowed it only when they took it.
	if s.Type != unix.SOCK_RAW && s.Proto != unix.IPPROTO_TCP {
		set(unix.SO_REUSEADDR, 1, "SO_REUSEADDR")
	} else {
		set(unix.SO_REUSEADDR, s.Settings.ReuseAddress, "SO_REUSEADDR")
	}
	set(unix.SO_SNDBUFFORCE, s.Settings.SendBuffer/2, "SO_SNDBUF")
	set(unix.SO_RCVBUFFORCE, s.Settings.ReceiveBuffer/2, "SO_RCVBUF")
	if s.Settings.BufferLock >= 0 {
		set(unix.SO_BUF_LOCK, s.Settings.BufferLock, "SO_BUF_LOCK")
	}
	return errs
}

// place gives the socket its addresses.
func (s *Socket) place(fd, backlog int) error {
	if s.over() {
		return s.shutDown(fd) // its port may be that of the listener that it came from
	}
	if s.bound() {
		if err := unix.Bind(fd, s.sockaddr(s.Local)); err != nil {
			return fmt.Errorf("bind to %s: %w", s.Local, err)
		}
	}
	switch {
	case s.Connecting:
		return s.number(fd)
	case s.Listening:
		if err := unix.Listen(fd, backlog); err != nil {
			return fmt.Errorf("listen: %w", err)
		}
	case s.connected():
		if err := unix.Connect(fd, s.sockaddr(s.Remote)); err != nil {
			return fmt.Errorf("connect to %s: %w", s.Remote, err)
		}
	}
	return nil
}

// late sets the options that must not be set earlier.
func (s *Settings) late(fd int, devices map[string]int) []error {
	rest := sockopt.Socket{UID: s.UID, GID: s.GID}
	for _, o := range s.Options {
		if latter(o) && o.Name != unix.SO_LOCK_FILTER {
			rest.Options = append(rest.Options, o)
		}
	}
	return rest.Apply(fd, devices)
}

// fill has the socket receive what waited in the one that was saved. What can't get there is
// a problem, and no reason to fail.
func (m *Maker) fill(s *Socket, fd, index int) (problems []error, err error) {
	if len(s.Queue) == 0 {
		return nil, nil
	}
	wire := m.wires[s.Settings.Device]
	if wire == nil {
		if wire, err = forge.Open(s.Settings.Device); err != nil {
			return nil, err
		}
		m.wires[s.Settings.Device] = wire
	}
	if index >= 0 {
		if err := choose(fd, index); err != nil {
			return nil, err
		}
	}
	// There is room for all of it, as there was: what the kernel needs for each may differ.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4*MaxQueue); err != nil {
		return nil, fmt.Errorf("make room for what waits: %w", err)
	}
	lost := 0
	for i := range s.Queue {
		if err := s.deliver(wire, fd, &s.Queue[i]); err != nil {
			if lost++; lost == 1 {
				problems = append(problems, err)
			}
		}
	}
	if lost > 1 {
		problems = append(problems, fmt.Errorf("%d of %d datagrams that waited are lost", lost, len(s.Queue)))
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, s.Settings.ReceiveBuffer/2)
	if index >= 0 {
		err = errors.Join(err, chooseAny(fd))
	}
	if s.Settings.BufferLock >= 0 {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BUF_LOCK, s.Settings.BufferLock))
	}
	return problems, err
}

// deliver has the socket receive one datagram, and waits until it has.
func (s *Socket) deliver(wire *forge.Wire, fd int, p *Packet) error {
	before, err := memory(fd)
	if err != nil {
		return err
	}
	if err := s.send(wire, p); err != nil {
		return err
	}
	for start := time.Now(); ; runtime.Gosched() {
		now, err := memory(fd)
		if err != nil || now != before {
			return err
		}
		if time.Since(start) > time.Second {
			return fmt.Errorf("a datagram of %d bytes that waited, from %s, does not get there", len(p.Data), p.From)
		}
	}
}

func (s *Socket) send(wire *forge.Wire, p *Packet) error {
	to := p.To
	if to.Addr().IsUnspecified() {
		to = netip.AddrPortFrom(loopback(p.From.Addr()), to.Port())
	}
	h := forge.Header{From: p.From, To: to, Class: p.Class, Hops: p.Hops}
	switch {
	case s.Type == unix.SOCK_RAW && s.Family == unix.AF_INET:
		return wire.Raw(to.Addr(), p.Data)
	case s.Type == unix.SOCK_DGRAM && (s.Proto == unix.IPPROTO_UDP || s.Proto == unix.IPPROTO_UDPLITE):
		return wire.Datagram(h, uint8(s.Proto), p.Data)
	}
	return wire.Send(h, uint8(s.Proto), p.Data)
}

func loopback(like netip.Addr) netip.Addr {
	if like.Unmap().Is4() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}
