package trust

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
)

// unsigned is what a host that joins by a token of a connects with.
func unsigned(t *testing.T, a *Authority) *tls.Config {
	t.Helper()
	token, _, err := NewToken(a.Fingerprint(), "a", noon, time.Hour)
	qt.Assert(t, qt.IsNil(err))
	return JoinClient(token, newWatch(noon).now)
}

// trusting is a client that takes every server, and shows a certificate.
func trusting(c tls.Certificate) *tls.Config {
	return &tls.Config{
		InsecureSkipVerify:   true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c, nil },
	}
}

// forge has a CA sign whatever a test wants.
func forge(t *testing.T, ca pair, change func(*x509.Certificate)) pair {
	t.Helper()
	key, err := newKey()
	qt.Assert(t, qt.IsNil(err))
	id := fingerprint(ca.chain[0].RawSubjectPublicKeyInfo).Installation()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "forged", SerialNumber: Fingerprint{}.String()},
		URIs:                  []*url.URL{hostURI(id, "forged")},
		DNSNames:              []string{id.ServerName()},
		NotBefore:             noon.Add(-backdate),
		NotAfter:              noon.Add(DefaultLife),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	change(template)
	der, err := x509.CreateCertificate(rand.Reader, template, ca.chain[0], key.Public(), ca.key)
	qt.Assert(t, qt.IsNil(err))
	cert, err := x509.ParseCertificate(der)
	qt.Assert(t, qt.IsNil(err))
	return pair{key, append([]*x509.Certificate{cert}, ca.chain...)}
}

// namesake makes a CA with the name of another one, and a key of its own.
func namesake(t *testing.T, a *Authority) pair {
	t.Helper()
	key, err := newKey()
	qt.Assert(t, qt.IsNil(err))
	cert, err := selfSign(key, a.id, noon)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(cert.RawSubject, a.ca.chain[0].RawSubject))
	return pair{key, []*x509.Certificate{cert}}
}

func TestMembersMeet(t *testing.T) {
	ca := newAuthority(t)
	a, b := newMember(t, ca, "a"), newMember(t, ca, "b")
	for name, client := range map[string]*tls.Config{"by name": b.Client("a", all), "whoever it is": b.ClientOfAny(all)} {
		t.Run(name, func(t *testing.T) {
			m := meet(t, a.Server(all), client)
			qt.Assert(t, qt.IsNil(errors.Join(m.server, m.client)))
			at, ok := PeerOf(m.atServer)
			qt.Assert(t, qt.IsTrue(ok))
			qt.Assert(t, qt.DeepEquals(at, b.peer))
			qt.Assert(t, qt.Equals(at.Host, "b"))
			qt.Assert(t, qt.Equals(at.Installation, ca.Installation()))
			qt.Assert(t, qt.IsTrue(at.Issued.Equal(noon)))
			qt.Assert(t, qt.IsTrue(at.Expires.Equal(noon.Add(DefaultLife))))
			at, ok = PeerOf(m.atClient)
			qt.Assert(t, qt.IsTrue(ok))
			qt.Assert(t, qt.DeepEquals(at, a.peer))
			qt.Assert(t, qt.Equals(m.atClient.Version, tls.VersionTLS13))
		})
	}
}

func TestJoinerMeetsMember(t *testing.T) {
	ca := newAuthority(t)
	m := meet(t, newMember(t, ca, "a").Server(all), unsigned(t, ca))
	qt.Assert(t, qt.IsNil(errors.Join(m.server, m.client)))
	_, ok := PeerOf(m.atServer)
	qt.Assert(t, qt.IsFalse(ok))
}

// TestRefused has connections fail, and looks at what both logs say.
func TestRefused(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	a, b, foreign := newMember(t, ca, "a"), newMember(t, ca, "b"), newMember(t, other, "b")
	at := func(offset time.Duration) *Identity { return join(t, ca, "c", newWatch(noon.Add(offset))) }
	late, slow := at(DefaultLife+2*time.Hour), at(-2*time.Hour)
	removed := func(p Peer) error {
		if p.Host == "b" {
			return ErrRemoved
		}
		return nil
	}
	forged := func(ca pair, change func(*x509.Certificate)) *tls.Config {
		return trusting(*forge(t, ca, change).tls())
	}
	as := func(p pair, server *Identity) *tls.Config {
		cfg := server.Server(all)
		cfg.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p.tls(), nil }
		return cfg
	}
	old := func(cfg *tls.Config) *tls.Config {
		cfg.MinVersion, cfg.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
		return cfg
	}
	never := func(*x509.Certificate) {}
	type end struct {
		is   []error
		says string
	}
	rejected := end{[]error{ErrRejected}, "the log of the other end has more"}
	for name, c := range map[string]struct {
		at             *Identity // whose server it is
		server, client *tls.Config
		atServer       end
		atClient       end
	}{
		"a client of another installation": {
			a, a.Server(all), trusting(*foreign.current.Load()),
			end{[]error{ErrStranger}, `host "b" is a stranger`},
			end{[]error{ErrRejected, ErrStranger}, "does not know the CA"},
		},
		"a server of another installation": {
			a, a.Server(all), foreign.Client("a", all),
			rejected,
			end{[]error{ErrStranger}, `host "a" is a stranger`},
		},
		"a client of a CA with the same name": {
			a, a.Server(all), forged(namesake(t, ca), never),
			end{[]error{ErrStranger}, "is a stranger"},
			end{[]error{ErrRejected, ErrStranger}, "does not know the CA"},
		},
		"a server of a CA with the same name": {
			a, as(forge(t, namesake(t, ca), never), a), b.Client("forged", all),
			rejected,
			end{[]error{ErrStranger}, "is a stranger"},
		},
		"a token of another installation": {
			a, a.Server(all), unsigned(t, other),
			rejected,
			end{[]error{ErrStranger}, "not of installation " + string(other.Installation())},
		},
		"a token and a CA with the same name": {
			a, as(forge(t, namesake(t, ca), never), a), unsigned(t, ca),
			rejected,
			end{[]error{ErrStranger}, "not of installation"},
		},
		"a token and a certificate of somebody else before the right CA": {
			a, as(pair{privateKey(b), append(forge(t, namesake(t, ca), never).chain[:1], ca.ca.chain...)}, a), unsigned(t, ca),
			rejected,
			end{[]error{ErrStranger}, "is a stranger"},
		},
		"a client that has expired": {
			late, late.Server(all), b.Client("c", all),
			end{[]error{ErrExpired}, `the certificate of host "b" was valid until 2026-12-30T12:00:00Z, and the clock of this host says 2026-12-30T14:00:00Z`},
			end{[]error{ErrRejected, ErrExpired}, "valid from 2026-11-30T10:59:00Z until 2026-12-30T12:00:00Z, and the clock of this host says 2026-11-30T12:00:00Z"},
		},
		"a server that has expired": {
			a, a.Server(all), late.Client("a", all),
			rejected,
			end{[]error{ErrExpired}, `the certificate of host "a" was valid until`},
		},
		"a client, and a server whose clock is behind": {
			slow, slow.Server(all), b.Client("c", all),
			end{[]error{ErrClock}, `the clock of this host says 2026-11-30T10:00:00Z, and that of the host that signed the certificate of host "b" said 2026-11-30T12:00:00Z`},
			end{[]error{ErrRejected, ErrExpired}, "compare the clocks"},
		},
		"a client whose clock is behind": {
			a, a.Server(all), slow.Client("a", all),
			rejected,
			end{[]error{ErrClock}, "the clock of this host says 2026-11-30T10:00:00Z"},
		},
		"another host than was called": {
			a, a.Server(all), b.Client("c", all),
			rejected,
			end{[]error{ErrWrongHost}, `host "c" was called, and host "a" answers`},
		},
		"no host was called": {
			a, a.Server(all), b.Client("", all),
			rejected,
			end{[]error{ErrWrongHost}, `host "a" answers`},
		},
		"a client that was removed": {
			a, a.Server(removed), b.Client("a", all),
			end{[]error{ErrRefused, ErrRemoved}, `host "b" is refused: it was removed from the installation`},
			end{[]error{ErrRejected}, "this host was removed"},
		},
		"a server that was removed": {
			b, b.Server(all), a.Client("b", removed),
			rejected,
			end{[]error{ErrRefused, ErrRemoved}, `host "b" is refused: it was removed`},
		},
		"a client with TLS 1.2": {
			a, a.Server(all), old(b.Client("a", all)),
			end{[]error{ErrProtocol}, "does not speak TLS 1.3"},
			end{[]error{ErrRejected, ErrProtocol}, "does not speak TLS 1.3"},
		},
		"a server with TLS 1.2": {
			a, old(a.Server(all)), b.Client("a", all),
			end{[]error{ErrProtocol}, ""},
			end{[]error{ErrProtocol}, "does not speak TLS 1.3"},
		},
		"the certificate of a CA": {
			a, a.Server(all), trusting(*ca.ca.tls()),
			end{[]error{ErrNotHost}, "it is the certificate of a CA"},
			rejected,
		},
		"two names": {
			a, a.Server(all), forged(ca.ca, func(c *x509.Certificate) { c.URIs = append(c.URIs, hostURI(ca.id, "a")) }),
			end{[]error{ErrNotHost}, "its names are not one URI"},
			rejected,
		},
		"two DNS names": {
			a, a.Server(all), forged(ca.ca, func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, c.DNSNames[0]) }),
			end{[]error{ErrNotHost}, "its names are not one URI and one DNS name"},
			rejected,
		},
		"no DNS name": {
			a, a.Server(all), forged(ca.ca, func(c *x509.Certificate) { c.DNSNames = nil }),
			end{[]error{ErrNotHost}, "its names are not one URI and one DNS name"},
			rejected,
		},
		"another DNS name of the installation": {
			a, a.Server(all), forged(ca.ca, func(c *x509.Certificate) { c.DNSNames = []string{"a." + ca.id.domain()} }),
			end{[]error{ErrNotHost}, "its DNS name is"},
			rejected,
		},
		"a DNS name of somebody else": {
			a, a.Server(all), forged(ca.ca, func(c *x509.Certificate) { c.DNSNames = []string{"example.net"} }),
			end{[]error{ErrNotHost}, "not permitted"},
			rejected,
		},
		"no name": {
			a, a.Server(all), forged(ca.ca, func(c *x509.Certificate) { c.URIs = nil }),
			end{[]error{ErrNotHost}, "its names are not one URI"},
			rejected,
		},
		"the name of no host": {
			a, a.Server(all), forged(ca.ca, func(c *x509.Certificate) { c.URIs[0].Path = "/directory/a" }),
			end{[]error{ErrNotHost}, "is not that of a host"},
			rejected,
		},
		"a name that is written otherwise": {
			a, a.Server(all), forged(ca.ca, func(c *x509.Certificate) { c.URIs[0].RawQuery = "x" }),
			end{[]error{ErrNotHost}, "is not that of a host"},
			rejected,
		},
		"a name that no host may have": {
			a, a.Server(all), forged(ca.ca, func(c *x509.Certificate) { c.URIs[0].Path = "/host/a/b" }),
			end{[]error{ErrNotHost}, "letters a to z"},
			rejected,
		},
		"a name in another installation": {
			a, a.Server(all), forged(ca.ca, func(c *x509.Certificate) { c.URIs[0] = hostURI(other.id, "a") }),
			end{[]error{ErrNotHost}, "not permitted"},
			rejected,
		},
		"no member ID": {
			a, a.Server(all), forged(ca.ca, func(c *x509.Certificate) { c.Subject.SerialNumber = "7" }),
			end{[]error{ErrNotHost}, "no installation or member ID"},
			rejected,
		},
		"a certificate for servers only": {
			a, a.Server(all), forged(ca.ca, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] }),
			end{[]error{ErrNotHost}, "incompatible key usage"},
			rejected,
		},
		"a certificate for clients only": {
			a, as(forge(t, ca.ca, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }), a), b.Client("forged", all),
			rejected,
			end{[]error{ErrNotHost}, "incompatible key usage"},
		},
		"a host that signs for others": {
			a, a.Server(all), forged(pair{privateKey(b), []*x509.Certificate{b.current.Load().Leaf}}, func(c *x509.Certificate) { c.URIs[0] = hostURI(ca.id, "a") }),
			end{[]error{ErrStranger}, "is a stranger"},
			rejected,
		},
		"a CA below the CA": {
			a, a.Server(all), forged(forge(t, ca.ca, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign }), func(c *x509.Certificate) { c.URIs[0] = hostURI(ca.id, "a") }),
			end{[]error{ErrNotHost}, "too many intermediates"},
			rejected,
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := meet(t, c.server, c.client)
			check := func(side string, err error, want end) {
				t.Logf("%s: %v", side, err)
				qt.Assert(t, qt.IsNotNil(err), qt.Commentf(side))
				for _, is := range want.is {
					qt.Check(t, qt.ErrorIs(err, is), qt.Commentf(side))
				}
				qt.Check(t, qt.StringContains(err.Error(), want.says), qt.Commentf(side))
			}
			check("server", c.at.Explain(m.server), c.atServer)
			check("client", b.Explain(m.client), c.atClient)
		})
	}
}

// TestClocks has hosts meet whose clocks differ by as much as they may.
func TestClocks(t *testing.T) {
	ca := newAuthority(t)
	a := newMember(t, ca, "a")
	for _, offset := range []time.Duration{-MaxSkew, MaxSkew} {
		b := join(t, ca, "b", newWatch(noon.Add(offset)))
		m := meet(t, a.Server(all), b.Client("a", all))
		qt.Assert(t, qt.IsNil(errors.Join(m.server, m.client)))
		m = meet(t, b.Server(all), a.Client("b", all))
		qt.Assert(t, qt.IsNil(errors.Join(m.server, m.client)))
	}
}

// TestRemovedAtNextHandshake has a host removed while it is connected.
func TestRemovedAtNextHandshake(t *testing.T) {
	ca := newAuthority(t)
	a, b := newMember(t, ca, "a"), newMember(t, ca, "b")
	gone := false
	server := a.Server(func(Peer) error {
		if gone {
			return ErrRemoved
		}
		return nil
	})
	client := b.Client("a", all)
	client.ClientSessionCache = tls.NewLRUClientSessionCache(8) // one that would resume if it could
	for range 3 {
		m := meet(t, server, client)
		qt.Assert(t, qt.IsNil(errors.Join(m.server, m.client)))
		qt.Assert(t, qt.IsFalse(m.atClient.DidResume))
	}
	gone = true
	m := meet(t, server, client)
	qt.Assert(t, qt.ErrorIs(a.Explain(m.server), ErrRemoved))
	qt.Assert(t, qt.ErrorIs(b.Explain(m.client), ErrRejected))
}
