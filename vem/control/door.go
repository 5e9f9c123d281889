package control

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/credentials"

	"github.com/snapctl/snapctl/vem/control/batch"
	"github.com/snapctl/snapctl/vem/control/limit"
	"github.com/snapctl/snapctl/vem/control/message"
)

// alpn is the protocol inside TLS: HTTP/2 (RFC 9113, 3.2), which gRPC is made of.
const alpn = "h2"

// deadAfter is how long sent data may go without an acknowledgement before the kernel gives the
// connection up (TCP_USER_TIMEOUT, tcp(7)): a path that is dead is left soon, while a peer that
// is busy is waited for.
const deadAfter = 1500 * time.Millisecond

// door finds out who connects: it does the TLS handshake, and leads hosts with a certificate into
// one hall and those without one into another. It keeps the number of those within limits who
// have not said yet who they are.
type door struct {
	opts ServerOptions
	tls  *tls.Config

	handshakes *limit.Conns // by source
	strangers  *limit.Conns // by source
	peers      *limit.Conns // by host
	noisy      *rate.Limiter

	mu        sync.Mutex
	closed    bool
	listeners []net.Listener
}

func newDoor(o ServerOptions) *door {
	config := o.TLS.Clone()
	config.MinVersion = tls.VersionTLS13
	config.NextProtos = []string{alpn}
	// A session that is resumed would let a host in that was removed meanwhile.
	config.SessionTicketsDisabled = true
	l := o.Limits
	return &door{
		opts: o, tls: config,
		handshakes: limit.NewConns(max(l.Handshakes/4, 1), l.Handshakes),
		strangers:  limit.NewConns(max(l.Strangers/4, 1), l.Strangers),
		peers:      limit.NewConns(l.Connections, 1<<20), // who has a certificate is known
		noisy:      rate.NewLimiter(1, 20),
	}
}

// serve leads everybody who connects to a hall, until the listener or the door is closed.
func (d *door) serve(ctx context.Context, ln net.Listener, peers, joins *hall) error {
	defer peers.end()
	defer joins.end()
	if !d.add(ln) {
		return errors.Join(net.ErrClosed, ln.Close())
	}
	var wait sync.WaitGroup
	defer wait.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var pause time.Duration
	for {
		raw, err := ln.Accept()
		switch {
		case err == nil:
			pause = 0
			wait.Go(func() { d.welcome(ctx, raw, peers, joins) })
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ECONNABORTED), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			d.opts.Log.WarnContext(ctx, "can't accept a connection to the control channel; trying again", slog.Any("error", err))
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
		default:
			return err
		}
	}
}

func (d *door) add(ln net.Listener) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false
	}
	d.listeners = append(d.listeners, ln)
	return true
}

// close closes the listeners.
func (d *door) close() {
	d.mu.Lock()
	listeners := d.listeners
	d.closed, d.listeners = true, nil
	d.mu.Unlock()
	for _, ln := range listeners {
		_ = ln.Close() // it is not to be used any more
	}
}

// welcome does the handshake with one who connects.
func (d *door) welcome(ctx context.Context, raw net.Conn, peers, joins *hall) {
	from := addrPort(raw.RemoteAddr())
	cut := func() { _ = raw.Close() } // tells nothing that matters
	remove, dropped := d.handshakes.Add(source(from.Addr()), cut)
	defer remove()
	if dropped {
		d.warn(from, errors.New("too many connections have not said who they are: the oldest was closed"))
	}
	setUserTimeout(raw)
	conn := batch.Server(raw, d.tls)
	hurry, cancel := context.WithTimeout(ctx, d.opts.Limits.Hurry)
	defer cancel()
	if err := conn.HandshakeContext(hurry); err != nil {
		d.warn(from, err)
		cut()
		return
	}
	if conn.ConnectionState().NegotiatedProtocol != alpn {
		d.warn(from, errors.New("it does not speak HTTP/2"))
		cut()
		return
	}
	state := conn.ConnectionState()
	g := &guestConn{Conn: conn, guest: guest{Caller: message.Caller{Address: from, TLS: &state}}}
	host, known := d.opts.PeerOf(state)
	switch {
	case known:
		g.guest.Host = host
		g.leave, _ = d.peers.Add(host, cut)
		peers.enter(ctx, g)
	default:
		leave, _ := d.strangers.Add(source(from.Addr()), cut)
		timer := time.AfterFunc(d.opts.Limits.Hurry, cut)
		g.leave = func() { timer.Stop(); leave() }
		joins.enter(ctx, g)
	}
}

// warn says why somebody was not let in. Strangers can't fill the log.
func (d *door) warn(from netip.AddrPort, err error) {
	if !d.noisy.Allow() {
		return
	}
	if d.opts.Explain != nil {
		err = d.opts.Explain(err)
	}
	d.opts.Log.Warn("refused a connection to the control channel", slog.String("from", from.String()), slog.String("error", message.OneLine(err.Error())))
}

// source is what connections of strangers are counted by: an IPv4 address, or the 64 bits of an
// IPv6 address that a site gives to one link (RFC 4291, 2.5.4).
func source(a netip.Addr) string {
	bits := a.BitLen()
	if a.Is6() && !a.IsLinkLocalUnicast() {
		bits = 64
	}
	p, err := a.WithZone("").Prefix(bits)
	if err != nil {
		return a.String()
	}
	return p.String()
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		at := t.AddrPort()
		return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	}
	return netip.AddrPort{}
}

// setUserTimeout has the kernel give a dead connection up. Without it the connection is given up
// later.
func setUserTimeout(c net.Conn) {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	if raw, err := t.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(deadAfter.Milliseconds()))
		})
	}
}

// guest is who is at the other end of a connection; the host is "" for a stranger.
type guest struct {
	credentials.CommonAuthInfo
	message.Caller
}

// AuthType is for gRPC.
func (guest) AuthType() string { return "tls" }

// guestConn is a connection of which the door knows whose it is.
type guestConn struct {
	*batch.Conn

	guest guest
	leave func()
}

func (g *guestConn) Close() error {
	g.leave()
	return g.Conn.Close()
}

// hall is a listener that gets its connections from the door.
type hall struct {
	addr   net.Addr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (d *door) halls() (peers, joins *hall) {
	make1 := func(name string) *hall {
		return &hall{addr: hallAddr(name), conns: make(chan net.Conn), closed: make(chan struct{})}
	}
	return make1("peers"), make1("joins")
}

// enter hands a connection to whoever serves the hall.
func (h *hall) enter(ctx context.Context, g *guestConn) {
	select {
	case h.conns <- g:
	case <-h.closed:
		_ = g.Close()
	case <-ctx.Done():
		_ = g.Close()
	}
}

func (h *hall) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

// end has Accept fail, and closes who enters from now on.
func (h *hall) end() { h.once.Do(func() { close(h.closed) }) }

func (h *hall) Close() error {
	h.end()
	return nil
}

func (h *hall) Addr() net.Addr { return h.addr }

// hallAddr is the name of a hall.
type hallAddr string

func (hallAddr) Network() string  { return "control" }
func (a hallAddr) String() string { return string(a) }

// atDoor are the credentials of a server whose connections come from the door, where TLS is done.
type atDoor struct{}

func (atDoor) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	g, ok := c.(*guestConn)
	if !ok {
		return nil, nil, errors.New("the connection did not come through the door")
	}
	info := g.guest
	info.SecurityLevel = credentials.PrivacyAndIntegrity
	return c, info, nil
}

func (atDoor) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are a server's")
}

func (atDoor) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

func (a atDoor) Clone() credentials.TransportCredentials { return a }

func (atDoor) OverrideServerName(string) error { return nil }
