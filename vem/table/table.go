// Package table shows an app's part of the translation table: what it is
// connected to, where that really is, and whether it is there now.
//
// Programs only ever see virtual addresses, and getsockname tells them the truth:
// they live there. What a row adds is what the VEM knows: the host that a virtual
// address is on at present, the data channel that leads there, and whether the
// socket belongs to a process or is held.
package table

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold/sockdiag"
	"github.com/snapctl/snapctl/vem/netns"
)

// Status says what state a connection is in as the VEM sees it.
type Status string

// The statuses.
const (
	Up   Status = "up"   // a process has the socket, and the way to the other end is up
	Held Status = "held" // the VEM has the socket, while its app sleeps
	Down Status = "down" // the way to the other end is down
)

// Row is one socket of an app.
type Row struct {
	Proto  string         `json:"proto"` // tcp, udp
	State  string         `json:"state"` // the kernel's name: ESTABLISHED, LISTEN, ...
	Status Status         `json:"status"`
	Local  netip.AddrPort `json:"local"`  // virtual, as the app sees it
	Remote netip.AddrPort `json:"remote"` // virtual; port 0 if not connected
	// ActualLocal and ActualRemote are where the two ends really are, as
	// [Places] says; empty if that does not know the address.
	ActualLocal  string `json:"actual_local,omitempty"`
	ActualRemote string `json:"actual_remote,omitempty"`
	// Channel is the data channel between the two; empty on the same host.
	Channel string `json:"channel,omitempty"`
	// Sent and Received are what a TCP connection has carried: bytes that the other
	// side has acknowledged, of which SYN and FIN may be one each, and bytes that came.
	Sent     uint64 `json:"sent_bytes"`
	Received uint64 `json:"received_bytes"`
	// Inode is the socket's number; 0 for a connection that nobody has accepted
	// yet, or that the app has closed and the kernel still finishes.
	Inode uint64 `json:"inode"`
	// RecvQ and SendQ are what waits to be read and to be acknowledged. Of a
	// listener, they are the length and the limit of its accept queue.
	RecvQ uint32 `json:"recv_queue_bytes"`
	SendQ uint32 `json:"send_queue_bytes"`
	// Drops is how many packets the socket had no room for, since it was made.
	Drops uint32 `json:"dropped"`
}

// Place is where a virtual address really is.
type Place struct {
	Actual  string // the host and its address there, in words for the user
	Channel string // the data channel that leads there; empty for this host
	Down    Outage // Cut if the channel is down
}

// Outage tells whether a way is cut.
type Outage int

// The outages.
const (
	Whole Outage = iota
	Cut
)

// Options say what the kernel does not know.
type Options struct {
	// Held are the inodes of the app's held sockets. Default: none.
	Held map[uint64]bool
	// Places finds out where a virtual address is; false if it is not a virtual
	// one. Default: nobody knows.
	Places func(netip.Addr) (Place, bool)
}

// Rows lists the TCP and UDP sockets of an app's network namespace: listeners
// first, then by local and remote address. Entering the namespace needs
// CAP_SYS_ADMIN.
//
// Cost: 2 to 6 ms, see [sockdiag].
func Rows(ctx context.Context, ns *netns.NS, opt Options) ([]Row, error) {
	conn, err := sockdiag.Dial(ns)
	if err != nil {
		return nil, fmt.Errorf("list sockets: %w", err)
	}
	defer conn.Close() //nolint:errcheck // only read from
	var sockets []sockdiag.Inet
	for _, proto := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			list, err := dump(ctx, conn, sockdiag.InetQuery{
				Family: family, Proto: proto, States: sockdiag.AllStates, Details: sockdiag.WithDrops | sockdiag.WithFlow,
			})
			if err != nil {
				return nil, fmt.Errorf("list sockets: %w", err)
			}
			sockets = append(sockets, list...)
		}
	}
	return translate(sockets, opt), nil
}

// attempts bounds how often a dump is repeated that sockets changed under.
const attempts = 5

// dump asks again if sockets came and went so fast that the answer is not whole;
// in the end an answer that lacks a row is better than none.
func dump(ctx context.Context, conn *sockdiag.Conn, q sockdiag.InetQuery) ([]sockdiag.Inet, error) {
	for n := 1; ; n++ {
		list, err := conn.Inet(q)
		switch {
		case err == nil:
			return list, ctx.Err()
		case !errors.Is(err, sockdiag.ErrInterrupted):
			return nil, err
		case n == attempts:
			return list, ctx.Err()
		}
	}
}

// translate makes the rows. It only computes.
func translate(sockets []sockdiag.Inet, opt Options) []Row {
	heldPorts := map[uint16]bool{} // of held listeners
	for _, s := range sockets {
		if s.State == sockdiag.Listen && opt.Held[uint64(s.Inode)] {
			heldPorts[s.Local.Port()] = true
		}
	}
	rows := make([]Row, len(sockets))
	for i, s := range sockets {
		r := Row{
			Proto: protoName(s.Proto), State: s.State.String(), Status: Up,
			Local: s.Local, Remote: s.Remote, Inode: uint64(s.Inode), RecvQ: s.RecvQ, SendQ: s.SendQ, Drops: s.Drops,
		}
		if s.State != sockdiag.Listen {
			r.Sent, r.Received = s.Flow.Acked, s.Flow.Received
		}
		down := r.place(opt.Places)
		waits := s.Inode == 0 && (s.State == sockdiag.Established || s.State == sockdiag.CloseWait)
		switch {
		case opt.Held[r.Inode] && r.Inode != 0, waits && heldPorts[s.Local.Port()]:
			r.Status = Held
		case down == Cut:
			r.Status = Down
		}
		if s.State.PeerClosed() && r.RecvQ > 0 {
			r.RecvQ-- // the FIN
		}
		rows[i] = r
	}
	slices.SortFunc(rows, compare)
	return rows
}

// place fills in where the two ends are.
func (r *Row) place(places func(netip.Addr) (Place, bool)) Outage {
	if places == nil {
		return Whole
	}
	if p, ok := places(r.Local.Addr()); ok {
		r.ActualLocal = p.Actual
	}
	if r.Remote.Port() == 0 {
		return Whole
	}
	p, ok := places(r.Remote.Addr())
	if !ok {
		return Whole
	}
	r.ActualRemote, r.Channel = p.Actual, p.Channel
	return p.Down
}

func compare(a, b Row) int {
	listens := func(r Row) int {
		if r.State == sockdiag.Listen.String() {
			return 0
		}
		return 1
	}
	return cmp.Or(
		cmp.Compare(listens(a), listens(b)),
		cmp.Compare(a.Proto, b.Proto),
		a.Local.Compare(b.Local),
		a.Remote.Compare(b.Remote),
		cmp.Compare(a.Inode, b.Inode),
	)
}

func protoName(proto uint8) string {
	switch proto {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	default:
		return fmt.Sprintf("proto_%d", proto)
	}
}
