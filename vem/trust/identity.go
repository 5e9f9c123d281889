package trust

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"time"
)

// The files of an Identity in its directory.
const (
	identityFile = "identity.pem" // key, host's certificate, CA's certificate
	requestFile  = "request.pem"  // a key whose certificate has not come yet
	rootFile     = "ca.pem"       // CA's certificate, for other programs
)

// maxChain is the size in bytes that no chain has; those of Authority are less than 1.5 KiB.
const maxChain = 16 << 10

// Identity is the certificate and key of this host, in a directory with mode 0700. Its methods
// may be called at the same time. It opens nothing that has to be closed.
type Identity struct {
	folder folder
	now    func() time.Time
	peer   Peer // its times are those of the certificate that was opened: see Peer
	ca     *x509.Certificate
	roots  *x509.CertPool
	// renewing has room for the one Renew that is at work.
	renewing chan struct{}
	// current is what handshakes take: certificate, CA and key. Only Renew replaces it.
	current atomic.Pointer[tls.Certificate]
}

// Grant is what a host that joins has got.
type Grant struct {
	// Chain is the host's certificate and that of the CA, as Authority.Sign returned it.
	Chain []byte
	// Host is the name that the host has asked for.
	Host string
	// CA is the fingerprint that the token has, or that of this host's own new Authority.
	CA Fingerprint
}

// ErrMember is that this host belongs to an installation already.
var ErrMember = errors.New("this host belongs to an installation already")

// Request makes a key for this host and returns a CSR (PKCS #10, DER). The key is on the disk, in
// dir, before Request returns; a key that an earlier Request left there is taken again, so that
// a host whose answer was lost asks for the same. It does not change an Identity that is there.
func Request(dir string) (csr []byte, err error) {
	d := folder(dir)
	var current *x509.Certificate
	switch p, err := d.load(identityFile); {
	case err == nil && len(p.chain) > 0:
		current = p.chain[0]
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	p, err := d.request(current)
	if err != nil {
		return nil, fmt.Errorf("make key of this host: %w", err)
	}
	return p.csr()
}

// request returns the key that waits for its certificate, and makes one if there is none, or if
// it has got its certificate: current is the one in use, or nil.
func (d folder) request(current *x509.Certificate) (pair, error) {
	p, err := d.load(requestFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return pair{}, err
	case current == nil || !p.key.PublicKey.Equal(current.PublicKey):
		return p, nil
	}
	if p.key, err = newKey(); err != nil {
		return pair{}, err
	}
	return p, d.store(requestFile, p)
}

// csr returns a request without any names: the host that signs knows better.
func (p pair) csr() ([]byte, error) {
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, p.key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	return csr, nil
}

// Accept puts the certificate that this host has got for its Request into dir, and opens it. Now
// is the clock; nil: time.Now. If it fails the key of Request is still there, to ask again.
//
// A host that was a member under the same name may join its installation again. Returns an error
// wrapping ErrMember if it is another host or installation, and a *HandshakeError if the chain
// is not that of g.Host, of the CA and of the key, or if clocks differ.
func Accept(dir string, g Grant, now func() time.Time) (*Identity, error) {
	d, now := folder(dir), clock(now)
	old, err := Open(dir, now)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case old.peer.Host != g.Host || old.peer.Installation != g.CA.Installation():
		return nil, fmt.Errorf("%w: it is host %q of installation %s", ErrMember, old.peer.Host, old.peer.Installation)
	}
	p, err := d.load(requestFile)
	if errors.Is(err, fs.ErrNotExist) && old != nil && old.holds(g.Chain) {
		return old, nil // an earlier Accept had done all of it
	}
	if err != nil {
		return nil, fmt.Errorf("accept certificate: %w", err)
	}
	if p.chain, err = parseChain(g.Chain); err != nil {
		return nil, err
	}
	if leaf := p.chain[0]; now().After(issued(leaf).Add(backdate)) {
		return nil, clocks("this host", leaf, now())
	}
	if err := p.fits(g, now()); err != nil {
		return nil, err
	}
	if err := d.store(identityFile, p); err != nil {
		return nil, err
	}
	// From here on this host is a member. If the key that waited is not removed it is known by
	// the certificate in use: see request.
	if err := d.remove(requestFile); err != nil {
		return nil, err
	}
	return newIdentity(d, p, now)
}

// parseChain reads what Authority.Sign returned, and verifies nothing.
func parseChain(chain []byte) ([]*x509.Certificate, error) {
	if len(chain) > maxChain {
		return nil, fmt.Errorf("%w: certificates have %d bytes, and may have %d", ErrDamaged, len(chain), maxChain)
	}
	certs, err := x509.ParseCertificates(chain)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: certificates: %w", ErrDamaged, err)
	case len(certs) != 2:
		return nil, fmt.Errorf("%w: a host's certificate and that of its CA were awaited, and %d have come", ErrDamaged, len(certs))
	}
	return certs, nil
}

// fits checks that a pair is what was granted, at a time.
func (p pair) fits(g Grant, now time.Time) error {
	leaf, ca := p.chain[0], p.chain[1]
	if find(p.chain[1:], g.CA) == nil {
		return refuse(fmt.Sprintf("the certificate for this host was signed by %q, which is not the CA of installation %s", ca.Subject.CommonName, g.CA.Installation()), ErrStranger)
	}
	if err := verify(p.chain, pool(ca), x509.ExtKeyUsageAny, now); err != nil {
		return err
	}
	got, err := member(leaf, g.CA.Installation(), now)
	switch {
	case err != nil:
		return err
	case got.Host != g.Host:
		return refuse(fmt.Sprintf("this host asked for the name %q, and has got the certificate of host %q", g.Host, got.Host), ErrWrongHost)
	case !p.key.PublicKey.Equal(leaf.PublicKey):
		return fmt.Errorf("%w: the certificate for host %q is for another key than was sent", ErrDamaged, g.Host)
	}
	return nil
}

// Open opens the Identity that is in dir, also one that has expired. now is the clock; nil:
// time.Now. Returns an error wrapping fs.ErrNotExist if this host has joined no installation, or
// one wrapping ErrDamaged that names the file.
func Open(dir string, now func() time.Time) (*Identity, error) {
	d := folder(dir)
	p, err := d.load(identityFile)
	if err != nil {
		return nil, err
	}
	i, err := newIdentity(d, p, clock(now))
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", d.path(identityFile), ErrDamaged, err)
	}
	return i, nil
}

// newIdentity checks all of a pair but the time.
func newIdentity(d folder, p pair, now func() time.Time) (*Identity, error) {
	if len(p.chain) != 2 {
		return nil, fmt.Errorf("it has %d certificates, and should have 2", len(p.chain))
	}
	leaf, ca := p.chain[0], p.chain[1]
	if err := checkCA(ca); err != nil {
		return nil, err
	}
	if err := leaf.CheckSignatureFrom(ca); err != nil {
		return nil, err
	}
	peer, err := member(leaf, fingerprint(ca.RawSubjectPublicKeyInfo).Installation(), now())
	if err != nil {
		return nil, err
	}
	i := &Identity{folder: d, now: now, peer: peer, ca: ca, roots: pool(ca), renewing: make(chan struct{}, 1)}
	i.current.Store(p.tls())
	return i, nil
}

// tls returns a pair as handshakes take it. The CA's certificate goes with it, since a host that
// joins knows only its fingerprint.
func (p pair) tls() *tls.Certificate {
	c := &tls.Certificate{PrivateKey: p.key, Leaf: p.chain[0]}
	for _, cert := range p.chain {
		c.Certificate = append(c.Certificate, cert.Raw)
	}
	return c
}

func pool(ca *x509.Certificate) *x509.CertPool {
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	return roots
}

// holds tells whether the certificate in use is the first one of a chain.
func (i *Identity) holds(chain []byte) bool {
	certs, err := x509.ParseCertificates(chain)
	return err == nil && len(certs) > 0 && certs[0].Equal(i.current.Load().Leaf)
}

// Host returns the name of this host.
func (i *Identity) Host() string { return i.peer.Host }

// Installation returns the ID of the installation that this host belongs to.
func (i *Identity) Installation() InstallationID { return i.peer.Installation }

// Member returns the ID that this host has had since it joined.
func (i *Identity) Member() MemberID { return i.peer.Member }

// Peer returns what this host is to others, with the times of the certificate in use.
func (i *Identity) Peer() Peer {
	p, leaf := i.peer, i.current.Load().Leaf
	p.Issued, p.Expires = issued(leaf), leaf.NotAfter
	return p
}

// CA returns the fingerprint of the installation's CA.
func (i *Identity) CA() Fingerprint { return fingerprint(i.ca.RawSubjectPublicKeyInfo) }

// Expires returns when the certificate in use ends to be valid.
func (i *Identity) Expires() time.Time { return i.current.Load().Leaf.NotAfter }

// Files are what another program on this host has mutual TLS with: paths of PEM files.
type Files struct {
	// Pair has key and certificate, one as fresh as the other. Renew replaces it: the program
	// reads it again for each connection.
	Pair string
	// CA has the certificate of the CA.
	CA string
	// ServerName is the name that each host of the installation has in its certificate.
	ServerName string
}

// Files returns the files of this host for another program, which runs as the same user. It
// writes that of the CA.
func (i *Identity) Files() (Files, error) {
	data, err := pair{chain: []*x509.Certificate{i.ca}}.encode()
	if err == nil {
		err = i.folder.write(rootFile, data)
	}
	return Files{
		Pair: i.folder.path(identityFile), CA: i.folder.path(rootFile), ServerName: i.Installation().ServerName(),
	}, err
}
