package member_test

import (
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv/cluster"
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

func everybody(trust.Peer) error { return nil }

// The members of the cluster, and its clients, have the certificates of hosts, which name no
// address. A host of another installation is refused, and refuses.
func TestCertificatesOfTheInstallation(t *testing.T) {
	ca, err := trust.CreateAuthority(t.TempDir(), trust.AuthorityOptions{})
	qt.Assert(t, qt.IsNil(err))
	in := cluster.NewWith(t, 3, func(h *cluster.Host) {
		id := identity(t, ca, h.Config.Name)
		files, err := id.Files()
		qt.Assert(t, qt.IsNil(err))
		both := &member.TLS{CertFile: files.Pair, KeyFile: files.Pair, CAFile: files.CA, ServerName: files.ServerName}
		h.Config.ClientTLS, h.Config.PeerTLS = both, both
		h.Client = id.ClientOfAny(everybody)
	})
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
