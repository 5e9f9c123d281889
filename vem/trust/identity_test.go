package trust

import (
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
)

func grant(t *testing.T, a *Authority, dir, host string) Grant {
	t.Helper()
	csr, err := Request(dir)
	qt.Assert(t, qt.IsNil(err))
	chain, err := a.Sign(csr, host)
	qt.Assert(t, qt.IsNil(err))
	return Grant{Chain: chain, Host: host, CA: a.Fingerprint()}
}

func TestAccept(t *testing.T) {
	ca, dir, w := newAuthority(t), filepath.Join(t.TempDir(), "id"), newWatch(noon)
	_, err := Open(dir, w.now)
	qt.Assert(t, qt.ErrorIs(err, fs.ErrNotExist))
	g := grant(t, ca, dir, "b")
	_, err = Open(dir, w.now)
	qt.Assert(t, qt.ErrorIs(err, fs.ErrNotExist))
	b, err := Accept(dir, g, w.now)
	qt.Assert(t, qt.IsNil(err))
	check := func(i *Identity) {
		t.Helper()
		qt.Assert(t, qt.Equals(i.Host(), "b"))
		qt.Assert(t, qt.Equals(i.Installation(), ca.Installation()))
		qt.Assert(t, qt.Equals(i.CA(), ca.Fingerprint()))
		qt.Assert(t, qt.Matches(string(i.Member()), "[0-9a-f]{64}"))
		qt.Assert(t, qt.IsTrue(i.Expires().Equal(noon.Add(DefaultLife))))
	}
	check(b)
	qt.Assert(t, qt.DeepEquals(names(t, dir), []string{identityFile}))
	info, err := os.Stat(filepath.Join(dir, identityFile))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(info.Mode().Perm(), 0o600))
	again, err := Accept(dir, g, w.now) // its answer was lost, say
	qt.Assert(t, qt.IsNil(err))
	check(again)
	w.set(noon.Add(DefaultLife * 2)) // one that has expired opens as well
	again, err = Open(dir, w.now)
	qt.Assert(t, qt.IsNil(err))
	check(again)
}

func TestRequestKeepsItsKey(t *testing.T) {
	dir := t.TempDir()
	key := func() *x509.CertificateRequest {
		csr, err := Request(dir)
		qt.Assert(t, qt.IsNil(err))
		req, err := parseRequest(csr)
		qt.Assert(t, qt.IsNil(err))
		return req
	}
	first := key()
	qt.Assert(t, qt.DeepEquals(key().RawSubjectPublicKeyInfo, first.RawSubjectPublicKeyInfo))
	qt.Assert(t, qt.IsNil(os.Remove(filepath.Join(dir, requestFile))))
	qt.Assert(t, qt.IsFalse(string(key().RawSubjectPublicKeyInfo) == string(first.RawSubjectPublicKeyInfo)))
	write(t, dir, requestFile, []byte("x"))
	_, err := Request(dir)
	qt.Assert(t, qt.ErrorIs(err, ErrDamaged))
	qt.Assert(t, qt.ErrorMatches(err, ".*request.pem is damaged.*"))
}

func TestAcceptRefuses(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	foreign := grant(t, other, t.TempDir(), "b")
	of := func(p pair) []byte { return append(append([]byte(nil), p.chain[0].Raw...), p.chain[1].Raw...) }
	for name, c := range map[string]struct {
		change func(*Grant)
		clock  time.Duration
		is     error
		says   string
	}{
		"nothing":               {func(g *Grant) { g.Chain = nil }, 0, ErrDamaged, "0 have come"},
		"garbage":               {func(g *Grant) { g.Chain = []byte("garbage") }, 0, ErrDamaged, "malformed"},
		"too much":              {func(g *Grant) { g.Chain = make([]byte, 1<<20) }, 0, ErrDamaged, "may have 16384"},
		"cut short":             {func(g *Grant) { g.Chain = g.Chain[:len(g.Chain)-1] }, 0, ErrDamaged, ""},
		"another installation":  {func(g *Grant) { g.Chain = foreign.Chain }, 0, ErrStranger, "not the CA of installation " + string(ca.id)},
		"another CA's token":    {func(g *Grant) { g.CA = foreign.CA }, 0, ErrStranger, "not the CA of installation " + string(other.id)},
		"another name":          {func(g *Grant) { g.Host = "c" }, 0, ErrWrongHost, `asked for the name "c", and has got the certificate of host "b"`},
		"another key":           {func(g *Grant) { g.Chain = grant(t, ca, t.TempDir(), "b").Chain }, 0, ErrDamaged, "another key"},
		"a CA of the same name": {func(g *Grant) { g.Chain = of(forge(t, namesake(t, ca), func(*x509.Certificate) {})) }, 0, ErrStranger, ""},
		"forged below the right CA": {func(g *Grant) {
			g.Chain = append(append([]byte(nil), forge(t, namesake(t, ca), func(*x509.Certificate) {}).chain[0].Raw...), ca.ca.chain[0].Raw...)
		}, 0, ErrStranger, "is a stranger"},
		"this clock is behind":       {nil, -2 * time.Hour, ErrClock, "set the clock that is wrong"},
		"this clock is ahead":        {nil, 2 * time.Hour, ErrClock, "set the clock that is wrong"},
		"this clock is a year ahead": {nil, 365 * 24 * time.Hour, ErrClock, "the clock of this host says 2027"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, w := t.TempDir(), newWatch(noon.Add(c.clock))
			good := grant(t, ca, dir, "b")
			bad := good
			if c.change != nil {
				c.change(&bad)
			}
			_, err := Accept(dir, bad, w.now)
			t.Log(err)
			qt.Assert(t, qt.ErrorIs(err, c.is))
			qt.Assert(t, qt.StringContains(err.Error(), c.says))
			qt.Assert(t, qt.DeepEquals(names(t, dir), []string{requestFile}))
			w.set(noon)
			_, err = Accept(dir, good, w.now)
			qt.Assert(t, qt.IsNil(err))
		})
	}
}

func TestJoinTwice(t *testing.T) {
	ca, dir, w := newAuthority(t), t.TempDir(), newWatch(noon)
	first, err := Accept(dir, grant(t, ca, dir, "b"), w.now)
	qt.Assert(t, qt.IsNil(err))
	_, err = Accept(dir, grant(t, ca, dir, "c"), w.now)
	qt.Assert(t, qt.ErrorIs(err, ErrMember))
	_, err = Accept(dir, grant(t, newAuthority(t), dir, "b"), w.now)
	qt.Assert(t, qt.ErrorIs(err, ErrMember))
	qt.Assert(t, qt.ErrorMatches(err, `.*it is host "b" of installation `+string(ca.id)))
	// It was removed, and joins again: it is another member than before.
	again, err := Accept(dir, grant(t, ca, dir, "b"), w.now)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsFalse(again.Member() == first.Member()))
}

func TestDamagedIdentity(t *testing.T) {
	ca, dir, w := newAuthority(t), t.TempDir(), newWatch(noon)
	b, err := Accept(dir, grant(t, ca, dir, "b"), w.now)
	qt.Assert(t, qt.IsNil(err))
	damage(t, read(t, dir, identityFile), func(t *testing.T, bad []byte) error {
		t.Helper()
		write(t, dir, identityFile, bad)
		i, err := Open(dir, w.now)
		if err == nil {
			qt.Assert(t, qt.DeepEquals(i.peer, b.peer))
			qt.Assert(t, qt.DeepEquals(i.current.Load().Certificate, b.current.Load().Certificate))
		} else {
			qt.Assert(t, qt.ErrorIs(err, ErrDamaged))
			qt.Assert(t, qt.ErrorMatches(err, `(?s).*identity\.pem.*`))
		}
		return err
	})
	write(t, dir, identityFile, []byte("x"))
	_, err = Request(dir)
	qt.Assert(t, qt.ErrorIs(err, ErrDamaged))
	_, err = Accept(dir, Grant{Host: "b", CA: ca.key}, w.now)
	qt.Assert(t, qt.ErrorIs(err, ErrDamaged))
	write(t, dir, identityFile, make([]byte, maxFile+1))
	_, err = Open(dir, w.now)
	qt.Assert(t, qt.ErrorIs(err, ErrDamaged))
}

// TestFullDisk has each write of a host that joins and renews fail.
func TestFullDisk(t *testing.T) {
	ca, dir, w := newAuthority(t), t.TempDir(), newWatch(noon)
	full(t, dir, requestFile)
	_, err := Request(dir)
	qt.Assert(t, qt.ErrorMatches(err, "(?s).*request.pem.*no space left on device.*"))
	qt.Assert(t, qt.HasLen(names(t, dir), 0))

	g := grant(t, ca, dir, "b")
	full(t, dir, identityFile)
	_, err = Accept(dir, g, w.now)
	qt.Assert(t, qt.ErrorMatches(err, "(?s).*identity.pem.*no space left on device.*"))
	qt.Assert(t, qt.DeepEquals(names(t, dir), []string{requestFile}))
	b, err := Accept(dir, g, w.now)
	qt.Assert(t, qt.IsNil(err))

	before := read(t, dir, identityFile)
	for _, file := range []string{requestFile, identityFile} {
		full(t, dir, file)
		err = b.Renew(t.Context(), signer(ca, b))
		qt.Assert(t, qt.ErrorMatches(err, "(?s).*"+file+".*no space left on device.*"))
		qt.Assert(t, qt.DeepEquals(read(t, dir, identityFile), before))
		m := meet(t, b.Server(all), newMember(t, ca, "c").Client("b", all))
		qt.Assert(t, qt.IsNil(errors.Join(m.server, m.client)))
	}
	qt.Assert(t, qt.IsNil(b.Renew(t.Context(), signer(ca, b))))
	qt.Assert(t, qt.DeepEquals(names(t, dir), []string{identityFile}))
}

// privateKey returns the key that a host has in use.
func privateKey(i *Identity) *ecdsa.PrivateKey {
	key, _ := i.current.Load().PrivateKey.(*ecdsa.PrivateKey)
	return key
}
