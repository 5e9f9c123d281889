package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/snapctl/snapctl/vem/directory"
)

// ErrTrust is that the directory and this host do not accept each other's certificates.
var ErrTrust = errors.New("the directory and this host do not trust each other")

// ErrNotEtcd is that something else than etcd answers at an endpoint.
var ErrNotEtcd = errors.New("what answers is not etcd")

var errClosed = fmt.Errorf("%w: it was closed", directory.ErrUnavailable)

// translate makes an error of the client one of package directory. ctx is the caller's.
func (s *Store) translate(ctx context.Context, err error) error {
	select {
	case <-s.closed:
		if err != nil {
			return errClosed
		}
	default:
	}
	switch {
	case err == nil, errors.Is(err, directory.ErrBehind):
		return err
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	case errors.Is(err, rpctypes.ErrNoSpace):
		return directory.ErrFull
	case errors.Is(err, rpctypes.ErrCompacted):
		return directory.ErrCompacted
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), code(err) == codes.DeadlineExceeded:
		return fmt.Errorf("%w: no answer in time: %w", directory.ErrUnavailable, err)
	}
	if c := code(err); c == codes.Unavailable || c == codes.Canceled || c == codes.Aborted {
		return fmt.Errorf("%w: %w", directory.ErrUnavailable, err)
	}
	return err
}

// code is the gRPC code of an error. status.Code does not know that of an EtcdError.
func code(err error) codes.Code {
	if e, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		return e.Code()
	}
	return status.Code(err)
}

// probe makes a call that fails as soon as no connection could be made, and then knows why. The
// client's own calls wait until there is one.
func (s *Store) probe(ctx context.Context, opt Options) error {
	inner, cancel := s.bound(ctx, s.timeout)
	defer cancel()
	req := &pb.RangeRequest{Key: []byte(s.prefix), CountOnly: true}
	r, err := pb.NewKVClient(s.client.ActiveConnection()).Range(inner, req, grpc.WaitForReady(false))
	if err == nil {
		return s.advance(0, r.GetHeader().GetRevision())
	}
	if err = rpctypes.Error(err); code(err) == codes.DeadlineExceeded || inner.Err() != nil {
		return s.silence(ctx, err)
	}
	why := explain(s.translate(ctx, err))
	if opt.TLS == nil || errors.Is(why, ErrTrust) || code(err) != codes.Unavailable {
		return why
	}
	// In TLS 1.3 a server refuses a client's certificate after the client has begun to write, so
	// that gRPC may see a broken connection and miss the reason (RFC 8446, 4.4.2.4).
	for _, e := range opt.Endpoints {
		if err := handshake(inner, e, opt.TLS); err != nil {
			if better := explain(fmt.Errorf("%w: %w", directory.ErrUnavailable, err)); errors.Is(better, ErrTrust) {
				return better
			}
		}
	}
	return why
}

// handshake connects to an endpoint as gRPC does, and waits for what the server says first: the
// settings of HTTP/2, or why it refuses.
func handshake(ctx context.Context, endpoint string, conf *tls.Config) error {
	u, err := url.Parse(endpoint)
	if err != nil {
		return err
	}
	network, address, name := "tcp", u.Host, u.Hostname()
	if u.Scheme == "unixs" {
		network, address, name = "unix", u.Path, path.Base(u.Path)
	}
	conf = conf.Clone()
	conf.NextProtos = []string{"h2"}
	if conf.ServerName == "" {
		conf.ServerName = name
	}
	conn, err := (&tls.Dialer{Config: conf}).DialContext(ctx, network, address)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // only read from
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetReadDeadline(deadline); err != nil {
			return err
		}
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}

// silence says why an etcd that was connected to, or would not be, did not answer.
func (s *Store) silence(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return s.translate(ctx, err)
	}
	inner, cancel := context.WithTimeout(ctx, s.timeout/3)
	defer cancel()
	// Each member answers this by itself.
	r, again := pb.NewMaintenanceClient(s.client.ActiveConnection()).Status(inner, &pb.StatusRequest{}, grpc.WaitForReady(false))
	if again == nil && r.GetLeader() == 0 {
		return fmt.Errorf("%w: its members have no leader: more than half of them must run and reach each other", directory.ErrUnavailable)
	}
	return s.translate(ctx, err)
}

// explain adds to the reason why a connection could not be made what to do. gRPC gives the
// reason as text alone.
func explain(err error) error {
	said := err.Error()
	has := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(said, p) {
				return true
			}
		}
		return false
	}
	switch {
	case has("remote error: tls: certificate required"):
		return fmt.Errorf("%w: it wants a certificate of its CA, and this host gave none: %w", ErrTrust, err)
	case has("remote error: tls: expired certificate"):
		return fmt.Errorf("%w: by its clock the certificate of this host is not valid: compare the clocks of both: %w", ErrTrust, err)
	case has("remote error: tls:"):
		return fmt.Errorf("%w: it refuses the certificate of this host: %w", ErrTrust, err)
	case has("x509: certificate signed by unknown authority"):
		return fmt.Errorf("%w: its certificate is of another CA than was given: %w", ErrTrust, err)
	case has("x509:"):
		return fmt.Errorf("%w: its certificate is not valid for this endpoint: %w", ErrTrust, err)
	case has("first record does not look like a TLS handshake"):
		return fmt.Errorf("%w, or it has no TLS: %w", ErrNotEtcd, err)
	case has("HTTP/1", "missing selected ALPN property", "unexpected HTTP status code", "server preface"),
		code(err) == codes.Unimplemented, code(err) == codes.Unknown && has("content-type"):
		return fmt.Errorf("%w, or it wants TLS: %w", ErrNotEtcd, err)
	case has("authentication handshake failed") && !has("EOF", "connection reset", "broken pipe", "timeout", "deadline"):
		return fmt.Errorf("%w: this host refuses its certificate: %w", ErrTrust, err)
	default:
		return err
	}
}
