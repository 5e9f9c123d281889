package trust

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
)

func TestCreateAuthority(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "ca")
	_, err := OpenAuthority(dir, AuthorityOptions{})
	qt.Assert(t, qt.ErrorIs(err, fs.ErrNotExist))
	a, err := CreateAuthority(dir, AuthorityOptions{})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Matches(string(a.Installation()), "[0-9a-f]{32}"))
	qt.Assert(t, qt.Equals(a.Fingerprint().String()[:32], string(a.Installation())))
	qt.Assert(t, qt.Equals(time.Until(a.Expires()).Round(24*time.Hour), caLife))
	for path, mode := range map[string]fs.FileMode{dir: 0o700, filepath.Join(dir, caFile): 0o600} {
		info, err := os.Stat(path)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.Equals(info.Mode().Perm(), mode))
	}
	before := read(t, dir, caFile)
	_, err = CreateAuthority(dir, AuthorityOptions{})
	qt.Assert(t, qt.ErrorIs(err, fs.ErrExist))
	qt.Assert(t, qt.ErrorMatches(err, ".*has the CA of an installation already.*"))
	qt.Assert(t, qt.DeepEquals(read(t, dir, caFile), before))
	again, err := OpenAuthority(dir, AuthorityOptions{})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(again.Installation(), a.Installation()))
	qt.Assert(t, qt.DeepEquals(names(t, dir), []string{caFile}))
}

func TestCreateAuthorityTwiceAtOnce(t *testing.T) {
	dir := t.TempDir()
	const many = 8
	made := make(chan *Authority, many)
	for range many {
		go func() {
			a, _ := CreateAuthority(dir, AuthorityOptions{})
			made <- a
		}()
	}
	var ids []InstallationID
	for range many {
		if a := <-made; a != nil {
			ids = append(ids, a.Installation())
		}
	}
	a, err := OpenAuthority(dir, AuthorityOptions{})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(ids, []InstallationID{a.Installation()}))
}

func TestCreateAuthorityOnFullDisk(t *testing.T) {
	dir := t.TempDir()
	full(t, dir, caFile)
	_, err := CreateAuthority(dir, AuthorityOptions{})
	qt.Assert(t, qt.ErrorMatches(err, "(?s).*ca.pem.*no space left on device.*"))
	qt.Assert(t, qt.HasLen(names(t, dir), 0))
	_, err = CreateAuthority(dir, AuthorityOptions{})
	qt.Assert(t, qt.IsNil(err))
}

// TestDamagedAuthority changes a byte of a CA's file, each in turn: it is noticed, or harmless.
func TestDamagedAuthority(t *testing.T) {
	dir := t.TempDir()
	a, err := CreateAuthority(dir, AuthorityOptions{})
	qt.Assert(t, qt.IsNil(err))
	data := read(t, dir, caFile)
	damage(t, data, func(t *testing.T, bad []byte) error {
		t.Helper()
		write(t, dir, caFile, bad)
		b, err := OpenAuthority(dir, AuthorityOptions{})
		if err == nil {
			qt.Assert(t, qt.IsTrue(b.ca.key.Equal(a.ca.key)))
			qt.Assert(t, qt.IsTrue(b.ca.chain[0].Equal(a.ca.chain[0])))
		}
		return err
	})
}

func TestReadableByOthers(t *testing.T) {
	dir := t.TempDir()
	_, err := CreateAuthority(dir, AuthorityOptions{})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(os.Chmod(filepath.Join(dir, caFile), 0o640)))
	_, err = OpenAuthority(dir, AuthorityOptions{})
	qt.Assert(t, qt.ErrorMatches(err, ".*mode 0640.*chmod 600.*"))
}

func TestExport(t *testing.T) {
	a := newAuthority(t)
	out, err := a.Export()
	qt.Assert(t, qt.IsNil(err))
	dir := t.TempDir()
	for range 2 { // the second time it is there already
		b, err := ImportAuthority(dir, out, a.Installation(), AuthorityOptions{Now: a.now})
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.Equals(b.Fingerprint(), a.Fingerprint()))
	}
	// Hosts that the two have signed are of one installation.
	b, err := OpenAuthority(dir, AuthorityOptions{Now: a.now})
	qt.Assert(t, qt.IsNil(err))
	m := meet(t, newMember(t, a, "a").Server(all), newMember(t, b, "b").Client("a", all))
	qt.Assert(t, qt.IsNil(m.server))
	qt.Assert(t, qt.IsNil(m.client))

	other := newAuthority(t)
	foreign, err := other.Export()
	qt.Assert(t, qt.IsNil(err))
	_, err = ImportAuthority(dir, foreign, a.Installation(), AuthorityOptions{})
	qt.Assert(t, qt.ErrorIs(err, ErrStranger))
	_, err = ImportAuthority(dir, foreign, other.Installation(), AuthorityOptions{})
	qt.Assert(t, qt.ErrorIs(err, fs.ErrExist))
	_, err = ImportAuthority(t.TempDir(), out[:len(out)/2], a.Installation(), AuthorityOptions{})
	qt.Assert(t, qt.IsNotNil(err))
	_, err = ImportAuthority(t.TempDir(), nil, a.Installation(), AuthorityOptions{})
	qt.Assert(t, qt.IsNotNil(err))
	leaf, err := pair{privateKey(newMember(t, a, "a")), nil}.encode()
	qt.Assert(t, qt.IsNil(err))
	_, err = ImportAuthority(t.TempDir(), leaf, a.Installation(), AuthorityOptions{})
	qt.Assert(t, qt.ErrorIs(err, ErrDamaged))
}

// request makes a CSR that says what no host should be believed.
func request(t *testing.T, key any) []byte {
	t.Helper()
	lie, err := url.Parse("snapctl://x/host/root")
	qt.Assert(t, qt.IsNil(err))
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "root", SerialNumber: "1"}, DNSNames: []string{"root"}, URIs: []*url.URL{lie},
		ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}}, // a CA
	}, key)
	qt.Assert(t, qt.IsNil(err))
	return csr
}

func TestSign(t *testing.T) {
	a := newAuthority(t)
	key, err := newKey()
	qt.Assert(t, qt.IsNil(err))
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	qt.Assert(t, qt.IsNil(err))
	for name, key := range map[string]any{"ECDSA": key, "Ed25519": edwards} {
		t.Run(name, func(t *testing.T) {
			chain, err := a.Sign(request(t, key), "web-1")
			qt.Assert(t, qt.IsNil(err))
			certs, err := x509.ParseCertificates(chain)
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.HasLen(certs, 2))
			c := certs[0]
			qt.Assert(t, qt.HasLen(c.URIs, 1))
			qt.Assert(t, qt.Equals(c.URIs[0].String(), "snapctl://"+string(a.Installation())+"/host/web-1"))
			qt.Assert(t, qt.DeepEquals(c.DNSNames, []string{"host." + string(a.Installation()) + ".snapctl.internal"}))
			qt.Assert(t, qt.IsFalse(c.IsCA))
			qt.Assert(t, qt.Equals(c.Subject.CommonName, "web-1"))
			qt.Assert(t, qt.Equals(MemberID(c.Subject.SerialNumber), fingerprint(c.RawSubjectPublicKeyInfo).Member()))
			qt.Assert(t, qt.IsTrue(c.NotAfter.Equal(noon.Add(DefaultLife))))
			qt.Assert(t, qt.IsTrue(!c.NotBefore.After(noon.Add(-MaxSkew))))
			qt.Assert(t, qt.IsTrue(c.SerialNumber.BitLen() > 64))
			qt.Assert(t, qt.IsTrue(certs[1].MaxPathLenZero))
			qt.Assert(t, qt.DeepEquals(certs[1].PermittedURIDomains, []string{string(a.Installation())}))
		})
	}
}

func TestSignRefuses(t *testing.T) {
	a := newAuthority(t)
	key, err := newKey()
	qt.Assert(t, qt.IsNil(err))
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	qt.Assert(t, qt.IsNil(err))
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	qt.Assert(t, qt.IsNil(err))
	good := request(t, key)
	forged := bytes.Clone(good)
	forged[len(forged)-1] ^= 1
	sha512, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{SignatureAlgorithm: x509.ECDSAWithSHA512}, key)
	qt.Assert(t, qt.IsNil(err))
	for name, c := range map[string]struct {
		csr  []byte
		host string
		says string
	}{
		"RSA":            {request(t, rsaKey), "a", "key of kind RSA"},
		"P-384":          {request(t, p384), "a", "on P-384: take P-256"},
		"SHA-512":        {sha512, "a", "ECDSA-SHA512"},
		"forged":         {forged, "a", "not signed by its own key"},
		"empty":          {nil, "a", "read certificate request"},
		"more after it":  {append(bytes.Clone(good), 0), "a", "read certificate request"},
		"large":          {make([]byte, 5000), "a", "has 5000 bytes, and may have 4096"},
		"no name":        {good, "", "needs a name"},
		"a FQDN":         {good, "web.example.net", `has a dot: take one part of it, as "web"`},
		"upper case":     {good, "Web", `take "web"`},
		"a long name":    {good, strings.Repeat("a", 64), "has 64 characters, and may have 63"},
		"a hyphen first": {good, "-a", "hyphen"},
		"a hyphen last":  {good, "a-", "hyphen"},
		"an underscore":  {good, "a_b", `has a '_'`},
		"a slash":        {good, "a/b", `has a '/'`},
		"an umlaut":      {good, "büro", `has a 'ü'`},
		"a zero byte":    {good, "a\x00b", "letters a to z"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := a.Sign(c.csr, c.host)
			qt.Assert(t, qt.IsNotNil(err))
			qt.Assert(t, qt.StringContains(err.Error(), c.says))
		})
	}
	_, err = a.Sign(good, strings.Repeat("a", 63))
	qt.Assert(t, qt.IsNil(err))
}

func TestSignAtTheEndOfTheCA(t *testing.T) {
	w := newWatch(noon)
	a, err := CreateAuthority(t.TempDir(), AuthorityOptions{Now: w.now, Life: time.Hour})
	qt.Assert(t, qt.IsNil(err))
	key, err := newKey()
	qt.Assert(t, qt.IsNil(err))
	csr := request(t, key)
	expiry := func() (time.Time, error) {
		chain, err := a.Sign(csr, "a")
		if err != nil {
			return time.Time{}, err
		}
		certs, err := x509.ParseCertificates(chain)
		return certs[0].NotAfter, err
	}
	at, err := expiry()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsTrue(at.Equal(noon.Add(time.Hour))))
	w.set(noon.Add(caLife - time.Minute))
	at, err = expiry()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsTrue(at.Equal(a.Expires())))
	w.set(noon.Add(caLife + time.Minute))
	_, err = expiry()
	qt.Assert(t, qt.ErrorMatches(err, ".*the CA is valid from .* check the clock"))
}

func TestRenewOfAStranger(t *testing.T) {
	a, b := newAuthority(t), newAuthority(t)
	key, err := newKey()
	qt.Assert(t, qt.IsNil(err))
	_, err = a.Renew(request(t, key), newMember(t, b, "b").peer)
	qt.Assert(t, qt.ErrorIs(err, ErrStranger))
	_, err = a.Renew(nil, newMember(t, a, "a").peer)
	qt.Assert(t, qt.IsNotNil(err))
}
