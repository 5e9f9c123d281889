package control

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/control/message"
)

// authority is the CA of an installation.
type authority struct {
	t    testing.TB
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func newAuthority(tb testing.TB) *authority {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	qt.Assert(tb, qt.IsNil(err))
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	qt.Assert(tb, qt.IsNil(err))
	cert, err := x509.ParseCertificate(der)
	qt.Assert(tb, qt.IsNil(err))
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &authority{t: tb, key: key, cert: cert, pool: pool}
}

// certificate signs one for a host, valid from now for a while.
func (a *authority) certificate(host string, valid time.Duration) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	qt.Assert(a.t, qt.IsNil(err))
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	qt.Assert(a.t, qt.IsNil(err))
	leaf := &x509.Certificate{
		SerialNumber: serial, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(valid),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, a.cert, key.Public(), a.key)
	qt.Assert(a.t, qt.IsNil(err))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) server(host string) *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{a.certificate(host, time.Hour)},
		ClientAuth:   tls.VerifyClientCertIfGiven, ClientCAs: a.pool, MinVersion: tls.VersionTLS13,
	}
}

// client returns the configurations of a host that shows a certificate, or none.
func (a *authority) client(certs ...tls.Certificate) func(host string) *tls.Config {
	return func(host string) *tls.Config {
		return &tls.Config{Certificates: certs, RootCAs: a.pool, ServerName: host, MinVersion: tls.VersionTLS13}
	}
}

func peerOf(cs tls.ConnectionState) (string, bool) {
	if len(cs.PeerCertificates) == 0 {
		return "", false
	}
	return cs.PeerCertificates[0].DNSNames[0], true
}

// logs keeps what was logged.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logs) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// eventually asks again until something is true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func self(host string) message.Self {
	return message.Self{Host: host, Version: "1.2.3", Boot: "boot-of-" + host}
}

// serving is a server and where it listens.
type serving struct {
	*Server

	logs *logs
	addr netip.AddrPort
}

// serve starts a server of host b, which change may change before.
func serve(tb testing.TB, ca *authority, h Handlers, change func(*ServerOptions)) *serving {
	tb.Helper()
	s := &serving{logs: new(logs)}
	o := ServerOptions{Self: self("b"), TLS: ca.server("b"), PeerOf: peerOf, Handlers: h, Log: s.logs.logger()}
	if change != nil {
		change(&o)
	}
	var err error
	s.Server, err = NewServer(tb.Context(), o)
	qt.Assert(tb, qt.IsNil(err))
	s.addr = s.listen(tb)
	return s
}

// listen has a server serve one more address.
func (s *serving) listen(tb testing.TB) netip.AddrPort {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	qt.Assert(tb, qt.IsNil(err))
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	tb.Cleanup(func() {
		s.Close()
		qt.Check(tb, qt.IsNil(<-done))
	})
	return addrPort(ln.Addr())
}

// ask returns what host a asks others with, which change may change before. It knows host b.
func ask(tb testing.TB, ca *authority, change func(*PeersOptions), addrs ...netip.AddrPort) (*Peers, *logs) {
	tb.Helper()
	l := new(logs)
	o := PeersOptions{Self: self("a"), TLS: ca.client(ca.certificate("a", time.Hour)), PeerOf: peerOf, Log: l.logger()}
	if change != nil {
		change(&o)
	}
	p, err := NewPeers(tb.Context(), o)
	qt.Assert(tb, qt.IsNil(err))
	tb.Cleanup(p.Close)
	qt.Assert(tb, qt.IsNil(p.Set("b", to(addrs...))))
	return p, l
}

func to(addrs ...netip.AddrPort) []Address {
	var all []Address
	for i, a := range addrs {
		all = append(all, Address{To: a, Priority: i})
	}
	return all
}

// world is a handler of everything, which counts what it has done.
type world struct {
	mu       sync.Mutex
	done     map[string]int // by what was asked for
	table    message.Table
	greeted  []message.Greeting
	before   func(context.Context) error // is called before anything is done
	lastCall message.Caller
}

func newWorld() *world { return &world{done: make(map[string]int)} }

func (w *world) handlers() Handlers {
	return Handlers{Hosts: w, Owners: w, Channels: w, Joins: w}
}

// do counts something that is done, unless the call has ended before.
func (w *world) do(ctx context.Context, what string, from message.Caller) error {
	w.mu.Lock()
	before := w.before
	w.mu.Unlock()
	if before != nil {
		if err := before(ctx); err != nil {
			return err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	w.lastCall = from
	w.done[what]++
	return nil
}

func (w *world) count(what string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.done[what]
}

// forget has the world have no table any more.
func (w *world) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.table = message.Table{}
}

func (w *world) hold(before func(context.Context) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.before = before
}

func (w *world) Greeted(_ message.Caller, g message.Greeting) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.greeted = append(w.greeted, g)
}

func (w *world) Renew(ctx context.Context, from message.Caller, csr []byte) (message.Credentials, error) {
	return message.Credentials{Chain: append([]byte("chain of "), csr...), Authorities: []byte("ca")}, w.do(ctx, "renew", from)
}

func (w *world) Resolve(ctx context.Context, from message.Caller, network string, a netip.Addr) (message.Owner, error) {
	if a == netip.MustParseAddr("10.77.0.99") {
		return message.Owner{}, &message.NotFoundError{Network: network, Address: a}
	}
	return message.Owner{Host: "b", Epoch: 7, State: message.Held}, w.do(ctx, "resolve", from)
}

func (w *world) Connect(ctx context.Context, from message.Caller, r message.ConnectRequest) (message.Channel, error) {
	switch r.Wanted.Epoch {
	case 98:
		return message.Channel{}, &message.RefusedError{Why: "the host is ending", Hint: "wait"}
	case 99:
		return message.Channel{}, &message.NotOwnerError{Network: r.Network, Address: r.Wanted.Address, Owner: "c", Epoch: 100}
	}
	return channelFor(r.Offers[0], r.Generation), w.do(ctx, "connect", from)
}

func channelFor(o message.Offer, generation uint64) message.Channel {
	return message.Channel{
		Module: o.Module, Local: netip.MustParseAddrPort("192.0.2.2:4789"), Remote: o.Underlay[0],
		MTU: o.MTU, Parameters: []byte("b's"), Generation: generation,
	}
}

func (w *world) Disconnect(ctx context.Context, from message.Caller, _ message.DisconnectRequest) error {
	return w.do(ctx, "disconnect", from)
}

func (w *world) Introduce(ctx context.Context, from message.Caller, _ message.IntroduceRequest) error {
	return w.do(ctx, "introduce", from)
}

func (w *world) Switch(ctx context.Context, from message.Caller, r message.SwitchRequest) (message.Channel, error) {
	return channelFor(r.Offers[0], r.Generation), w.do(ctx, "switch", from)
}

func (w *world) Table(ctx context.Context, from message.Caller, network string) (message.Table, error) {
	w.mu.Lock()
	t := w.table
	w.mu.Unlock()
	t.Network = network
	return t, w.do(ctx, "table", from)
}

func (w *world) Reconcile(ctx context.Context, from message.Caller, theirs message.Table) (message.Table, error) {
	if err := w.do(ctx, "reconcile", from); err != nil {
		return message.Table{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.table = theirs
	return theirs, nil
}

func (w *world) Counters(ctx context.Context, from message.Caller, network string) ([]message.Counters, error) {
	return []message.Counters{{Network: network, Module: "tunnel", BytesIn: 1 << 40, UpFor: time.Hour, IdleFor: time.Second}}, w.do(ctx, "counters", from)
}

func (w *world) Join(ctx context.Context, from message.Caller, r message.JoinRequest) (message.Joined, error) {
	if string(r.Secret) != "secret" {
		return message.Joined{}, &message.RefusedError{Why: "the token is not valid", Hint: "make a new one: snapctl host invite"}
	}
	return message.Joined{
		Credentials:  message.Credentials{Chain: append([]byte("chain of "), r.CSR...), Authorities: []byte("ca")},
		Installation: "i", Directory: []string{"https://192.0.2.1:2379"},
	}, w.do(ctx, "join", from)
}

// connectRequest is one that passes all checks.
func connectRequest() message.ConnectRequest {
	return message.ConnectRequest{
		ID: message.NewID(), Network: "default",
		Source: message.Endpoint{Address: netip.MustParseAddr("10.77.0.2"), Epoch: 3},
		Wanted: message.Endpoint{Address: netip.MustParseAddr("10.77.0.3"), Epoch: 5},
		Offers: []message.Offer{
			{Module: "tunnel", Underlay: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:4789")}, MTU: 1420, Parameters: []byte("a's")},
			{Module: "direct", Underlay: []netip.AddrPort{netip.MustParseAddrPort("[2001:db8::1]:0")}, MTU: 1500},
		},
		Generation: 11,
	}
}

// line returns the first line of a log with all of some words, or "".
func line(log string, words ...string) string {
next:
	for l := range strings.Lines(log) {
		for _, w := range words {
			if !strings.Contains(l, w) {
				continue next
			}
		}
		return l
	}
	return ""
}
