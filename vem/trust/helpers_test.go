package trust

import (
	"crypto/tls"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
)

// noon is when tests begin, by the clock that all hosts of a test have if nothing is said.
var noon = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

// watch is a clock that a test sets.
type watch struct{ at atomic.Pointer[time.Time] }

func newWatch(at time.Time) *watch {
	w := new(watch)
	w.set(at)
	return w
}

func (w *watch) set(at time.Time) { w.at.Store(&at) }
func (w *watch) now() time.Time   { return *w.at.Load() }

func newAuthority(t *testing.T) *Authority {
	t.Helper()
	a, err := CreateAuthority(t.TempDir(), AuthorityOptions{Now: newWatch(noon).now})
	qt.Assert(t, qt.IsNil(err))
	return a
}

// join has a host join an installation, as its clock is at noon.
func join(t *testing.T, a *Authority, host string, w *watch) *Identity {
	t.Helper()
	dir, at := t.TempDir(), w.now()
	csr, err := Request(dir)
	qt.Assert(t, qt.IsNil(err))
	chain, err := a.Sign(csr, host)
	qt.Assert(t, qt.IsNil(err))
	w.set(noon)
	i, err := Accept(dir, Grant{Chain: chain, Host: host, CA: a.Fingerprint()}, w.now)
	qt.Assert(t, qt.IsNil(err))
	w.set(at)
	return i
}

func newMember(t *testing.T, a *Authority, host string) *Identity {
	t.Helper()
	return join(t, a, host, newWatch(noon))
}

// all admits everybody.
func all(Peer) error { return nil }

// meeting is how a connection of two hosts over TCP on loopback ended.
type meeting struct {
	server, client     error // of the handshake or the first exchange
	atServer, atClient tls.ConnectionState
}

// meet has a client connect to a server, and exchange a word with it.
func meet(t *testing.T, server, client *tls.Config) meeting {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	qt.Assert(t, qt.IsNil(err))
	defer l.Close()
	type end struct {
		state tls.ConnectionState
		err   error
	}
	served := make(chan end)
	go func() {
		state, err := exchange(l.Accept, func(c net.Conn) *tls.Conn { return tls.Server(c, server) }, false)
		served <- end{state, err}
	}()
	state, err := exchange(func() (net.Conn, error) { return net.Dial("tcp", l.Addr().String()) },
		func(c net.Conn) *tls.Conn { return tls.Client(c, client) }, true)
	there := <-served
	return meeting{server: there.err, client: err, atServer: there.state, atClient: state}
}

// exchange has one end of a connection shake hands, and say a word and hear one.
func exchange(open func() (net.Conn, error), wrap func(net.Conn) *tls.Conn, first bool) (cs tls.ConnectionState, err error) {
	raw, err := open()
	if err != nil {
		return cs, err
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(time.Minute))
	c := wrap(raw)
	if err := c.Handshake(); err != nil {
		return c.ConnectionState(), err
	}
	defer c.Close()
	word := make([]byte, 4)
	if first {
		_, _ = c.Write([]byte("word"))
	}
	if _, err = io.ReadFull(c, word); err == nil && !first {
		_, err = c.Write(word)
	}
	return c.ConnectionState(), err
}
