package handover

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/handover/backlog"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/sockdiag"
	"github.com/snapctl/snapctl/vem/netns"
)

// table is what the kernel lists of TCP in a network namespace.
type table struct {
	byInode map[uint32]sockdiag.Inet
	byPath  map[path]sockdiag.Inet
}

// path names a connection by the addresses of an end.
type path [2]netip.AddrPort

// newTable asks the kernel.
//
// Cost: 2 us for each TCP socket of the namespace.
func newTable(ns *netns.NS) (*table, error) {
	c, err := sockdiag.Dial(ns)
	if err != nil {
		return nil, err
	}
	defer c.Close() //nolint:errcheck // nothing was written
	t := &table{byInode: make(map[uint32]sockdiag.Inet), byPath: make(map[path]sockdiag.Inet)}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		some, err := c.Inet(sockdiag.InetQuery{
			Family: family, Proto: unix.IPPROTO_TCP, States: sockdiag.AllStates &^ sockdiag.States(sockdiag.TimeWait, sockdiag.Close),
		})
		if err != nil {
			return nil, err
		}
		for _, s := range some {
			if s.State == sockdiag.Close {
				continue // it has a port, and no connection: TCPF_BOUND_INACTIVE, Linux 6.8
			}
			if s.Inode != 0 {
				t.byInode[s.Inode] = s
			}
			if s.State != sockdiag.Listen {
				t.byPath[path{s.Local, s.Remote}] = s
			}
		}
	}
	return t, nil
}

// connected tells whether a TCP socket is a connection: those that are over are in no list.
func (t *table) connected(s *hold.Socket) bool {
	d, ok := t.byInode[uint32(s.Inode)]
	return ok && d.State != sockdiag.Listen && d.State != sockdiag.SynSent
}

// connection finds the other end of a connection, if the app has it.
func (t *table) connection(s *hold.Socket, set *hold.Set, own []netip.Addr) *connection {
	c := &connection{sockets: []*hold.Socket{s}}
	d := t.byInode[uint32(s.Inode)]
	c.inside = d.Remote.Addr().IsLoopback() || slices.Contains(own, d.Remote.Addr())
	end, ok := t.byPath[path{d.Remote, d.Local}]
	if !ok || end.Inode == d.Inode {
		return c
	}
	c.inside = true
	if i, ok := slices.BinarySearchFunc(set.Sockets, uint64(end.Inode), func(s hold.Socket, inode uint64) int {
		switch {
		case s.Inode < inode:
			return -1
		case s.Inode > inode:
			return 1
		}
		return 0
	}); ok && end.Inode != 0 {
		c.sockets = append(c.sockets, &set.Sockets[i])
	}
	return c
}

// refusal is why a connection within the namespace can't move; "" if it can, as far as that
// is known.
func (t *table) refusal(c *connection) string {
	if !c.inside || len(c.sockets) == 2 {
		return ""
	}
	d := t.byInode[uint32(c.sockets[0].Inode)]
	end, ok := t.byPath[path{d.Remote, d.Local}]
	switch {
	case ok && end.Inode == d.Inode:
		return "it is connected to itself"
	case ok && end.Inode == 0 && (end.State == sockdiag.Established || end.State == sockdiag.CloseWait):
		if backlog.Supported() == nil { // it moves as one that came from elsewhere
			c.inside = false
			return ""
		}
		return "its other end, in the app too, waits to be accepted"
	case ok && end.Inode != 0:
		return "its other end is in the app's network namespace, and not held"
	}
	return ""
}

// waiting counts the connections that wait to be accepted at a listener, or shake hands:
// sk_ack_backlog (net/ipv4/tcp.c, tcp_get_info).
func waiting(s *hold.Socket) (int, error) {
	info, err := unix.GetsockoptTCPInfo(int(s.File.Fd()), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, err
	}
	return int(info.Unacked), nil
}
