package control

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"

	"github.com/snapctl/snapctl/vem/control/batch"
	"github.com/snapctl/snapctl/vem/control/message"
)

// nextAfter is how long an address may be silent until the next one is tried as well.
const nextAfter = 250 * time.Millisecond

// oneDial is how long dialling an address may take, with the TLS handshake.
const oneDial = 3 * time.Second

// Address is a way to the control channel of a host: an address of the host in the underlay, and
// where packets to it leave this host.
type Address struct {
	To netip.AddrPort
	// From is this host's own address; zero: the kernel chooses.
	From netip.Addr
	// Device is the interface that packets leave through whatever routes say (SO_BINDTODEVICE,
	// socket(7), without a capability since Linux 5.7); "": routes decide.
	Device   string
	Priority int // lower goes first
}

func (a Address) String() string {
	var b strings.Builder
	b.WriteString(a.To.String())
	if a.From.IsValid() {
		fmt.Fprintf(&b, " from %v", a.From)
	}
	if a.Device != "" {
		fmt.Fprintf(&b, " by %s", a.Device)
	}
	return b.String()
}

// sorted returns the addresses of a host in the order in which they are tried, or an error that
// says what is wrong with them.
func sorted(addrs []Address) ([]Address, error) {
	var c message.Checks
	c.Count("addresses", len(addrs), 0, message.MaxAddresses)
	for _, a := range addrs {
		c.Unicast("address", a.To.Addr().WithZone(""))
		c.That(a.To.Port() != 0, "address", "%v has no port", a.To)
		if a.From.IsValid() {
			c.Unicast("local address", a.From.WithZone(""))
			c.That(a.From.Is4() == a.To.Addr().Is4(), "local address", "%v is of another family than %v", a.From, a.To)
		}
		c.That(len(a.Device) < unix.IFNAMSIZ, "interface", "%q is too long", a.Device)
	}
	addrs = slices.Clone(addrs)
	slices.SortStableFunc(addrs, func(a, b Address) int { return cmp.Compare(a.Priority, b.Priority) })
	return addrs, c.Err
}

// dialer makes connections to one host.
type dialer struct {
	tls *tls.Config
	// verify looks who is at the other end; nil: TLS has done all of it.
	verify  func(tls.ConnectionState) error
	explain func(error) error // makes an error of TLS clear
}

// dialled is a connection, with TLS and the first byte of the server on it.
type dialled struct {
	*batch.Conn

	address Address
	state   tls.ConnectionState
	first   []byte // read already
	closed  func() // nil, or told that the connection was closed
}

// Read returns the bytes in their order.
func (d *dialled) Read(b []byte) (int, error) {
	if len(d.first) > 0 {
		n := copy(b, d.first)
		d.first = d.first[n:]
		return n, nil
	}
	return d.Conn.Read(b)
}

// Close closes the connection, and tells it.
func (d *dialled) Close() error {
	err := d.Conn.Close()
	if d.closed != nil {
		d.closed()
	}
	return err
}

// outcome is what became of one address.
type outcome struct {
	conn   *dialled
	failed Attempt
}

// dial connects to the first address that answers. The next one is tried when one has failed, or
// is silent for a while. Returns why each failed, in the order in which they did.
func (d *dialer) dial(ctx context.Context, addrs []Address) (*dialled, []Attempt) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // also ends those that come second
	outcomes := make(chan outcome, len(addrs))
	start := func(a Address) {
		go func() { outcomes <- d.dialOne(ctx, a) }() // ends with ctx, and has room
	}
	var failed []Attempt
	next := time.NewTimer(0)
	defer next.Stop()
	for started := 0; len(failed) < len(addrs); {
		select {
		case <-next.C:
			if started < len(addrs) {
				start(addrs[started])
				started++
				next.Reset(nextAfter)
			}
		case o := <-outcomes:
			if o.conn != nil {
				go discard(outcomes, started-len(failed)-1)
				return o.conn, failed
			}
			failed = append(failed, o.failed)
			next.Reset(0)
		}
	}
	return nil, failed
}

// discard closes connections that came second.
func discard(outcomes <-chan outcome, n int) {
	for range n {
		if o := <-outcomes; o.conn != nil {
			_ = o.conn.Close()
		}
	}
}

// dialOne connects to one address, and waits until the server has shown that it lets this host
// in.
func (d *dialer) dialOne(ctx context.Context, a Address) outcome {
	ctx, cancel := context.WithTimeout(ctx, oneDial)
	defer cancel()
	conn, err := d.connect(ctx, a)
	if err != nil {
		if d.explain != nil {
			err = d.explain(err)
		}
		return outcome{failed: Attempt{Address: a, Err: err}}
	}
	return outcome{conn: conn}
}

func (d *dialer) connect(ctx context.Context, a Address) (*dialled, error) {
	nd := net.Dialer{KeepAlive: -1, Control: func(_, _ string, c syscall.RawConn) error { return bindTo(c, a.Device) }}
	if a.From.IsValid() {
		nd.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(a.From, 0))
	}
	raw, err := nd.DialContext(ctx, "tcp", a.To.String())
	if err != nil {
		return nil, err
	}
	config := d.tls.Clone()
	config.MinVersion = tls.VersionTLS13
	config.NextProtos = []string{alpn}
	conn := &dialled{Conn: batch.Client(raw, config), address: a}
	if err := d.greet(ctx, conn); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return conn, nil
}

// greet does the handshake, and waits for the first byte of HTTP/2, which a server sends at once
// (RFC 9113, 3.4): a client is done with the handshake before the server has looked at the
// client's certificate (RFC 8446, section 2), and would not know why it is not let in.
func (d *dialer) greet(ctx context.Context, c *dialled) error {
	stop := context.AfterFunc(ctx, func() { _ = c.Raw().SetDeadline(time.Unix(1, 0)) })
	defer stop()
	err := c.HandshakeContext(ctx)
	c.state = c.ConnectionState()
	if err == nil && c.state.NegotiatedProtocol != alpn {
		err = errors.New("it does not speak HTTP/2")
	}
	if err == nil && d.verify != nil {
		err = d.verify(c.state)
	}
	if err == nil {
		c.first = make([]byte, 1)
		_, err = c.Conn.Read(c.first)
	}
	switch {
	case err == nil && !stop():
		return context.Cause(ctx)
	case errors.Is(err, io.EOF):
		return errors.New("it closed the connection at once: it may have too many connections from here")
	case errors.Is(err, unix.ETIMEDOUT), ctx.Err() != nil:
		return fmt.Errorf("no answer: %w", cmp.Or(context.Cause(ctx), err))
	}
	return err
}

// bindTo prepares a socket before it connects.
func bindTo(c syscall.RawConn, device string) error {
	var err error
	controlErr := c.Control(func(fd uintptr) {
		if device != "" {
			if err = unix.BindToDevice(int(fd), device); err != nil {
				err = fmt.Errorf("use interface %s: %w", device, err)
				return
			}
		}
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(deadAfter.Milliseconds()))
	})
	return cmp.Or(controlErr, err)
}

// atDialer are the credentials of a client whose connections come from a dialer, where TLS is
// done.
type atDialer struct{ atDoor }

func (atDialer) ClientHandshake(_ context.Context, _ string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c, guest{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}, nil
}

func (a atDialer) Clone() credentials.TransportCredentials { return a }
