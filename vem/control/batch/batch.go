// Package batch has connections with TLS make fewer system calls.
//
// Package crypto/tls writes each record, of 16 KiB, by itself, and reads each by itself, too (Go 1.26,
// crypto/tls/conn.go). On a machine with two busy processors a stream of the control channel was half as fast so.
package batch

import (
	"bufio"
	"crypto/tls"
	"net"
	"sync"
)

const (
	// WriteBytes is how much the user of a connection writes at once, at most, as a rule.
	WriteBytes = 256 << 10
	// readBytes is how much is read at once.
	readBytes = 128 << 10
)

// Conn is a connection with TLS. What is written by one call goes out at once, and more is read than is asked for.
// One goroutine may read while another one writes.
type Conn struct {
	*tls.Conn

	outside *outside
}

// Server returns the server's side of a connection with TLS over raw, which it owns.
func Server(raw net.Conn, config *tls.Config) *Conn {
	o := &outside{Conn: raw, in: bufio.NewReaderSize(raw, readBytes)}
	return &Conn{tls.Server(o, config), o}
}

// Client returns the client's side of a connection with TLS over raw, which it owns.
func Client(raw net.Conn, config *tls.Config) *Conn {
	o := &outside{Conn: raw, in: bufio.NewReaderSize(raw, readBytes)}
	return &Conn{tls.Client(o, config), o}
}

// Raw is the connection below TLS.
func (c *Conn) Raw() net.Conn { return c.outside.Conn }

// Close closes the connection at once: crypto/tls would wait up to 5 s for a peer that does not read.
func (c *Conn) Close() error { return c.Raw().Close() }

// Write writes all of p inside TLS, and then at once what has become of it.
func (c *Conn) Write(p []byte) (int, error) {
	c.outside.begin()
	n, err := c.Conn.Write(p)
	if ended := c.outside.end(); err == nil && ended != nil {
		return 0, ended
	}
	return n, err
}

// outside is what TLS reads and writes.
type outside struct {
	net.Conn

	in *bufio.Reader // for one goroutine at a time, as crypto/tls sees to

	mu   sync.Mutex
	open bool   // what is written waits
	out  []byte // what waits
}

func (o *outside) Read(p []byte) (int, error) { return o.in.Read(p) }

func (o *outside) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.open {
		o.out = append(o.out, p...)
		return len(p), nil
	}
	return o.Conn.Write(p)
}

// begin has what is written wait until end is called.
func (o *outside) begin() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.open = true
}

// end writes what waits.
func (o *outside) end() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.open = false
	out := o.out
	if o.out = out[:0]; cap(out) > 2*WriteBytes { // one that is rare
		o.out = nil
	}
	if len(out) == 0 {
		return nil
	}
	_, err := o.Conn.Write(out)
	return err
}
