package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/control"
	"github.com/snapctl/snapctl/vem/control/message"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/memory"
	"github.com/snapctl/snapctl/vem/membership"
	"github.com/snapctl/snapctl/vem/trust"
)

// host is a host with a control channel on loopback, once it is in an installation.
type host struct {
	*membership.Membership
	name   string
	store  *memory.Server
	gate   *Gate
	peers  *control.Peers
	server *control.Server
	at     netip.AddrPort
}

func newHost(t *testing.T, store *memory.Server, name string) *host {
	t.Helper()
	h := &host{name: name, store: store, gate: &Gate{Version: "1.0", Now: time.Now}}
	m, err := membership.Open(t.Context(), membership.Options{
		Dir: filepath.Join(t.TempDir(), "m"), Self: directory.Host{Release: "1.0", Protocols: [2]int{1, 1}},
		Port: control.DefaultPort, Directories: h, Gate: h.gate, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Addresses: func() ([]membership.Address, error) {
			return []membership.Address{{Addr: netip.MustParseAddr("192.0.2.7")}}, nil
		},
		Removed: func(name string) { h.server.Drop(name) },
	})
	qt.Assert(t, qt.IsNil(err))
	h.Membership = m
	return h
}

func (h *host) Make(context.Context, *trust.Identity, []string) (directory.Store, []string, error) {
	return h.store.Open(), []string{"https://192.0.2.7:2379"}, nil
}

func (h *host) Open(context.Context, *trust.Identity, []string) (directory.Store, error) {
	return h.store.Open(), nil
}

// desk is all that these hosts answer.
type desk struct{ Desk }

func (*desk) Greeted(message.Caller, message.Greeting) {}

// check asks the directory, which a real host has in memory.
func (h *host) check(t *testing.T) trust.Check {
	t.Helper()
	return membership.Check(func(name string) (directory.Host, bool) {
		d, err := h.Directory(context.WithoutCancel(t.Context()))
		if err != nil {
			return directory.Host{}, false
		}
		entry, err := d.Host(context.WithoutCancel(t.Context()), name)
		return entry, err == nil
	})
}

func peerOf(cs tls.ConnectionState) (string, bool) {
	p, ok := trust.PeerOf(cs)
	return p.Host, ok
}

// serve opens the control channel.
func (h *host) serve(t *testing.T) {
	t.Helper()
	self := message.Self{Host: h.name, Version: "1.0", Boot: "1"}
	id, log := h.Identity(), slog.New(slog.NewTextHandler(t.Output(), nil))
	d := &desk{Desk{h.Membership}}
	var err error
	h.server, err = control.NewServer(t.Context(), control.ServerOptions{
		Self: self, TLS: id.Server(h.check(t)), PeerOf: peerOf, Explain: id.Explain, Log: log,
		Handlers: control.Handlers{Joins: d, Hosts: d},
	})
	qt.Assert(t, qt.IsNil(err))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	qt.Assert(t, qt.IsNil(err))
	h.at = netip.MustParseAddrPort(l.Addr().String())
	done := make(chan error)
	go func() { done <- h.server.Serve(l) }()
	t.Cleanup(func() { h.server.Close(); qt.Check(t, qt.IsNil(<-done)) })
	h.peers, err = control.NewPeers(t.Context(), control.PeersOptions{
		Self: self, TLS: func(host string) *tls.Config { return id.Client(host, h.check(t)) },
		PeerOf: peerOf, Explain: id.Explain, Log: log,
	})
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(h.peers.Close)
}

func (h *host) invite(t *testing.T) string {
	t.Helper()
	i, err := h.Invite(t.Context(), time.Hour)
	qt.Assert(t, qt.IsNil(err))
	return i.Token
}

func (h *host) join(t *testing.T, at, token string) error {
	t.Helper()
	_, err := h.Join(t.Context(), membership.JoinRequest{Place: membership.Place{Name: h.name}, At: at, Token: token})
	return err
}

// TestJoinAndRenew is what the first two hosts of an installation do, over real control channels.
func TestJoinAndRenew(t *testing.T) {
	store := memory.New()
	a, b, c := newHost(t, store, "a"), newHost(t, store, "b"), newHost(t, store, "c")
	_, err := a.Init(t.Context(), membership.InitRequest{Place: membership.Place{Name: "a"}})
	qt.Assert(t, qt.IsNil(err))
	a.serve(t)
	token := a.invite(t)
	qt.Assert(t, qt.IsNil(b.join(t, a.at.String(), token)))
	b.serve(t)
	qt.Assert(t, qt.Equals(b.Identity().Installation(), a.Identity().Installation()))

	// A token works once, and what is wrong reaches the host that joins.
	var refused *message.RefusedError
	err = c.join(t, a.at.String(), token)
	qt.Assert(t, qt.ErrorAs(err, &refused))
	qt.Assert(t, qt.ErrorMatches(err, ".*the token was used already.*by host b.*"))
	// A host without the CA says so.
	err = c.join(t, b.at.String(), a.invite(t))
	qt.Assert(t, qt.ErrorMatches(err, ".*host b does not have the CA of the installation.*"))
	// Nor does a host join where it was not invited.
	other := newHost(t, memory.New(), "z")
	_, err = other.Init(t.Context(), membership.InitRequest{Place: membership.Place{Name: "z"}})
	qt.Assert(t, qt.IsNil(err))
	other.serve(t)
	err = c.join(t, other.at.String(), a.invite(t))
	qt.Assert(t, qt.ErrorIs(err, trust.ErrStranger))

	b.gate.Peers = func() Renewer { return b.peers }
	b.gate.Hosts = func() []string { return []string{"a"} }
	qt.Assert(t, qt.IsNil(b.peers.Set("a", []control.Address{{To: a.at}})))
	before := b.Identity().RenewAt()
	renew := func() error { return b.Identity().Renew(t.Context(), b.gate.Renew) }
	qt.Assert(t, qt.IsNil(renew()))
	qt.Assert(t, qt.IsFalse(b.Identity().RenewAt().Equal(before)))

	// A host that was removed is cut off at once, and gets nothing any more.
	qt.Assert(t, qt.IsNil(a.Remove(t.Context(), "b", false)))
	var cut *control.UnreachableError
	qt.Assert(t, qt.ErrorAs(renew(), &cut))
	qt.Assert(t, qt.ErrorIs(cut, trust.ErrRejected))
	qt.Assert(t, qt.Equals(cut.Remedy(), "")) // and not that a port may be closed
}

func TestResolve(t *testing.T) {
	for at, want := range map[string]string{
		"127.0.0.1": "127.0.0.1:7077", "127.0.0.1:1": "127.0.0.1:1", "[::1]:8": "[::1]:8", "::1": "[::1]:7077",
	} {
		got, err := resolve(t.Context(), at)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.HasLen(got, 1))
		qt.Assert(t, qt.Equals(got[0].To.String(), want))
	}
	_, err := resolve(t.Context(), "127.0.0.1:70000")
	qt.Assert(t, qt.ErrorMatches(err, ".*no number up to 65535"))
}

func TestRenewWithoutHosts(t *testing.T) {
	for _, g := range []*Gate{{}, {Peers: func() Renewer { return nil }, Hosts: func() []string { return nil }}} {
		_, err := g.Renew(t.Context(), nil)
		qt.Assert(t, qt.ErrorMatches(err, "this host knows no other host.*"))
	}
	qt.Assert(t, qt.ErrorMatches(refused(errors.New("no")), "no"))
	_, err := new(Desk).Renew(t.Context(), message.Caller{}, nil)
	qt.Assert(t, qt.ErrorMatches(err, "no certificate of a host came"))
	_, err = new(Desk).Join(t.Context(), message.Caller{}, message.JoinRequest{})
	qt.Assert(t, qt.ErrorMatches(err, "(?s)not a token.*"))
}
