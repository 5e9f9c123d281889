package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// socket is what asks and answers at one address of this host.
type socket struct {
	local Local
	conn  *net.UDPConn
}

// listen opens a socket, in the network namespace of the calling thread.
func listen(ctx context.Context, l Local, port uint16) (*socket, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var serr error
		err := c.Control(func(fd uintptr) { serr = prepare(int(fd), l) })
		return errors.Join(err, serr)
	}}
	c, err := lc.ListenPacket(ctx, "udp", netip.AddrPortFrom(l.Addr, port).String())
	if err != nil {
		return nil, fmt.Errorf("listen for probes at %s on device %s: %w", l.Addr, l.Device, err)
	}
	return &socket{l, c.(*net.UDPConn)}, nil //nolint:errcheck,forcetypeassert // udp
}

// prepare has packets leave whole, and by the device only (ip(7), ipv6(7), socket(7)). What the
// kernel believes of the size of a path is not looked at.
func prepare(fd int, l Local) error {
	if err := unix.BindToDevice(fd, l.Device); err != nil {
		return fmt.Errorf("use device %s: %w", l.Device, err)
	}
	if l.Addr.Is4() {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
	}
	return errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE),
		// Else packets larger than the device's MTU are sent in fragments.
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1),
	)
}

// send sends a datagram. It tells whether it was too large for this host to send; what else goes
// wrong is as if it were lost on the way.
func (s *socket) send(d datagram) (tooLarge bool) {
	_, err := s.conn.WriteToUDPAddrPort(d.data, d.to)
	return errors.Is(err, unix.EMSGSIZE)
}

// receive calls fn with what comes, until the socket is closed.
func (s *socket) receive(fn func(data []byte, from netip.AddrPort)) error {
	buf := make([]byte, maxSize+1)
	for {
		n, from, err := s.conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		fn(buf[:n], netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
	}
}
