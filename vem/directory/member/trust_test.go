package member_test

import (
	"context"
	"crypto/tls"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv/cluster"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/etcd"
	"github.com/snapctl/snapctl/vem/directory/member"
	"github.com/snapctl/snapctl/vem/trust"
)

// identity is a host of an installation with the CA.
func identity(t *testing.T, ca *trust.Authority, host string) *trust.Identity {
	t.Helper()
	dir := t.TempDir()
	csr, err := trust.Request(dir)
	qt.Assert(t, qt.IsNil(err))
	chain, err := ca.Sign(csr, host)
	qt.Assert(t, qt.IsNil(err))
	id, err := trust.Accept(dir, trust.Grant{Chain: chain, Host: host, CA: ca.Fingerprint()}, time.Now)
	qt.Assert(t, qt.IsNil(err))
	return id
}

// guarded gives a host's member a guard, and the certificate of a host.
func guarded(t *testing.T, ca *trust.Authority, h *cluster.Host) {
	t.Helper()
	id := identity(t, ca, h.Config.Name)
	files, err := id.Files()
	qt.Assert(t, qt.IsNil(err))
	both := &member.TLS{CertFile: files.Pair, KeyFile: files.Pair, CAFile: files.CA, ServerName: files.ServerName, Installation: string(ca.Installation())}
	h.Config.ClientTLS, h.Config.PeerTLS = both, both
	h.Client = id.ClientOfAny(everybody)
}

func everybody(trust.Peer) error { return nil }

// The members of the cluster, and its clients, have the certificates of hosts, which name no
// address. A host of another installation is refused, and refuses.
func TestCertificatesOfTheInstallation(t *testing.T) {
	ca, err := trust.CreateAuthority(t.TempDir(), trust.AuthorityOptions{})
	qt.Assert(t, qt.IsNil(err))
	in := cluster.NewWith(t, 3, func(h *cluster.Host) { guarded(t, ca, h) })
	ctx := cluster.Ctx(t)
	opt := etcd.Options{Endpoints: in.Endpoints(), TLS: in.Hosts[0].Client, Prefix: "test", Log: in.Log}
	s, err := etcd.Open(ctx, opt)
	qt.Assert(t, qt.IsNil(err))
	put(t, s, "a", "1")
	qt.Check(t, qt.IsNil(s.Close()))
	st, err := in.Hosts[0].Status(ctx)
	qt.Assert(t, qt.IsNil(err))
	for _, p := range st.Members {
		qt.Check(t, qt.IsTrue(p.Answers), qt.Commentf("%+v", p))
	}

	foreign, err := trust.CreateAuthority(t.TempDir(), trust.AuthorityOptions{})
	qt.Assert(t, qt.IsNil(err))
	opt.TLS = identity(t, foreign, "host1").ClientOfAny(everybody)
	_, err = etcd.Open(ctx, opt)
	t.Log(err)
	qt.Check(t, qt.ErrorIs(err, etcd.ErrTrust))
}

// A host that was removed is refused at once at both ports, and its connections end.
func TestARemovedHostIsRefused(t *testing.T) {
	ca, err := trust.CreateAuthority(t.TempDir(), trust.AuthorityOptions{})
	qt.Assert(t, qt.IsNil(err))
	in := cluster.NewWith(t, 1, func(h *cluster.Host) { guarded(t, ca, h) })
	ctx, first := cluster.Ctx(t), in.Hosts[0]
	opt := etcd.Options{Endpoints: in.Endpoints(), TLS: first.Client, Prefix: member.StorePrefix, Log: in.Log}
	s, err := etcd.Open(ctx, opt)
	qt.Assert(t, qt.IsNil(err))
	defer s.Close()
	d, err := directory.Init(ctx, s, string(ca.Installation()), "host1", time.Now())
	qt.Assert(t, qt.IsNil(err))
	other := identity(t, ca, "b")
	_, err = d.PutHost(ctx, directory.Host{Name: "b", Key: string(other.Member())})
	qt.Assert(t, qt.IsNil(err))

	opt.TLS = other.ClientOfAny(everybody)
	theirs, err := etcd.Open(ctx, opt)
	qt.Assert(t, qt.IsNil(err))
	defer theirs.Close()
	var open []*tls.Conn
	ports := map[string]string{first.Config.ListenClient[0]: "h2", first.Config.ListenPeer[0]: "http/1.1"}
	dial := func(url, protocol string) (*tls.Conn, error) {
		conf := other.ClientOfAny(everybody)
		if protocol == "h2" {
			conf.NextProtos = []string{protocol}
		}
		c, err := (&tls.Dialer{Config: conf}).DialContext(ctx, "tcp", strings.TrimPrefix(url, "https://"))
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		// etcd says nothing before its client has.
		hello := "GET /version HTTP/1.1\r\nHost: a\r\n\r\n"
		if protocol == "h2" {
			hello = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" // RFC 9113, 3.4
		}
		_, _ = io.WriteString(c, hello)
		_, err = c.Read(make([]byte, 1))
		return c.(*tls.Conn), err
	}
	for url, protocol := range ports {
		c, err := dial(url, protocol)
		qt.Assert(t, qt.IsNil(err), qt.Commentf("%s", url))
		open = append(open, c)
	}

	qt.Assert(t, qt.IsNil(d.RemoveHost(ctx, "b")))
	for _, c := range open {
		_, err := io.Copy(io.Discard, c)
		qt.Check(t, qt.Not(qt.ErrorIs(err, os.ErrDeadlineExceeded)))
	}
	for url, protocol := range ports {
		_, err := dial(url, protocol)
		qt.Check(t, qt.ErrorMatches(err, "remote error: tls: .*"), qt.Commentf("%s", url))
	}
	_, err = etcd.Open(ctx, opt)
	qt.Check(t, qt.ErrorIs(err, etcd.ErrTrust))
	short, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err = theirs.Get(short, "any")
	qt.Check(t, qt.ErrorIs(err, directory.ErrUnavailable))

	// A member that was started anew knows who was removed, before it lets anybody in.
	qt.Assert(t, qt.IsNil(first.Stop(ctx)))
	qt.Assert(t, qt.IsNil(first.Start(ctx)))
	_, err = etcd.Open(ctx, opt)
	qt.Check(t, qt.ErrorIs(err, etcd.ErrTrust))
	_, err = d.Hosts(ctx)
	qt.Check(t, qt.IsNil(err))
}
