package probe

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
)

// handshake returns both ends of a connection.
func handshake(t *testing.T) (client, server tls.ConnectionState) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	qt.Assert(t, qt.IsNil(err))
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	qt.Assert(t, qt.IsNil(err))
	a, b := net.Pipe()
	c := tls.Client(a, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}) //nolint:gosec // who it is does not matter here
	s := tls.Server(b, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}}, MinVersion: tls.VersionTLS13})
	done := make(chan error, 1)
	go func() { done <- s.HandshakeContext(t.Context()) }()
	qt.Assert(t, qt.IsNil(c.HandshakeContext(t.Context())))
	go func() { _, _ = c.Read(make([]byte, 1)) }() // the tickets
	qt.Assert(t, qt.IsNil(<-done))
	t.Cleanup(func() { a.Close(); b.Close() })
	return c.ConnectionState(), s.ConnectionState()
}

// keysOf are those of a connection, at both ends.
func keysOf(t *testing.T) (client, server Key) {
	t.Helper()
	c, s := handshake(t)
	client, err := NewKey(c)
	qt.Assert(t, qt.IsNil(err))
	server, err = NewKey(s)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(client, server))
	qt.Assert(t, qt.Not(qt.Equals(client.secret, [32]byte{})))
	return client, server
}

// freePort is a UDP port of an address that nobody listens at.
func freePort(t *testing.T, at string) uint16 {
	t.Helper()
	c, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", at+":0")
	qt.Assert(t, qt.IsNil(err))
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}

// loopback is how an address of the loopback device is used.
func loopback(t *testing.T, at string) Local {
	t.Helper()
	lo, err := net.InterfaceByName("lo")
	qt.Assert(t, qt.IsNil(err))
	return Local{Addr: netip.MustParseAddr(at), Device: "lo", Index: lo.Index, MTU: 1500}
}

// running is a prober that runs, and what it told.
func running(t *testing.T, port uint16) (*Prober, <-chan string) {
	t.Helper()
	told := make(chan string, 100)
	p := New(Options{Port: port, Interval: 100 * time.Millisecond, Changed: func(host string) { told <- host }})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); p.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; p.Close(); p.Close() })
	return p, told
}

// await waits until a prober has told something that makes a way so.
func await(t *testing.T, p *Prober, told <-chan string, host string, is func(Way) bool) Way {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		if list := p.Ways(host); len(list) == 1 && is(list[0]) {
			return list[0]
		}
		select {
		case <-told:
		case <-late:
			t.Fatalf("the way is %+v", p.Ways(host))
		}
	}
}

// Two probers over the loopback device, which has no faults.
func TestProber(t *testing.T) {
	const a, b = "127.0.0.1", "127.0.0.2"
	port := freePort(t, a)
	here, told := running(t, port)
	there, toldThere := running(t, port)
	qt.Assert(t, qt.IsNil(here.SetUnderlay(t.Context(), []Local{loopback(t, a)})))
	qt.Assert(t, qt.IsNil(there.SetUnderlay(t.Context(), []Local{loopback(t, b)})))
	client, server := keysOf(t)
	there.AnswerTo("a", server)
	here.AskBy("b", client)
	here.SetWays("b", []Pair{{netip.MustParseAddr(a), netip.AddrPortFrom(netip.MustParseAddr(b), port)}})
	w := await(t, here, told, "b", func(w Way) bool { return w.State == Up && w.MTU == 1500 })
	qt.Check(t, qt.IsTrue(w.RoundTrip > 0))

	// An address that is gone answers no more, and one that is back does.
	qt.Assert(t, qt.IsNil(there.SetUnderlay(t.Context(), nil)))
	await(t, here, told, "b", func(w Way) bool { return w.State == Down })
	small := loopback(t, b)
	small.MTU = 1300
	qt.Assert(t, qt.IsNil(there.SetUnderlay(t.Context(), []Local{small})))
	await(t, here, told, "b", func(w Way) bool { return w.State == Up })

	client, server = keysOf(t)
	here.AnswerTo("b", server)
	there.AskBy("a", client)
	there.SetWays("a", []Pair{{netip.MustParseAddr(b), netip.AddrPortFrom(netip.MustParseAddr(a), port)}})
	await(t, there, toldThere, "a", func(w Way) bool { return w.State == Up && w.MTU == 1300 })
	there.Forget("b")
	there.Forget("a")
	qt.Check(t, qt.HasLen(there.Ways("a"), 0))
	await(t, here, told, "b", func(w Way) bool { return w.State == Down })
}

// The loopback device sends less than was said of it: the kernel refuses what is larger.
func TestDeviceSendsLess(t *testing.T) {
	const a = "::1"
	port := freePort(t, "[::1]")
	here, told := running(t, port)
	l := loopback(t, a)
	lo, err := net.InterfaceByName("lo")
	qt.Assert(t, qt.IsNil(err))
	if lo.MTU > 1<<16 {
		t.Skipf("the loopback device carries %d bytes, more than a datagram can have", lo.MTU)
	}
	l.MTU = lo.MTU
	qt.Assert(t, qt.IsNil(here.SetUnderlay(t.Context(), []Local{l})))
	client, server := keysOf(t)
	here.AnswerTo("self", server)
	here.AskBy("self", client)
	here.SetWays("self", []Pair{{l.Addr, netip.AddrPortFrom(l.Addr, port)}})
	await(t, here, told, "self", func(w Way) bool { return w.State == Up && w.MTU > 60_000 })
}

func TestAddressesThatCantBeUsed(t *testing.T) {
	p, _ := running(t, freePort(t, "127.0.0.1"))
	none := Local{Addr: netip.MustParseAddr("127.0.0.3"), Device: "none", MTU: 1500}
	foreign := Local{Addr: netip.MustParseAddr("192.0.2.77"), Device: "lo", MTU: 1500}
	err := p.SetUnderlay(t.Context(), []Local{none, foreign, loopback(t, "127.0.0.1")})
	qt.Check(t, qt.ErrorMatches(err, `(?s)listen for probes at 127.0.0.3 on device none: .*no such device\nlisten for probes at 192.0.2.77 on device lo: .*`))
	qt.Check(t, qt.Equals(len(p.sockets), 1))
	p.Close()
	qt.Check(t, qt.IsNil(p.SetUnderlay(t.Context(), []Local{loopback(t, "127.0.0.1")})))
	qt.Check(t, qt.Equals(len(p.sockets), 0))
}

func TestDefaults(t *testing.T) {
	qt.Check(t, qt.Equals(New(Options{}).opt.Interval, DefaultInterval))
	for s, want := range map[State]string{Unknown: "unknown", Up: "up", Lossy: "lossy", Down: "down"} {
		qt.Check(t, qt.Equals(s.String(), want))
	}
}
