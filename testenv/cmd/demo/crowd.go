package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/snapctl/snapctl/testenv/host"
)

// crowd is the clients of the demo's redis. Each keeps its connection, and a
// counter of its own that nobody else changes: a lost or repeated command shows.
type crowd struct {
	h        *host.Host
	clients  []*client
	answered int
	failed   int
	firstErr error
	longest  time.Duration
}

type client struct {
	conn  net.Conn
	in    *bufio.Reader
	key   string
	count int
}

// connect waits for redis to answer and then connects n clients.
func connect(ctx context.Context, h *host.Host, n int) (*crowd, error) {
	c := &crowd{h: h}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := h.DialContext(ctx, "tcp", endpoint+":6379")
		if err == nil {
			if err := conn.Close(); err != nil {
				return nil, err
			}
			break
		}
		select {
		case <-tick.C: // redis is starting
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for redis: %w", err)
		}
	}
	if err := c.join(ctx, n); err != nil {
		c.close()
		return nil, err
	}
	c.ask(ctx)
	return c, nil
}

// join connects n more clients.
func (c *crowd) join(ctx context.Context, n int) error {
	for range n {
		conn, err := c.h.DialContext(ctx, "tcp", endpoint+":6379")
		if err != nil {
			return fmt.Errorf("connect client: %w", err)
		}
		c.clients = append(c.clients, &client{conn: conn, in: bufio.NewReader(conn), key: fmt.Sprintf("client:%d", len(c.clients))})
	}
	return nil
}

// ask has every client count once, all at the same time, and returns how long
// the slowest answer took.
func (c *crowd) ask(ctx context.Context) time.Duration {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		took time.Duration
	)
	for _, cl := range c.clients {
		wg.Go(func() {
			began := time.Now()
			err := cl.ask(ctx)
			mu.Lock()
			defer mu.Unlock()
			took = max(took, time.Since(began))
			if err == nil {
				c.answered++
				return
			}
			if c.failed++; c.firstErr == nil {
				c.firstErr = err
			}
		})
	}
	wg.Wait()
	c.longest = max(c.longest, took)
	return took
}

func (c *crowd) close() {
	for _, cl := range c.clients {
		_ = cl.conn.Close() // the demo is over
	}
}

// ask counts once and checks that the server counts the same.
func (c *client) ask(ctx context.Context) error {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(30 * time.Second)
	}
	if err := c.conn.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(c.conn, "INCR %s\r\n", c.key); err != nil {
		return err
	}
	line, err := c.in.ReadString('\n')
	if err != nil {
		return err
	}
	c.count++
	if want := fmt.Sprintf(":%d", c.count); strings.TrimSpace(line) != want {
		return fmt.Errorf("%s: answer %q, want %q", c.key, strings.TrimSpace(line), want)
	}
	return nil
}
