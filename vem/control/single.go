package control

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/snapctl/snapctl/vem/control/controlpb"
	"github.com/snapctl/snapctl/vem/control/message"
)

// over returns a client of gRPC that has one connection, and never another one.
func over(c *dialled) (*grpc.ClientConn, error) {
	var once atomic.Pointer[dialled]
	once.Store(c)
	return newClient(func(context.Context, string) (net.Conn, error) {
		if c := once.Swap(nil); c != nil {
			return c, nil
		}
		return nil, errLost
	}, grpc.WithIdleTimeout(0))
}

// ProbeResult is what a probe has found.
type ProbeResult struct {
	RoundTrip time.Duration // of the padding and its echo
	// MTU is that of the path to the host as far as the kernel knows it (IP_MTU, ip(7)).
	MTU int
}

// Probe finds out whether this host and another can talk over one address, whether or not it was
// set, on a connection of its own. Padding of some thousand bytes, both ways, is sent in full-size
// packets: these are lost on a path that swallows packets larger than its MTU.
func (p *Peers) Probe(ctx context.Context, host string, a Address, padding int) (ProbeResult, error) {
	addrs, err := sorted([]Address{a})
	var c message.Checks
	c.Host("host", host)
	c.That(padding >= 0 && padding <= MaxPadding, "padding", "has %d bytes, and may have %d", padding, MaxPadding)
	if err := cmp.Or(err, c.Err); err != nil {
		return ProbeResult{}, err
	}
	ctx, cancel := deadline(ctx)
	defer cancel()
	l := &link{host: host, opts: &p.opts, addrs: addrs}
	conn, tried := l.dial(ctx)
	if conn == nil {
		return ProbeResult{}, &UnreachableError{Host: host, Tried: tried}
	}
	cc, err := over(conn)
	if err != nil {
		return ProbeResult{}, errors.Join(err, conn.Close())
	}
	defer func() { _ = cc.Close() }() // an error only says that it was closed before
	return l.probe(ctx, cc, conn, padding)
}

func (l *link) probe(ctx context.Context, cc *grpc.ClientConn, conn *dialled, padding int) (ProbeResult, error) {
	begin := time.Now()
	answer, err := pb.NewPeerClient(cc).Probe(ctx, &pb.ProbeRequest{Padding: make([]byte, padding), WantBytes: uint32(padding)})
	r := ProbeResult{RoundTrip: time.Since(begin), MTU: mtu(conn.Raw())}
	switch {
	case err == nil && len(answer.GetPadding()) != padding:
		return r, l.invalid(&message.InvalidError{What: "padding", Why: fmt.Sprintf("has %d bytes, and should have %d", len(answer.GetPadding()), padding)})
	case err == nil:
		return r, nil
	}
	if said := message.FromStatus(status.Convert(err), l.host, l.opts.Self); said != nil {
		return r, said
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return r, &UnreachableError{Host: l.host, Tried: []Attempt{{
		Address: conn.address, Err: fmt.Errorf("connected, and %d bytes of padding were lost: %w", padding, err),
	}}}
}

// mtu returns that of the path of a connection, or 0 if the kernel does not tell.
func mtu(c net.Conn) int {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return 0
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return 0
	}
	level, option := unix.IPPROTO_IP, unix.IP_MTU
	if addrPort(c.RemoteAddr()).Addr().Is6() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MTU
	}
	n := 0
	_ = raw.Control(func(fd uintptr) {
		if got, err := unix.GetsockoptInt(int(fd), level, option); err == nil {
			n = got
		}
	})
	return n
}

// JoinOptions are how a host that wants to join reaches a host of the installation.
type JoinOptions struct {
	Addresses []Address
	// TLS is a client's side of TLS that has no certificate, and that verifies that the other
	// end is a host of the installation which the token is for.
	TLS     *tls.Config
	Explain func(error) error // as in PeersOptions
}

// Join asks a host of the installation to let this host in. ctx without a deadline gets 15 s. A
// call that is cut is made again until then, and whoever calls Join again with the same request
// and the same ID gets the same answer, for some minutes. Returns errors as [Peers] does.
func Join(ctx context.Context, o JoinOptions, r message.JoinRequest) (message.Joined, error) {
	r.ID = named(r.ID)
	r.Protocols = r.Protocols.OrOurs()
	var c message.Checks
	c.Join(r)
	addrs, err := sorted(o.Addresses)
	if err := cmp.Or(c.Err, err); err != nil {
		return message.Joined{}, err
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 5*DefaultTimeout)
		defer cancel()
	}
	d := dialer{tls: o.TLS, explain: o.Explain}
	l := &link{opts: &PeersOptions{Self: message.Self{Version: r.Version, Protocols: r.Protocols}}}
	again := retry{versions: maxVersions} // the request says which versions there are
	for {
		conn, tried := d.dial(ctx, addrs)
		if conn == nil && !again.maybeDone {
			return message.Joined{}, &UnreachableError{Host: "of the installation", Tried: tried}
		}
		err := errLost
		if conn != nil {
			l.host = "at " + conn.address.To.String()
			var j message.Joined
			if j, err = join(ctx, conn, r); err == nil {
				return j, nil
			}
		}
		if errors.Is(err, errLost) {
			err = status.Error(codes.Unavailable, err.Error())
		}
		if err := again.after(ctx, l, err); err != nil {
			return message.Joined{}, err
		}
	}
}

// join makes the call on one connection.
func join(ctx context.Context, conn *dialled, r message.JoinRequest) (message.Joined, error) {
	cc, err := over(conn)
	if err != nil {
		return message.Joined{}, errors.Join(err, conn.Close())
	}
	defer func() { _ = cc.Close() }() // an error only says that it was closed before
	answer, err := pb.NewJoinClient(cc).Join(ctx, message.ToJoin(r))
	if err != nil {
		return message.Joined{}, err
	}
	return message.FromJoined(answer)
}
