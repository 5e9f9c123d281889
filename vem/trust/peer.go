package trust

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// InstallationID names an installation: the first 16 bytes of the [Fingerprint] of its CA's key,
// as 32 lower-case hexadecimal digits.
type InstallationID string

// ServerName returns the DNS name that the certificates of all hosts of the installation have. It
// is for programs that can verify a DNS name and nothing else, as members of etcd do.
func (id InstallationID) ServerName() string { return "host." + id.domain() }

// domain returns the domain in which no other CA than that of the installation signs, and which
// is nowhere in the public DNS (ICANN reserved .internal for private use in 2024).
func (id InstallationID) domain() string { return string(id) + ".snapctl.internal" }

// MemberID tells a host from an earlier one that had the same name and was removed: the
// [Fingerprint] of the key that the host joined with, as 64 hexadecimal digits. It stays when the
// host's key is renewed.
type MemberID string

// Fingerprint is the SHA-256 of a public key, in its form in certificates
// (SubjectPublicKeyInfo, RFC 5280, section 4.1).
type Fingerprint [sha256.Size]byte

// String returns 64 hexadecimal digits.
func (f Fingerprint) String() string { return hex.EncodeToString(f[:]) }

// Installation returns the ID of the installation whose CA has this key.
func (f Fingerprint) Installation() InstallationID { return InstallationID(f.String()[:32]) }

// Member returns the ID of a host that joined with this key.
func (f Fingerprint) Member() MemberID { return MemberID(f.String()) }

// fingerprint returns that of a SubjectPublicKeyInfo.
func fingerprint(spki []byte) Fingerprint { return sha256.Sum256(spki) }

// Peer is a host at the other end of a connection, as its certificate says.
type Peer struct {
	Installation InstallationID
	Host         string
	Member       MemberID
	// Issued is when the certificate was signed, by the clock of the host that signed it.
	Issued time.Time
	// Expires is when the certificate ends to be valid.
	Expires time.Time
}

// CheckHost returns an error that says what is wrong with the name of a host, or nil. A name is
// a label of DNS (RFC 1123, section 2.1), in lower case: 1 to 63 letters a to z, digits and
// hyphens, of which none is at an end.
func CheckHost(name string) error {
	switch {
	case name == "":
		return errors.New("a host needs a name")
	case len(name) > 63:
		return fmt.Errorf("host name %.20q... has %d characters, and may have 63", name, len(name))
	case strings.Contains(name, "."):
		return fmt.Errorf("host name %q has a dot: take one part of it, as %q", name, strings.SplitN(name, ".", 2)[0])
	case name != strings.ToLower(name):
		return fmt.Errorf("host name %q has upper-case letters: take %q", name, strings.ToLower(name))
	case name[0] == '-' || name[len(name)-1] == '-':
		return fmt.Errorf("host name %q begins or ends with a hyphen", name)
	}
	for _, c := range name {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return fmt.Errorf("host name %q has a %q: letters a to z, digits and hyphens are allowed", name, c)
		}
	}
	return nil
}

// hostURI returns the name that the certificate of a host has.
func hostURI(installation InstallationID, host string) *url.URL {
	return &url.URL{Scheme: "snapctl", Host: string(installation), Path: "/host/" + host}
}

// peerOf reads what the certificate of a host says. It verifies no signature. Returns an error
// that says in which way it is not the certificate of a host.
func peerOf(cert *x509.Certificate) (Peer, error) {
	switch {
	case cert.IsCA:
		return Peer{}, errors.New("it is the certificate of a CA")
	case len(cert.URIs) != 1 || len(cert.DNSNames) != 1 || len(cert.IPAddresses)+len(cert.EmailAddresses) != 0:
		return Peer{}, errors.New("its names are not one URI and one DNS name")
	}
	uri := cert.URIs[0]
	host, ok := strings.CutPrefix(uri.Path, "/host/")
	installation := InstallationID(uri.Host)
	if !ok || uri.String() != hostURI(installation, host).String() {
		return Peer{}, fmt.Errorf("its name %.100q is not that of a host", uri)
	}
	if err := CheckHost(host); err != nil {
		return Peer{}, err
	}
	member := cert.Subject.SerialNumber
	if !isHex(string(installation), 16) || !isHex(member, sha256.Size) {
		return Peer{}, errors.New("it has no installation or member ID")
	}
	if name := installation.ServerName(); cert.DNSNames[0] != name {
		return Peer{}, fmt.Errorf("its DNS name is %.100q, not %q", cert.DNSNames[0], name)
	}
	return Peer{
		Installation: installation, Host: host, Member: MemberID(member),
		Issued: issued(cert), Expires: cert.NotAfter,
	}, nil
}

// isHex tells whether s is so many bytes in lower-case hexadecimal digits.
func isHex(s string, size int) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == size && s == strings.ToLower(s)
}
