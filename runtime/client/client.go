// Package client talks to the snapctld of this host over its unix socket.
//
// A [Client] has a method for each request of the API (runtime/api). The
// methods are thin: messages are the API's own, but errors are Go's. What the
// daemon answered is an [*Error], which wraps the sentinel of
// github.com/containerd/errdefs that fits and carries the daemon's hints; see
// [Hints].
package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"sync/atomic"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/snapctl/snapctl/runtime/api"
)

// DefaultSocket is where a daemon listens that was not told otherwise.
const DefaultSocket = "/run/snapctl/snapctl.sock"

// maxMessageBytes bounds an answer. The largest ones are the translation table
// of an app with many connections and the description of a snapshot; gRPC's own
// default of 4 MiB is about 20 000 rows.
const maxMessageBytes = 256 << 20

// ErrNotRunning says that nobody listens on the daemon's socket.
var ErrNotRunning = errors.New("snapctld is not running")

// Client is a connection to a daemon. All its methods may be used concurrently,
// and return an [*Error] for what the daemon answered.
type Client struct {
	conn  *grpc.ClientConn
	api   api.SnapctlClient
	ready *atomic.Pointer[net.Conn] // dialled, not yet taken by gRPC
}

// Dial connects to the daemon that listens on a unix socket. ctx is for the
// dialling only. The caller closes the client.
//
// Returns an error wrapping [ErrNotRunning] if nobody listens there, and one
// wrapping [fs.ErrPermission] if the socket may not be opened: it is root's.
func Dial(ctx context.Context, socket string) (*Client, error) {
	// gRPC dials late and hides why it can't. So dial here, and hand it the
	// connection; after a loss it dials again.
	first, err := dial(ctx, socket)
	if err != nil {
		return nil, err
	}
	ready := new(atomic.Pointer[net.Conn])
	ready.Store(&first)
	conn, err := grpc.NewClient("passthrough:///snapctl", // no name to resolve: the dialer knows
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the socket's mode is what protects it
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			if c := ready.Swap(nil); c != nil {
				return *c, nil
			}
			return dial(ctx, socket)
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes)),
		grpc.WithUnaryInterceptor(unaryErrors),
		grpc.WithStreamInterceptor(streamErrors),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect to %s: %w", socket, err), first.Close())
	}
	return &Client{conn: conn, api: api.NewSnapctlClient(conn), ready: ready}, nil
}

func dial(ctx context.Context, socket string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	switch {
	case err == nil:
		return conn, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("connect to %s: %w", socket, ErrNotRunning)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("connect to %s: %w", socket, fs.ErrPermission)
	default:
		return nil, fmt.Errorf("connect to %s: %w", socket, err)
	}
}

// Close closes the connection; it can be repeated. Requests under way fail.
func (c *Client) Close() error {
	// An error only says that it was closed before (grpc.ClientConn.Close).
	_ = c.conn.Close()
	if unused := c.ready.Swap(nil); unused != nil {
		if err := (*unused).Close(); err != nil {
			return fmt.Errorf("close connection: %w", err)
		}
	}
	return nil
}
