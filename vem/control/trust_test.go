package control

import (
	"context"
	"crypto/tls"
	"errors"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/control/message"
	"github.com/snapctl/snapctl/vem/trust"
)

// trusted returns a host of an installation of package trust.
func trusted(t *testing.T, a *trust.Authority, host string) *trust.Identity {
	t.Helper()
	dir := t.TempDir()
	csr, err := trust.Request(dir)
	qt.Assert(t, qt.IsNil(err))
	chain, err := a.Sign(csr, host)
	qt.Assert(t, qt.IsNil(err))
	id, err := trust.Accept(dir, trust.Grant{Chain: chain, Host: host, CA: a.Fingerprint()}, nil)
	qt.Assert(t, qt.IsNil(err))
	return id
}

func trustPeer(cs tls.ConnectionState) (string, bool) {
	p, ok := trust.PeerOf(cs)
	return p.Host, ok
}

func anybody(trust.Peer) error { return nil }

// joins signs what it is asked to.
type joins struct {
	*world

	a *trust.Authority
}

func (j joins) Join(ctx context.Context, from message.Caller, r message.JoinRequest) (message.Joined, error) {
	chain, err := j.a.Sign(r.CSR, r.Host)
	if err != nil {
		return message.Joined{}, err
	}
	return message.Joined{Credentials: message.Credentials{Chain: chain}, Installation: string(j.a.Installation())}, j.do(ctx, "join", from)
}

func (j joins) Renew(ctx context.Context, from message.Caller, csr []byte) (message.Credentials, error) {
	p, ok := trust.PeerOf(*from.TLS)
	if !ok {
		return message.Credentials{}, errors.New("no certificate")
	}
	chain, err := j.a.Renew(csr, p)
	if err != nil {
		return message.Credentials{}, err
	}
	return message.Credentials{Chain: chain}, j.do(ctx, "renew", from)
}

// The hosts of package trust talk to each other: one joins, calls, renews, and is removed.
func TestTrust(t *testing.T) {
	authority, err := trust.CreateAuthority(t.TempDir(), trust.AuthorityOptions{})
	qt.Assert(t, qt.IsNil(err))
	b := trusted(t, authority, "b")
	removed := make(chan struct{})
	check := func(trust.Peer) error {
		select {
		case <-removed:
			return trust.ErrRemoved
		default:
			return nil
		}
	}
	w := joins{newWorld(), authority}
	s := serve(t, newAuthority(t), Handlers{Channels: w, Hosts: w, Joins: w}, func(o *ServerOptions) {
		o.TLS, o.PeerOf, o.Explain = b.Server(check), trustPeer, b.Explain
	})

	token, _, err := trust.NewToken(authority.Fingerprint(), "b", time.Now(), time.Hour)
	qt.Assert(t, qt.IsNil(err))
	dir := t.TempDir()
	csr, err := trust.Request(dir)
	qt.Assert(t, qt.IsNil(err))
	got, err := Join(t.Context(), JoinOptions{Addresses: to(s.addr), TLS: trust.JoinClient(token, nil)}, message.JoinRequest{
		TokenID: string(token.ID), Secret: []byte("secret"), Host: "a", CSR: csr, Version: "1", Addresses: []message.HostAddress{{AddrPort: s.addr}},
	})
	qt.Assert(t, qt.IsNil(err))
	a, err := trust.Accept(dir, trust.Grant{Chain: got.Chain, Host: "a", CA: authority.Fingerprint()}, nil)
	qt.Assert(t, qt.IsNil(err))

	p, _ := ask(t, newAuthority(t), func(o *PeersOptions) {
		o.TLS = func(host string) *tls.Config { return a.Client(host, anybody) }
		o.PeerOf, o.Explain = trustPeer, a.Explain
	}, s.addr)
	_, err = p.Connect(t.Context(), "b", connectRequest())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(w.lastCall.Host, "a"))
	cr, err := p.Renew(t.Context(), "b", message.ID{}, csr)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(len(cr.Chain) > 0))

	// Whoever answers for another host is found out.
	qt.Assert(t, qt.IsNil(p.Set("c", to(s.addr))))
	_, err = p.Connect(t.Context(), "c", connectRequest())
	qt.Check(t, qt.ErrorIs(err, trust.ErrWrongHost))

	close(removed)
	s.Drop("a")
	eventually(t, "it is refused", func() bool {
		_, err = p.Connect(t.Context(), "b", connectRequest())
		return errors.Is(err, trust.ErrRejected)
	})
	var unreachable *UnreachableError
	qt.Assert(t, qt.ErrorAs(err, &unreachable))
	eventually(t, "a log", func() bool { return line(s.logs.String(), `host \"a\" is refused`, trust.ErrRemoved.Error()) != "" })
}
