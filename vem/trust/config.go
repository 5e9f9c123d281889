package trust

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// Check is asked at each handshake whether a host that has a valid certificate of the
// installation may connect. It returns nil, or an error: ErrRemoved if the host was removed. It is
// called before the host has proved that it has the certificate's key, and while the other end
// waits: it decides quickly, from memory, and changes nothing.
type Check func(Peer) error

// Server returns the configuration of a server that this host's peers connect to. It takes
// connections without a certificate too, since a host that joins has none: whoever serves looks
// at [PeerOf], and serves strangers nothing but the request to join.
//
// Sessions are not resumed, so that no ticket outlives the removal of its host. The caller
// closes connections that a removed host has.
func (i *Identity) Server(check Check) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Time:                   i.now,
		SessionTicketsDisabled: true,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return i.current.Load(), nil },
		// Its own verification sends alerts that tell the other end more than VerifyConnection
		// could: unknown CA, expired.
		ClientAuth: tls.VerifyClientCertIfGiven,
		ClientCAs:  i.roots,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return nil
			}
			return i.admit(cs, check)
		},
	}
}

// Client returns the configuration with which this host connects to another host, of this name.
func (i *Identity) Client(host string, check Check) *tls.Config {
	return i.client(func(p Peer) error {
		if p.Host != host {
			return refuse(fmt.Sprintf("host %q was called, and host %q answers: the address is that of another host", host, p.Host), ErrWrongHost)
		}
		return check(p)
	})
}

// ClientOfAny returns the configuration with which this host connects to whichever host of the
// installation is at an address.
func (i *Identity) ClientOfAny(check Check) *tls.Config { return i.client(check) }

func (i *Identity) client(check Check) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		Time:       i.now,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return i.current.Load(), nil
		},
		// Names of hosts are in URIs, which the verification of crypto/tls does not look at:
		// VerifyConnection does all of it.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if err := verify(cs.PeerCertificates, i.roots, x509.ExtKeyUsageServerAuth, i.now()); err != nil {
				return err
			}
			return i.admit(cs, check)
		},
	}
}

// admit asks what a verified certificate says, and the caller's check.
func (i *Identity) admit(cs tls.ConnectionState, check Check) error {
	p, err := member(cs.PeerCertificates[0], i.peer.Installation, i.now())
	if err != nil {
		return err
	}
	if err := check(p); err != nil {
		if _, ok := errors.AsType[*HandshakeError](err); ok {
			return err
		}
		return refuse(fmt.Sprintf("host %q is refused: %v", p.Host, err), ErrRefused, err)
	}
	return nil
}

// verify checks that the first certificate is signed by one of roots, and is valid at a time.
func verify(certs []*x509.Certificate, roots *x509.CertPool, usage x509.ExtKeyUsage, now time.Time) error {
	if len(certs) == 0 {
		return refuse("the other end has no certificate", ErrStranger)
	}
	_, err := certs[0].Verify(x509.VerifyOptions{
		Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		return refusal(certs[0], err, now)
	}
	return nil
}

// PeerOf returns the host at the other end of a connection, or false if it has shown no
// certificate. The connection's handshake was made with a configuration of [Identity.Server],
// [Identity.Client] or [Identity.ClientOfAny], and is complete: PeerOf verifies nothing.
func PeerOf(cs tls.ConnectionState) (Peer, bool) {
	if !cs.HandshakeComplete || len(cs.PeerCertificates) == 0 {
		return Peer{}, false
	}
	p, err := peerOf(cs.PeerCertificates[0])
	return p, err == nil
}

// JoinClient returns the configuration with which a host that has a token connects to a host of
// the installation. It trusts the CA whose fingerprint the token has, and no other. now is the
// clock; nil: time.Now.
func JoinClient(t Token, now func() time.Time) *tls.Config {
	now = clock(now)
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		Time:               now,
		InsecureSkipVerify: true, // VerifyConnection does all of it
		VerifyConnection: func(cs tls.ConnectionState) error {
			return verifyJoined(cs.PeerCertificates, t, now())
		},
	}
}

// verifyJoined checks that the certificates are those of a host of the token's installation.
func verifyJoined(certs []*x509.Certificate, t Token, now time.Time) error {
	ca := find(certs, t.CA)
	if ca == nil {
		return refuse(fmt.Sprintf("the host at this address is not of installation %s, which the token is for: check the address, or take a token of that host's installation", t.CA.Installation()), ErrStranger)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	if err := verify(certs, roots, x509.ExtKeyUsageServerAuth, now); err != nil {
		return err
	}
	_, err := member(certs[0], t.CA.Installation(), now)
	return err
}

// member returns the host that a certificate, which was verified, is of.
func member(cert *x509.Certificate, installation InstallationID, now time.Time) (Peer, error) {
	p, err := peerOf(cert)
	if err == nil && p.Installation != installation {
		err = fmt.Errorf("it is of installation %s, not of %s", p.Installation, installation)
	}
	if err != nil {
		return Peer{}, refusal(cert, err, now)
	}
	return p, nil
}

// find returns the CA with a fingerprint, or nil.
func find(certs []*x509.Certificate, ca Fingerprint) *x509.Certificate {
	for _, c := range certs {
		if fingerprint(c.RawSubjectPublicKeyInfo) == ca && checkCA(c) == nil {
			return c
		}
	}
	return nil
}
