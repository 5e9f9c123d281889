package trust

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"time"
)

const (
	// caLife is how long a CA is valid.
	caLife = 10 * 365 * 24 * time.Hour
	// DefaultLife is how long a host's certificate is valid.
	DefaultLife = 30 * 24 * time.Hour
	// MaxSkew is how far the clocks of two hosts may differ.
	MaxSkew = time.Hour
	// backdate is how long before its signing a certificate begins to be valid, so that a host
	// whose clock is MaxSkew behind takes it.
	backdate = MaxSkew + time.Minute
	// maxRequest is the size in bytes that no CSR has; those of Request are about 250 bytes.
	maxRequest = 4 << 10
)

// caFile is an Authority's file in its directory.
const caFile = "ca.pem"

// AuthorityOptions say how an [Authority] works.
type AuthorityOptions struct {
	// Life is how long the certificates of hosts are valid; 0: DefaultLife.
	Life time.Duration
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Authority is the CA of an installation, with its private key. Its methods may be called at
// the same time.
type Authority struct {
	ca   pair
	id   InstallationID
	key  Fingerprint
	life time.Duration
	now  func() time.Time
}

// ErrDamaged is that a file, or what another host sent, is not as it was made.
var ErrDamaged = errors.New("damaged")

// CreateAuthority makes the CA of a new installation, in dir, which it makes with mode 0700 if
// it is not there. Returns an error wrapping fs.ErrExist, and changes nothing, if dir has a CA.
// If it fails otherwise dir has no CA, or a whole one.
func CreateAuthority(dir string, o AuthorityOptions) (*Authority, error) {
	key, err := newKey()
	if err != nil {
		return nil, fmt.Errorf("make key of CA: %w", err)
	}
	p := pair{key: key}
	fp, err := p.fingerprint()
	if err != nil {
		return nil, fmt.Errorf("make key of CA: %w", err)
	}
	cert, err := selfSign(key, fp.Installation(), clock(o.Now)())
	if err != nil {
		return nil, fmt.Errorf("make certificate of CA: %w", err)
	}
	p.chain = []*x509.Certificate{cert}
	return place(folder(dir), p, o)
}

// selfSign makes the certificate of a CA. It can sign certificates of hosts only, and only
// those of its own installation.
func selfSign(key *ecdsa.PrivateKey, id InstallationID, now time.Time) (*x509.Certificate, error) {
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "snapctl installation " + string(id)},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
		// RFC 5280, section 4.2.1.10.
		PermittedURIDomains:         []string{string(id)},
		PermittedDNSDomains:         []string{id.domain()},
		PermittedDNSDomainsCritical: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// place puts a new CA into a directory that has none.
func place(dir folder, ca pair, o AuthorityOptions) (*Authority, error) {
	data, err := ca.encode()
	if err != nil {
		return nil, err
	}
	if err := dir.create(caFile, data); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("%s has the CA of an installation already: %w", dir, fs.ErrExist)
		}
		return nil, err
	}
	return authorityOf(ca, o)
}

// OpenAuthority opens the CA that is in dir. Returns an error wrapping fs.ErrNotExist if there
// is none, or one wrapping ErrDamaged that names the file.
func OpenAuthority(dir string, o AuthorityOptions) (*Authority, error) {
	d := folder(dir)
	ca, err := d.load(caFile)
	if err != nil {
		return nil, err
	}
	a, err := authorityOf(ca, o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.path(caFile), err)
	}
	return a, nil
}

// Export returns all of the CA, with its private key, in clear. It may leave this host only to
// a host of the installation, over a connection that both have verified.
func (a *Authority) Export() ([]byte, error) { return a.ca.encode() }

// ImportAuthority puts the CA of an installation, as Export returned it, into dir, and opens it.
// If the CA is there already nothing changes. Returns an error wrapping fs.ErrExist if dir has
// another one, or one wrapping ErrDamaged or ErrStranger if exported is not that of the
// installation.
func ImportAuthority(dir string, exported []byte, installation InstallationID, o AuthorityOptions) (*Authority, error) {
	ca, err := decode(exported)
	if err != nil {
		return nil, fmt.Errorf("import CA: %w", err)
	}
	a, err := authorityOf(ca, o)
	if err != nil {
		return nil, fmt.Errorf("import CA: %w", err)
	}
	if a.id != installation {
		return nil, fmt.Errorf("import CA: it is that of installation %s, not of %s: %w", a.id, installation, ErrStranger)
	}
	if old, err := OpenAuthority(dir, o); err == nil && old.key == a.key {
		return old, nil
	}
	return place(folder(dir), ca, o)
}

// authorityOf checks that a pair is a CA.
func authorityOf(ca pair, o AuthorityOptions) (*Authority, error) {
	if len(ca.chain) != 1 {
		return nil, fmt.Errorf("%w: a CA has one certificate, here are %d", ErrDamaged, len(ca.chain))
	}
	if err := checkCA(ca.chain[0]); err != nil {
		return nil, err
	}
	key := fingerprint(ca.chain[0].RawSubjectPublicKeyInfo)
	a := &Authority{ca: ca, key: key, id: key.Installation(), life: o.Life, now: clock(o.Now)}
	if a.life <= 0 {
		a.life = DefaultLife
	}
	return a, nil
}

// checkCA returns an error wrapping ErrDamaged if a certificate is not that of a CA, signed by
// itself.
func checkCA(cert *x509.Certificate) error {
	if !cert.IsCA {
		return fmt.Errorf("%w: %q is not a CA", ErrDamaged, cert.Subject)
	}
	if err := cert.CheckSignatureFrom(cert); err != nil {
		return fmt.Errorf("%w: certificate of CA: %w", ErrDamaged, err)
	}
	return nil
}

// Installation returns the ID of the installation.
func (a *Authority) Installation() InstallationID { return a.id }

// Fingerprint returns that of the CA's key, which is in every [Token].
func (a *Authority) Fingerprint() Fingerprint { return a.key }

// Expires returns when the CA ends to be valid. No certificate of a host is valid for longer.
func (a *Authority) Expires() time.Time { return a.ca.chain[0].NotAfter }

// Sign makes the certificate of a host that joins, from its CSR (PKCS #10, DER). What the CSR
// says besides its key is ignored. It returns the host's certificate and that of the CA, DER,
// one after the other: what [Accept] takes.
func (a *Authority) Sign(csr []byte, host string) (chain []byte, err error) {
	req, err := parseRequest(csr)
	if err != nil {
		return nil, err
	}
	return a.sign(req, host, fingerprint(req.RawSubjectPublicKeyInfo).Member())
}

// Renew makes another certificate for a host, as Sign does. peer is what the host has proved to
// be: see [PeerOf].
func (a *Authority) Renew(csr []byte, peer Peer) (chain []byte, err error) {
	req, err := parseRequest(csr)
	if err != nil {
		return nil, err
	}
	if peer.Installation != a.id {
		return nil, fmt.Errorf("renew certificate of host %q: it is of installation %s, not of %s: %w", peer.Host, peer.Installation, a.id, ErrStranger)
	}
	return a.sign(req, peer.Host, peer.Member)
}

func (a *Authority) sign(req *x509.CertificateRequest, host string, member MemberID) ([]byte, error) {
	if err := CheckHost(host); err != nil {
		return nil, err
	}
	now, ca := a.now(), a.ca.chain[0]
	if now.After(ca.NotAfter) || now.Before(ca.NotBefore) {
		return nil, fmt.Errorf("sign certificate of host %s: the CA is valid from %s until %s, and this host's clock says %s: check the clock", host, stamp(ca.NotBefore), stamp(ca.NotAfter), stamp(now))
	}
	until := now.Add(a.life)
	if until.After(ca.NotAfter) {
		until = ca.NotAfter
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: host, SerialNumber: string(member)},
		URIs:                  []*url.URL{hostURI(a.id, host)},
		DNSNames:              []string{a.id.ServerName()},
		NotBefore:             now.Add(-backdate),
		NotAfter:              until,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, req.PublicKey, a.ca.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of host %s: %w", host, err)
	}
	return append(der, ca.Raw...), nil
}

// parseRequest reads a CSR from another host, and checks that it was signed by its own key, and
// that the key is of a kind that this package knows.
func parseRequest(csr []byte) (*x509.CertificateRequest, error) {
	if len(csr) > maxRequest {
		return nil, fmt.Errorf("certificate request has %d bytes, and may have %d", len(csr), maxRequest)
	}
	req, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, fmt.Errorf("read certificate request: %w", err)
	}
	switch key := req.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() {
			return nil, fmt.Errorf("certificate request has an ECDSA key on %s: take P-256", key.Curve.Params().Name)
		}
	case ed25519.PublicKey:
	default:
		return nil, fmt.Errorf("certificate request has a key of kind %s: take ECDSA on P-256, or Ed25519", req.PublicKeyAlgorithm)
	}
	if req.SignatureAlgorithm != x509.ECDSAWithSHA256 && req.SignatureAlgorithm != x509.PureEd25519 {
		return nil, fmt.Errorf("certificate request is signed by %s: take ECDSA-SHA256, or Ed25519", req.SignatureAlgorithm)
	}
	if err := req.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request is not signed by its own key: %w", err)
	}
	return req, nil
}

// issued returns when a certificate was signed, by the clock of the host that signed it.
func issued(cert *x509.Certificate) time.Time { return cert.NotBefore.Add(backdate) }

// clock returns now, or time.Now if it is nil.
func clock(now func() time.Time) func() time.Time {
	if now == nil {
		return time.Now
	}
	return now
}

// stamp writes a time as messages have it.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
