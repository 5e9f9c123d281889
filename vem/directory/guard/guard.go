// Package guard stands before a member of the directory: it does the TLS of its ports, and hands
// on to the member, at a unix socket, whoever is a host of the installation.
//
//	other hosts ──TLS 1.3──▶ Guard ──unix socket──▶ etcd
//	                           │ asks
//	                           ▼
//	                         Roll: the hosts' records in the member's own data
//
// etcd itself knows certificates only, and those of a host that was removed are good for weeks:
// its revocation lists name certificates by numbers, which nobody keeps, and end no connection. The
// guard refuses a host as soon as the member knows that it was removed, and closes the connections
// that it has. It runs in the member's process, so that it is there whenever the member is.
package guard

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/snapctl/snapctl/vem/control/limit"
	"github.com/snapctl/snapctl/vem/trust"
)

const (
	// hurry is how long a handshake may take.
	hurry = 10 * time.Second
	// deadAfter is how long sent data may go without an acknowledgement (TCP_USER_TIMEOUT, tcp(7)).
	deadAfter = 5 * time.Second
	// maxHandshakes is how many are under way at most; a quarter of them from one address.
	maxHandshakes = 64
	// maxConnections is how many connections of one host are open at most.
	maxConnections = 128
)

// Options are what a [Guard] works with. All are required.
type Options struct {
	// Pair is the path of this host's key and certificate (see [trust.Files]). It is read again when
	// it was renewed.
	Pair string
	// Check says whether a host may connect. It is asked at each handshake, and by Review.
	Check trust.Check
	Log   *slog.Logger
}

// Guard lets hosts in. Its methods may be called at the same time.
type Guard struct {
	opt        Options
	identity   identity
	handshakes *limit.Conns
	hosts      *limit.Conns
	noisy      *rate.Limiter

	wait sync.WaitGroup // all that Serve has begun

	mu     sync.Mutex
	closed bool
	doors  []net.Listener
	guests map[*guest]bool
}

// guest is a host that was let in.
type guest struct {
	peer trust.Peer
	cut  func()
}

// New returns a guard that stands nowhere yet. Returns what [trust.Open] does of a folder without a
// certificate. The caller closes it.
func New(opt Options) (*Guard, error) {
	g := &Guard{
		opt:        opt,
		handshakes: limit.NewConns(maxHandshakes/4, maxHandshakes), hosts: limit.NewConns(maxConnections, 1<<20),
		noisy: rate.NewLimiter(1, 20), guests: make(map[*guest]bool),
	}
	g.identity.pair = opt.Pair
	_, err := g.identity.now()
	return g, err
}

// Listen opens a port at an address of this host, also at one that is not there yet (IP_FREEBIND,
// ip(7)).
func Listen(ctx context.Context, at netip.AddrPort) (net.Listener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		level, option := unix.SOL_IP, unix.IP_FREEBIND
		if at.Addr().Is6() {
			level, option = unix.SOL_IPV6, unix.IPV6_FREEBIND
		}
		var serr error
		err := c.Control(func(fd uintptr) { serr = unix.SetsockoptInt(int(fd), level, option, 1) })
		return errors.Join(err, serr)
	}}
	return lc.Listen(ctx, "tcp", at.String())
}

// Serve hands hosts that connect to a listener on to the unix socket at a path, until the listener
// or the guard is closed. protocols are those inside TLS, as ALPN has them; none: any.
func (g *Guard) Serve(ctx context.Context, l net.Listener, to string, protocols ...string) error {
	if !g.add(l) {
		return errors.Join(net.ErrClosed, l.Close())
	}
	for {
		raw, err := l.Accept()
		switch {
		case err == nil:
			if !g.begin(func() { g.welcome(ctx, raw, to, protocols) }) {
				return errors.Join(net.ErrClosed, raw.Close())
			}
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ECONNABORTED), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
			g.warn(l.Addr(), err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
		default:
			return err
		}
	}
}

func (g *Guard) add(l net.Listener) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.doors = append(g.doors, l)
	return !g.closed
}

// begin runs something that Close waits for.
func (g *Guard) begin(do func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.wait.Go(do)
	return true
}

// Close closes all listeners and connections, and waits until nothing of the guard is at work.
func (g *Guard) Close() error {
	g.mu.Lock()
	doors, guests := g.doors, g.guests
	g.closed, g.doors, g.guests = true, nil, make(map[*guest]bool)
	g.mu.Unlock()
	var errs []error
	for _, l := range doors {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	for v := range guests {
		v.cut()
	}
	g.wait.Wait()
	return errors.Join(errs...)
}

// Review closes the connections of hosts that may not connect any more.
func (g *Guard) Review() {
	g.mu.Lock()
	all := make([]*guest, 0, len(g.guests))
	for v := range g.guests {
		all = append(all, v)
	}
	g.mu.Unlock()
	for _, v := range all {
		if err := g.opt.Check(v.peer); err != nil {
			g.opt.Log.Warn("closed a connection to the directory's member", slog.String("host", v.peer.Host), slog.Any("error", err))
			v.cut()
		}
	}
}

// welcome does the handshake with one who connects, and hands a host on.
func (g *Guard) welcome(ctx context.Context, raw net.Conn, to string, protocols []string) {
	cut := sync.OnceFunc(func() { _ = raw.Close() }) // tells nothing that matters
	defer cut()
	conn, peer, err := g.handshake(ctx, raw, protocols, cut)
	if err != nil {
		g.warn(raw.RemoteAddr(), err)
		return
	}
	leave, _ := g.hosts.Add(peer.Host, cut)
	defer leave()
	v := &guest{peer: peer, cut: cut}
	if !g.enter(v) {
		return
	}
	defer g.leave(v)
	// What the handshake has found may have changed before Review could see the connection.
	if err := g.opt.Check(peer); err != nil {
		g.warn(raw.RemoteAddr(), err)
		return
	}
	var d net.Dialer
	inside, err := d.DialContext(ctx, "unix", to)
	if err != nil {
		g.warn(raw.RemoteAddr(), fmt.Errorf("the member is not there yet: %w", err))
		return
	}
	join(conn, inside, cut)
}

// handshake finds out who connects.
func (g *Guard) handshake(ctx context.Context, raw net.Conn, protocols []string, cut func()) (*tls.Conn, trust.Peer, error) {
	done, _ := g.handshakes.Add(source(raw.RemoteAddr()), cut)
	defer done()
	id, err := g.identity.now()
	if err != nil {
		return nil, trust.Peer{}, err
	}
	config := id.Server(g.opt.Check)
	config.ClientAuth = tls.RequireAndVerifyClientCert
	config.NextProtos = protocols
	impatient(raw)
	ctx, cancel := context.WithTimeout(ctx, hurry)
	defer cancel()
	conn := tls.Server(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, trust.Peer{}, id.Explain(err)
	}
	peer, _ := trust.PeerOf(conn.ConnectionState())
	return conn, peer, nil
}

func (g *Guard) enter(v *guest) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.guests[v] = true
	}
	return !g.closed
}

func (g *Guard) leave(v *guest) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.guests, v)
}

// join carries bytes both ways until one side ends; then both do.
func join(outside, inside net.Conn, cut func()) {
	end := func() {
		cut()
		_ = inside.Close() // both sides are told by that
	}
	defer end()
	var back sync.WaitGroup
	back.Go(func() {
		defer end()
		_, _ = io.Copy(outside, inside)
	})
	_, _ = io.Copy(inside, outside)
	end()
	back.Wait()
}

// warn says why somebody was not let in. Strangers can't fill the log.
func (g *Guard) warn(from net.Addr, err error) {
	if g.noisy.Allow() {
		g.opt.Log.Warn("refused a connection to the directory's member", slog.String("from", from.String()), slog.Any("error", err))
	}
}

func source(a net.Addr) string {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap().WithZone("").String()
	}
	return a.String()
}

// impatient has the kernel give a dead connection up.
func impatient(c net.Conn) {
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
