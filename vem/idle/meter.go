package idle

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold/sockdiag"
	"github.com/snapctl/snapctl/vem/wake"
)

// Meter looks at the traffic of an app. It is not safe for use by several at the same
// time.
type Meter struct {
	opt     Options
	counter *counter
	flows   map[uint64]flow // by socket cookie
	sent    uint64          // datagrams, by the namespace's counters
}

// flow is the payload of a connection.
type flow struct{ acked, received uint64 }

// Options say which app is looked at.
type Options struct {
	NS     sockdiag.NetNS
	Device string // the app's network device, by which others reach it
	// Own are the app's addresses in its namespace, by which it reaches itself.
	Own    []netip.Addr
	Policy wake.Policy // whose traffic counts
}

// NewMeter begins to count the app's traffic. The caller closes the meter.
//
// It needs CAP_NET_RAW in the namespace. Cost: one packet socket, which the kernel
// shows each packet that comes in; with ignored sources those that go out too.
func NewMeter(ctx context.Context, opt Options) (*Meter, error) {
	c, err := newCounter(opt)
	if err != nil {
		return nil, err
	}
	m := &Meter{opt: opt, counter: c}
	if _, err := m.Look(ctx); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// Close stops counting. Closing again does nothing.
func (m *Meter) Close() error { return m.counter.close() }

// Look looks at the traffic since the look before. [Look.Used] is left to the caller.
func (m *Meter) Look(ctx context.Context) (Look, error) {
	look := Look{At: time.Now()}
	n, err := m.counter.read()
	if err != nil {
		return Look{}, err
	}
	look.Traffic = n > 0
	if len(m.opt.Policy.Ignore) == 0 { // else the counter has datagrams both ways
		sent, err := datagramsSent(m.opt.NS)
		if err != nil {
			return Look{}, err
		}
		look.Traffic = look.Traffic || sent != m.sent
		m.sent = sent
	}
	sockets, err := m.dump(ctx)
	if err != nil {
		return Look{}, err
	}
	look.Traffic = m.moved(sockets) || look.Traffic
	look.Waiting = m.waiting(sockets)
	return look, nil
}

// dump lists the app's inet sockets but for connections of ignored sources.
func (m *Meter) dump(ctx context.Context) ([]sockdiag.Inet, error) {
	conn, err := sockdiag.Dial(m.opt.NS)
	if err != nil {
		return nil, err
	}
	defer conn.Close() //nolint:errcheck // nothing was written
	var out []sockdiag.Inet
	for _, q := range []sockdiag.InetQuery{
		{Proto: unix.IPPROTO_TCP, States: sockdiag.AllStates &^ sockdiag.States(sockdiag.TimeWait, sockdiag.NewSynRecv), Details: sockdiag.WithFlow},
		{Proto: unix.IPPROTO_UDP, States: sockdiag.AllStates},
	} {
		for _, q.Family = range []uint8{unix.AF_INET, unix.AF_INET6} {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			list, err := conn.Inet(q)
			// An interrupted dump may have missed some; the next look finds them.
			if err != nil && !errors.Is(err, sockdiag.ErrInterrupted) {
				return nil, fmt.Errorf("look at traffic: %w", err)
			}
			for _, s := range list {
				if !m.ignored(s.Remote) {
					out = append(out, s)
				}
			}
		}
	}
	return out, nil
}

func (m *Meter) ignored(remote netip.AddrPort) bool {
	return remote.Port() != 0 && m.opt.Policy.Ignores(remote.Addr())
}

// moved tells whether a connection has carried payload since the last dump. One that
// has ended meanwhile is no traffic by itself: what it carried the counter has seen.
func (m *Meter) moved(sockets []sockdiag.Inet) bool {
	moved := false
	flows := make(map[uint64]flow, len(m.flows))
	for _, s := range sockets {
		if s.Proto != unix.IPPROTO_TCP || s.State == sockdiag.Listen {
			continue
		}
		now := flow{s.Flow.Acked, s.Flow.Received}
		before, known := m.flows[s.Cookie]
		if !known {
			before = flow{acked: min(now.acked, 1)} // the SYN
		}
		// The FIN counts as an acknowledged byte, once its end is closed.
		closed := s.State != sockdiag.Established && s.State != sockdiag.CloseWait
		if now.received != before.received || now.acked != before.acked && !closed {
			moved = true
		}
		flows[s.Cookie] = now
	}
	m.flows = flows
	return moved
}

// waiting lists the peers that wait for the app, as far as their traffic would wake it.
func (m *Meter) waiting(sockets []sockdiag.Inet) []Wait {
	ports := map[uint16]bool{}
	for _, s := range sockets {
		if s.State == sockdiag.Listen {
			ports[s.Local.Port()] = true
		}
	}
	var out []Wait
	for _, s := range sockets {
		switch {
		case s.State == sockdiag.Listen || m.inside(s):
		case s.Proto == unix.IPPROTO_UDP:
			// Nobody can see which peer has sent the datagrams that wait here.
			if s.RecvQ > 0 && len(m.opt.Policy.Ignore) == 0 {
				out = append(out, Wait{Kind: Read, Local: s.Local})
			}
		default:
			if kind := m.waitsFor(s, ports[s.Local.Port()]); kind != 0 {
				out = append(out, Wait{Kind: kind, Local: s.Local, Remote: s.Remote, For: s.Flow.SinceReceived})
			}
		}
	}
	return out
}

// inside tells whether both ends of a connection are in the app.
func (m *Meter) inside(s sockdiag.Inet) bool {
	return isOwn(s.Remote.Addr(), m.opt.Own) && s.Remote.Port() != 0
}

// waitsFor tells what the other end of a connection waits for; 0 if for nothing.
func (m *Meter) waitsFor(s sockdiag.Inet, accepted bool) WaitKind {
	bytes := int(s.RecvQ)
	if s.State.PeerClosed() {
		bytes = max(0, bytes-1) // the FIN: net/ipv4/tcp_diag.c, tcp_diag_get_info
	}
	switch open := s.State == sockdiag.Established || s.State == sockdiag.CloseWait; {
	case s.Inode == 0 && !open, s.State == sockdiag.Close:
		return 0 // nobody has it any more
	case s.Inode == 0 && accepted && bytes == 0:
		if s.State == sockdiag.Established && m.opt.Policy.WakesOnSilence() {
			return Accept
		}
		return 0
	case m.opt.Policy.Enough(bytes):
		return Read
	case open && accepted && owesAnswer(s.Flow):
		return Answer
	default:
		return 0
	}
}

// owesAnswer tells whether a request came in on a connection, and nothing has gone out
// since. The kernel tells the times to its tick (4 ms with CONFIG_HZ=250): a request that
// comes within the tick of the answer before it is taken for answered, as most that come
// in one tick with an answer are.
func owesAnswer(f sockdiag.Flow) bool {
	return f.Received > 0 && (f.Silent || f.SinceReceived < f.SinceSent)
}

func isOwn(a netip.Addr, own []netip.Addr) bool {
	return a.IsLoopback() || slices.Contains(own, a)
}
