package holder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Client talks to a holder process. It implements [Store]. Each call uses a
// connection of its own, so calls do not wait for each other, and a call that was
// interrupted leaves nothing behind.
type Client struct{ path string }

var _ Store = (*Client)(nil)

// Dial returns a client of the holder that serves socketPath. It fails if nobody
// answers there, and with an error wrapping [ErrVersion] if it cannot be
// understood.
func Dial(ctx context.Context, socketPath string) (*Client, error) {
	c := &Client{path: socketPath}
	if _, err := c.List(ctx); err != nil {
		return nil, fmt.Errorf("dial holder: %w", err)
	}
	return c, nil
}

// Close does nothing: there is no connection between calls.
func (c *Client) Close() error { return nil }

// exchange is one connection to the holder.
type exchange struct {
	conn *net.UnixConn
	in   *reader
}

// do runs fn with a fresh connection, which ends with ctx.
func (c *Client) do(ctx context.Context, fn func(*exchange) error) error {
	var d net.Dialer
	dialled, err := d.DialContext(ctx, "unixpacket", c.path)
	if err != nil {
		return fmt.Errorf("connect to holder: %w", err)
	}
	conn, ok := dialled.(*net.UnixConn)
	if !ok {
		return errors.Join(fmt.Errorf("connect to holder: unexpected %T", dialled), dialled.Close())
	}
	defer conn.Close() //nolint:errcheck // all answers are read
	stop := context.AfterFunc(ctx, func() {
		conn.SetDeadline(time.Unix(1, 0)) //nolint:errcheck // the connection ends anyway
	})
	defer stop()
	err = fn(&exchange{conn: conn, in: newReader(conn)})
	if err != nil && ctx.Err() != nil {
		return errors.Join(ctx.Err(), err)
	}
	return err
}

// ask sends a request and reads its answer. The caller owns the descriptors.
func (x *exchange) ask(req request, fds []int) (response, []int, error) {
	req.Version = protocolVersion
	if err := send(x.conn, req, fds); err != nil {
		return response{}, nil, err
	}
	b, got, err := x.in.next()
	if errors.Is(err, errCut) {
		closeFDs(got)
		return response{}, nil, fmt.Errorf("receive descriptors: RLIMIT_NOFILE of this process is reached: %w", unix.EMFILE)
	}
	if err != nil {
		closeFDs(got)
		return response{}, nil, fmt.Errorf("receive answer: %w", err)
	}
	if len(b) == 0 {
		return response{}, nil, fmt.Errorf("receive answer: the holder closed the connection: %w", io.ErrUnexpectedEOF)
	}
	resp, err := decodeResponse(b)
	if err == nil && len(got) != len(resp.Items) {
		err = fmt.Errorf("%w: %d descriptors for %d items", ErrProtocol, len(got), len(resp.Items))
	}
	if err != nil {
		closeFDs(got)
		return response{}, nil, err
	}
	return resp, got, nil
}

// Put implements [Store]. Cost: about 2 us a descriptor.
func (c *Client) Put(ctx context.Context, app string, items []Item) error {
	if err := checkItems(app, items); err != nil {
		return fmt.Errorf("put descriptors of %q: %w", app, err)
	}
	err := c.do(ctx, func(x *exchange) error {
		for first := true; first || len(items) > 0; first = false {
			part := items[:batch(items)]
			req := request{Op: opPut, App: app, More: len(part) < len(items)}
			if first {
				req.Total = len(items)
			}
			fds := make([]int, len(part))
			for i, it := range part {
				req.Items = append(req.Items, wireItem{Key: it.Key, Meta: it.Meta})
				fds[i] = int(it.File.Fd())
			}
			_, _, err := x.ask(req, fds)
			runtime.KeepAlive(part)
			if err != nil {
				return err
			}
			items = items[len(part):]
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("put descriptors of %q: %w", app, err)
	}
	return nil
}

// batch tells how many of the items go into one packet.
func batch(items []Item) int {
	size := 0
	for i, it := range items {
		size += len(it.Key) + len(it.Meta)
		if i == batchItems || i > 0 && size > batchBytes {
			return i
		}
	}
	return len(items)
}

// Get implements [Store].
func (c *Client) Get(ctx context.Context, app string) ([]Item, error) {
	var items []Item
	err := c.do(ctx, func(x *exchange) error {
		req := request{Op: opGet, App: app}
		for {
			resp, fds, err := x.ask(req, nil)
			if err != nil {
				return err
			}
			for i, it := range resp.Items {
				items = append(items, Item{Key: it.Key, Meta: it.Meta, File: os.NewFile(uintptr(fds[i]), it.Key)})
			}
			if !resp.More {
				return nil
			}
			if len(fds) == 0 {
				return fmt.Errorf("%w: empty part", ErrProtocol)
			}
			req.From, req.Gen = len(items), resp.Gen
		}
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("get descriptors of %q: %w", app, err), CloseAll(items))
	}
	return items, nil
}

// Drop implements [Store].
func (c *Client) Drop(ctx context.Context, app string) error {
	err := c.do(ctx, func(x *exchange) error {
		_, _, err := x.ask(request{Op: opDrop, App: app}, nil)
		return err
	})
	if err != nil {
		return fmt.Errorf("drop descriptors of %q: %w", app, err)
	}
	return nil
}

// List implements [Store].
func (c *Client) List(ctx context.Context) (map[string]int, error) {
	apps := map[string]int{}
	err := c.do(ctx, func(x *exchange) error {
		req := request{Op: opList}
		for {
			resp, _, err := x.ask(req, nil)
			if err != nil {
				return err
			}
			for app, n := range resp.Apps {
				apps[app] = n
				req.App = max(req.App, app)
			}
			if !resp.More {
				return nil
			}
			if len(resp.Apps) == 0 {
				return fmt.Errorf("%w: empty part", ErrProtocol)
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list descriptors: %w", err)
	}
	return apps, nil
}
