package trust

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// Why a handshake fails. A [HandshakeError] wraps at least one of these.
var (
	// ErrStranger is that a certificate was not signed by the CA of the installation.
	ErrStranger = errors.New("not a host of this installation")
	// ErrExpired is that a certificate is not valid any more.
	ErrExpired = errors.New("certificate is not valid any more")
	// ErrClock is that the clocks of two hosts differ by more than MaxSkew: a certificate is not
	// valid yet, or this host is far ahead of the one that has just signed its certificate.
	ErrClock = errors.New("clocks differ")
	// ErrNotHost is that a certificate of the installation's CA is not that of a host.
	ErrNotHost = errors.New("not the certificate of a host")
	// ErrWrongHost is that a certificate is that of another host than was called, or asked for.
	ErrWrongHost = errors.New("another host than was meant")
	// ErrRefused is that the check of the caller has refused the host; its error is wrapped too.
	ErrRefused = errors.New("the host is refused")
	// ErrRemoved is what a check returns of a host that was removed.
	ErrRemoved = errors.New("it was removed from the installation")
	// ErrRejected is that the other end has rejected this host. If its reason came over, that
	// is wrapped too. TLS has one word for a removed host, a wrong name, and what a client
	// finds wrong in whatever way with a server's certificate: only the log of the other end
	// tells more.
	ErrRejected = errors.New("the other end rejects this host")
	// ErrProtocol is that the other end speaks no TLS, or none as new as 1.3.
	ErrProtocol = errors.New("the other end does not speak TLS 1.3")
)

// HandshakeError is a connection that two hosts did not get, and why.
type HandshakeError struct {
	// Reasons are some of the errors above, and what they are of.
	Reasons []error
	text    string
}

func (e *HandshakeError) Error() string { return e.text }

// Remedy is empty: the error itself says what to do.
func (e *HandshakeError) Remedy() string { return "" }

// Unwrap returns the reasons.
func (e *HandshakeError) Unwrap() []error { return e.Reasons }

func refuse(text string, reasons ...error) *HandshakeError {
	return &HandshakeError{Reasons: reasons, text: text}
}

// Explain turns an error of a handshake, or of the first read after it, into one that says who
// was refused, why, and what to do: a *HandshakeError, as far as it is a matter of trust. Other
// errors are returned as they are.
//
// A client learns by its first read, not by its handshake, that a server refuses it: in TLS 1.3
// the client has finished before the server sees its certificate (RFC 8446, section 2).
func (i *Identity) Explain(err error) error {
	return explain(err, i.now(), i.current.Load().Leaf)
}

// Explain is what [Identity.Explain] is, for a host that has not joined yet. now is its clock.
func Explain(err error, now time.Time) error { return explain(err, now, nil) }

// explain explains an error; own is the certificate of this host, or nil.
func explain(err error, now time.Time, own *x509.Certificate) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*HandshakeError](err); ok {
		return err
	}
	if failed, ok := errors.AsType[*tls.CertificateVerificationError](err); ok && len(failed.UnverifiedCertificates) > 0 {
		return refusal(failed.UnverifiedCertificates[0], failed.Err, now)
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
		return rejection(op, now, own)
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return refuse(fmt.Sprintf("the other end speaks no TLS: is a snapctld at this address and port? (%v)", err), ErrProtocol, err)
	}
	// crypto/tls has no types for these (handshake_server.go, handshake_client.go).
	if text := err.Error(); strings.Contains(text, "unsupported versions") || strings.Contains(text, "unsupported protocol version") {
		return refuse(fmt.Sprintf("the other end does not speak TLS 1.3, the oldest that is spoken here (%v)", err), ErrProtocol, err)
	}
	return err
}

// refusal says why this host refuses a certificate, from what x509 says.
func refusal(cert *x509.Certificate, err error, now time.Time) *HandshakeError {
	who := claim(cert)
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		// It may be the CA's time that is over, or has not come.
		if invalid.Cert != nil && invalid.Cert.IsCA {
			who = "the CA of the installation"
		} else {
			invalid.Cert = cert
		}
		return outOfTime(who, invalid.Cert, now, err)
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return refuse(fmt.Sprintf("%s is a stranger: its certificate is signed by %q with another key than this installation's CA has; to make it a member use \"snapctl host invite\" here and \"snapctl host join\" there", who, cert.Issuer.CommonName), ErrStranger, err)
	}
	return refuse(fmt.Sprintf("%s has not the certificate of a host: %v", who, err), ErrNotHost, err)
}

// outOfTime says that a certificate is not valid now, with the clocks of this host and of the
// host that signed.
func outOfTime(who string, cert *x509.Certificate, now time.Time, err error) *HandshakeError {
	if now.Before(cert.NotBefore) {
		return clocks(who, cert, now, err)
	}
	return refuse(fmt.Sprintf("the certificate of %s was valid until %s, and the clock of this host says %s: if the clock is right it has not renewed its certificate, and has to join again", who, stamp(cert.NotAfter), stamp(now)), ErrExpired, err)
}

// clocks says that the clock of this host and that of the one that signed a certificate differ.
func clocks(who string, cert *x509.Certificate, now time.Time, reasons ...error) *HandshakeError {
	return refuse(fmt.Sprintf("the clock of this host says %s, and that of the host that signed the certificate of %s said %s: they may differ by %s at most; set the clock that is wrong", stamp(now), who, stamp(issued(cert)), MaxSkew), append(reasons, ErrClock)...)
}

// claim names what a certificate, which may be forged, says that it is of.
func claim(cert *x509.Certificate) string {
	if p, err := peerOf(cert); err == nil {
		return fmt.Sprintf("host %q", p.Host)
	}
	return fmt.Sprintf("%.100q", cert.Subject.CommonName)
}

// rejections are what alerts mean between hosts (RFC 8446, section 6.2).
var rejections = map[tls.AlertError]struct {
	reason error
	text   string
}{
	42:  {nil, "bad certificate: this host was removed, or is not the host that was called, or is of another installation, or a clock is wrong"},
	45:  {ErrExpired, "by its clock this host's certificate is not valid"},
	48:  {ErrStranger, "it does not know the CA of this host: the two are of different installations"},
	70:  {ErrProtocol, "it does not speak TLS 1.3"},
	116: {nil, "it wants a certificate, and this host has none: it has not joined"},
}

// rejection says why the other end has rejected this host, as far as its alert tells. The type
// of an alert is not exported, its text is.
func rejection(op *net.OpError, now time.Time, own *x509.Certificate) error {
	for alert, r := range rejections {
		if op.Err.Error() != alert.Error() {
			continue
		}
		text := fmt.Sprintf("the other end rejects this host: %s", r.text)
		if alert == 45 && own != nil {
			text += fmt.Sprintf(": it is valid from %s until %s, and the clock of this host says %s; compare the clocks of both", stamp(own.NotBefore), stamp(own.NotAfter), stamp(now))
		}
		reasons := []error{ErrRejected, op}
		if r.reason != nil {
			reasons = append(reasons, r.reason)
		}
		return refuse(text+"; the log of the other end has more", reasons...)
	}
	return op
}
