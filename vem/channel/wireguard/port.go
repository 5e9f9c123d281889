package wireguard

import (
	"context"
	"fmt"
	"hash/fnv"
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric/rule"
)

// firstPort is the port that is tried first.
func firstPort(network string) uint16 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(network)) // never fails
	return FirstPort + uint16(h.Sum32()%Ports)
}

// listenAt has the firewall's table be for a port.
func (m *Module) listenAt(port uint16) {
	m.device.port = port
	m.guard.In, m.guard.Out = rule.Port(unix.IPPROTO_UDP, port), rule.SourcePort(unix.IPPROTO_UDP, port)
}

// reservePort looks for a port that nobody has, from the device's own on, and keeps it until the device
// takes it: so what other hosts were told stays true, and the next packet to one need not look again.
func (m *Module) reservePort(ctx context.Context) error {
	port, err := m.device.port, error(nil)
	for range Ports {
		if m.device.reserved, err = m.openPort(ctx, port); err == nil {
			m.listenAt(port)
			return nil
		}
		if port++; port == FirstPort+Ports {
			port = FirstPort
		}
	}
	return fmt.Errorf("none of the UDP ports %d to %d is free: %w", FirstPort, FirstPort+Ports-1, err)
}

// openPort takes a port, of all addresses of the host. What comes to it is dropped.
func (m *Module) openPort(ctx context.Context, port uint16) (c net.PacketConn, err error) {
	open := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		nothing := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
		cerr := c.Control(func(fd uintptr) {
			err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing})
		})
		if cerr != nil {
			return cerr
		}
		return err
	}}
	err = m.host.ns.Do(func() error {
		c, err = open.ListenPacket(ctx, "udp", fmt.Sprintf(":%d", port))
		return err
	})
	return c, err
}

// giveUpPort lets the device take the port.
func (m *Module) giveUpPort() {
	if m.device.reserved != nil {
		_ = m.device.reserved.Close() // nothing was written
		m.device.reserved = nil
	}
}
