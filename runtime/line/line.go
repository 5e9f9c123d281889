// Package line has requests of the API cross the control channel from one host to another: a stream of
// the channel becomes a connection, over which a client of gRPC on the one host asks a server on the other one.
// So what a request has, progress, errors with their hints, and that it is called off, it has there too.
//
// Which requests another host may make is the server's matter.
package line

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/snapctl/snapctl/vem/control/message"
)

// Kind is the kind of the streams that are lines.
const Kind = "api"

// Stream is a stream of the control channel.
type Stream interface {
	Send(b []byte) error
	Recv() ([]byte, error)
	Close()
}

// maxAnswerBytes bounds an answer, as package client does.
const maxAnswerBytes = 256 << 20

// Connect makes a connection to the API of the host on the other side of a stream. When the stream ends the
// requests under way fail, and so do all later ones. Whoever closes the connection closes the stream.
func Connect(s Stream, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	c := newConn(s, "")
	return dial(c, more)
}

func dial(c net.Conn, more []grpc.DialOption) (*grpc.ClientConn, error) {
	var taken atomic.Bool
	cc, err := grpc.NewClient("passthrough:///line", append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the control channel protects it
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if taken.Swap(true) {
				return nil, errEnded
			}
			return c, nil
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswerBytes)),
	}, more...)...)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect: %w", err), c.Close())
	}
	return cc, nil
}

var errEnded = errors.New("the connection with the other host has ended")

// Switchboard hands the lines of other hosts to a server. It is a [net.Listener].
type Switchboard struct {
	conns  chan net.Conn
	closed chan struct{}
	close  func()
}

var _ net.Listener = (*Switchboard)(nil)

// NewSwitchboard returns a switchboard whose lines wait until a server accepts them.
func NewSwitchboard() *Switchboard {
	b := &Switchboard{conns: make(chan net.Conn), closed: make(chan struct{})}
	b.close = sync.OnceFunc(func() { close(b.closed) })
	return b
}

// Serve hands the line of a host to the server. It returns when the line, the context or the switchboard has
// ended.
func (b *Switchboard) Serve(ctx context.Context, from string, s Stream) error {
	c := newConn(s, from)
	defer c.Close() //nolint:errcheck // never fails
	if err := b.hand(ctx, c); err != nil {
		return err
	}
	select {
	case <-c.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-b.closed:
		return net.ErrClosed
	}
}

func (b *Switchboard) hand(ctx context.Context, c net.Conn) error {
	select {
	case b.conns <- c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-b.closed:
		return net.ErrClosed
	}
}

// Connect makes a connection of this host to its own server, as another host has one.
func (b *Switchboard) Connect(ctx context.Context, self string, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	here, there := net.Pipe()
	if err := b.hand(ctx, &named{there, self}); err != nil {
		return nil, errors.Join(err, here.Close(), there.Close())
	}
	return dial(here, more)
}

// Accept implements [net.Listener].
func (b *Switchboard) Accept() (net.Conn, error) {
	select {
	case c := <-b.conns:
		return c, nil
	case <-b.closed:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener]. The lines end.
func (b *Switchboard) Close() error {
	b.close()
	return nil
}

// Addr implements [net.Listener].
func (b *Switchboard) Addr() net.Addr { return Host("") }

// Host is the address of a line: the name of the host at its other end.
type Host string

// Network implements [net.Addr].
func (Host) Network() string { return "line" }

func (h Host) String() string { return string(h) }

// named is a connection with a host's name.
type named struct {
	net.Conn

	host string
}

// RemoteAddr implements [net.Conn].
func (c *named) RemoteAddr() net.Addr { return Host(c.host) }

// conn is a stream as a connection. One goroutine may read while another one writes.
type conn struct {
	stream Stream
	from   string
	left   []byte // received, and not read yet
	ended  chan struct{}
	end    func()
}

func newConn(s Stream, from string) *conn {
	c := &conn{stream: s, from: from, ended: make(chan struct{})}
	c.end = sync.OnceFunc(func() {
		close(c.ended)
		s.Close()
	})
	return c
}

// Read implements [net.Conn].
func (c *conn) Read(b []byte) (int, error) {
	for len(c.left) == 0 {
		got, err := c.stream.Recv()
		if err != nil {
			c.end()
			return 0, err
		}
		c.left = got
	}
	n := copy(b, c.left)
	c.left = c.left[n:]
	return n, nil
}

// Write implements [net.Conn].
func (c *conn) Write(b []byte) (written int, err error) {
	for written < len(b) {
		n := min(len(b)-written, message.MaxChunk)
		if err := c.stream.Send(b[written : written+n]); err != nil {
			c.end()
			if errors.Is(err, io.EOF) {
				err = errEnded
			}
			return written, err
		}
		written += n
	}
	return written, nil
}

// Close implements [net.Conn].
func (c *conn) Close() error {
	c.end()
	return nil
}

// LocalAddr implements [net.Conn].
func (c *conn) LocalAddr() net.Addr { return Host("") }

// RemoteAddr implements [net.Conn].
func (c *conn) RemoteAddr() net.Addr { return Host(c.from) }

// SetDeadline implements [net.Conn]: a stream has none. That the other host does not answer the control
// channel finds out.
func (c *conn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements [net.Conn].
func (c *conn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements [net.Conn].
func (c *conn) SetWriteDeadline(time.Time) error { return nil }
