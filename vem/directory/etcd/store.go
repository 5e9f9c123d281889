package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/snapctl/snapctl/vem/directory"
)

// Options says where the directory is.
type Options struct {
	// Endpoints are the client URLs of the members: https://HOST:PORT, or unixs:///PATH for a unix
	// socket. Without TLS they are http://HOST:PORT and unix:///PATH.
	Endpoints []string
	// TLS has the certificate of this host and the CA of the members. Nil: no TLS.
	TLS *tls.Config
	// Prefix is what all keys begin with in etcd. It gets a slash at its end if it has none, so
	// that no installation sees the keys of another one whose name begins with its own.
	Prefix string
	// Timeout is for each call whose context has no deadline; 0: 5 s.
	Timeout time.Duration
	// Log is told of entries that could not be kept alive, and are again. It is required.
	Log *slog.Logger
}

const defaultTimeout = 5 * time.Second

// Pings find a member that stands still, or is cut off, by 13 seconds: the kernel of the first
// still acknowledges what is sent to it. gRPC allows none more often than every 10 seconds
// (keepalive.ClientParameters), etcd's server 5.
const (
	pingEvery = 10 * time.Second
	pingWait  = 3 * time.Second
)

// Store is the directory in an etcd cluster. It implements [directory.Store].
type Store struct {
	client  *clientv3.Client
	prefix  string
	timeout time.Duration
	log     *slog.Logger
	seen    atomic.Int64 // the highest revision of any answer

	close  sync.Once
	closed chan struct{}
}

var _ directory.Store = (*Store)(nil)

// Open connects to the directory, and reads from it once. If that fails the error says what is
// wrong: it wraps [ErrTrust], [ErrNotEtcd] or [directory.ErrUnavailable].
func Open(ctx context.Context, opt Options) (*Store, error) {
	s := &Store{prefix: opt.Prefix, timeout: opt.Timeout, log: opt.Log, closed: make(chan struct{})}
	if s.timeout == 0 {
		s.timeout = defaultTimeout
	}
	if opt.Prefix == "" {
		return nil, errors.New("open directory: no prefix for its keys was given")
	}
	if !strings.HasSuffix(s.prefix, "/") {
		s.prefix += "/"
	}
	var err error
	if s.client, err = Dial(opt.Endpoints, opt.TLS); err != nil {
		return nil, fmt.Errorf("open directory: %w", err)
	}
	if err := s.probe(ctx, opt); err != nil {
		return nil, errors.Join(fmt.Errorf("open directory at %s: %w", strings.Join(opt.Endpoints, ", "), err), s.Close())
	}
	return s, nil
}

// Dial returns a client of an etcd cluster that logs nothing and finds out by itself that a
// member has gone. It connects to nothing yet. The caller closes it.
func Dial(endpoints []string, conf *tls.Config) (*clientv3.Client, error) {
	if len(endpoints) == 0 {
		return nil, errors.New("no endpoint of etcd was given")
	}
	for _, e := range endpoints {
		// The client drops TLS for such endpoints without a word (CREDS_DROP in its
		// internal/endpoint), and needs it for the others.
		plain := strings.HasPrefix(e, "http://") || strings.HasPrefix(e, "unix://")
		secure := strings.HasPrefix(e, "https://") || strings.HasPrefix(e, "unixs://")
		switch {
		case !plain && !secure:
			return nil, fmt.Errorf("endpoint %q of etcd: want https://HOST:PORT or unixs:///PATH", e)
		case plain && conf != nil:
			return nil, fmt.Errorf("endpoint %q of etcd is one without TLS: want https or unixs", e)
		case secure && conf == nil:
			return nil, fmt.Errorf("endpoint %q of etcd needs TLS, and no certificate was given", e)
		}
	}
	return clientv3.New(clientv3.Config{
		Endpoints:            endpoints,
		TLS:                  conf,
		DialKeepAliveTime:    pingEvery,
		DialKeepAliveTimeout: pingWait,
		Logger:               zap.NewNop(), // it would write to stderr
	})
}

// SetEndpoints says where the members are from now on: one of them at least is at one of these
// URLs, of the kind that Options had.
func (s *Store) SetEndpoints(urls []string) { s.client.SetEndpoints(urls...) }

// Close lets go of the cluster, and fails what is under way.
func (s *Store) Close() error {
	var err error
	s.close.Do(func() {
		close(s.closed)
		err = s.client.Close()
		if errors.Is(err, context.Canceled) { // what the client's own context ended with
			err = nil
		}
	})
	return err
}

// write does one call within the deadline of ctx, or the store's own.
func (s *Store) write(ctx context.Context, do func(ctx context.Context) error) error {
	inner, cancel := s.bound(ctx, s.timeout)
	defer cancel()
	return s.translate(ctx, do(inner))
}

// read does a call that changes nothing, again if no answer comes for a while: each member gets
// its turn, and one that stands still is not the whole directory. A member that has much to do gets
// more time each time. within is for a ctx that has no deadline.
func (s *Store) read(ctx context.Context, within time.Duration, do func(ctx context.Context) error) error {
	inner, cancel := s.bound(ctx, within)
	defer cancel()
	for wait := s.timeout / 3; ; wait *= 2 {
		attempt, end := context.WithTimeout(inner, wait)
		err := do(attempt)
		late := attempt.Err() != nil
		end()
		if err == nil || !late || inner.Err() != nil {
			return s.translate(ctx, err)
		}
	}
}

// bound gives a call the deadline of ctx, or one of its own, and ends it when the store is closed: the
// client tries a read on a closed connection again and again.
func (s *Store) bound(ctx context.Context, within time.Duration) (context.Context, context.CancelFunc) {
	var cancel context.CancelFunc
	if _, ok := ctx.Deadline(); ok {
		ctx, cancel = context.WithCancel(ctx)
	} else {
		ctx, cancel = context.WithTimeout(ctx, within)
	}
	stop := context.AfterFunc(s.client.Ctx(), cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// advance enters the revision of an answer that no answer to an earlier call may be above:
// before is the highest revision that was known when the call began.
func (s *Store) advance(before, revision int64) error {
	if revision < before {
		return fmt.Errorf("%w: it is at revision %d, and was at %d", directory.ErrBehind, revision, before)
	}
	for {
		old := s.seen.Load()
		if revision <= old || s.seen.CompareAndSwap(old, revision) {
			return nil
		}
	}
}
