package control

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/snapctl/snapctl/vem/control/batch"
	pb "github.com/snapctl/snapctl/vem/control/controlpb"
	"github.com/snapctl/snapctl/vem/control/message"
)

// again is how long a link waits until it greets a host once more that refused to be greeted.
const again = 10 * time.Second

// link is the way to one host: a connection for calls, which is kept up, and one for streams,
// which is made when there is one.
//
//	dialling --> connected --Hello--> greeted --> calls
//	   ^  \___________________________/ lost
type link struct {
	host    string
	opts    *PeersOptions
	ctx     context.Context //nolint:containedctx // ends when the link is closed
	cancel  context.CancelFunc
	calls   *grpc.ClientConn
	streams *grpc.ClientConn

	mu       sync.Mutex
	addrs    []Address        // in the order in which they are tried
	current  *dialled         // for calls; nil: there is none
	lost     int              // how many connections for calls were lost
	greeted  bool             // on the current connection
	greeting message.Greeting // the last one
	since    time.Time
	err      error         // why there is no connection, or no greeting
	changed  chan struct{} // closed and replaced when something above has changed
}

func newLink(ctx context.Context, host string, o *PeersOptions) (*link, error) {
	l := &link{host: host, opts: o, changed: make(chan struct{})}
	l.ctx, l.cancel = context.WithCancel(ctx)
	var err error
	if l.calls, err = newClient(l.dialCalls, grpc.WithIdleTimeout(0)); err != nil {
		return nil, err
	}
	if l.streams, err = newClient(l.dialStreams, grpc.WithIdleTimeout(time.Minute)); err != nil {
		return nil, errors.Join(err, l.calls.Close())
	}
	return l, nil
}

// newClient returns a client of gRPC that gets its connections from dial.
func newClient(dial func(context.Context, string) (net.Conn, error), opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	pace := backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second}
	return grpc.NewClient("passthrough:///control", append(opts, // no name to resolve: the dialer knows
		grpc.WithContextDialer(dial),
		grpc.WithTransportCredentials(atDialer{}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: pace, MinConnectTimeout: 2 * oneDial}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second, PermitWithoutStream: true}),
		grpc.WithStaticStreamWindowSize(StreamWindow), grpc.WithStaticConnWindowSize(2*StreamWindow),
		grpc.WithWriteBufferSize(batch.WriteBytes),
		grpc.WithMaxHeaderListSize(8<<10),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(message.MaxMessage), grpc.MaxCallSendMsgSize(message.MaxMessage)),
		grpc.WithNoProxy(), grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(),
	)...)
}

// broadcast tells all who wait that something has changed. l.mu is held.
func (l *link) broadcast() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// set gives the link other addresses.
func (l *link) set(addrs []Address) {
	l.mu.Lock()
	l.addrs = addrs
	if l.current == nil {
		l.err = nil // it is of the addresses before
	}
	gone := l.current
	if gone != nil && slices.Contains(addrs, gone.address) {
		gone = nil
	}
	l.broadcast()
	l.mu.Unlock()
	if gone != nil {
		_ = gone.Close()
	}
	l.calls.ResetConnectBackoff()
	l.streams.ResetConnectBackoff()
}

// close ends the link, and all calls that are under way.
func (l *link) close() {
	l.cancel()
	_ = l.calls.Close() // an error only says that it was closed before
	_ = l.streams.Close()
}

// dial makes a connection to the host.
func (l *link) dial(ctx context.Context) (*dialled, []Attempt) {
	l.mu.Lock()
	addrs := l.addrs
	l.mu.Unlock()
	d := dialer{tls: l.opts.TLS(l.host), verify: l.verify, explain: l.opts.Explain}
	return d.dial(ctx, addrs)
}

// verify Checks that the other end is the host that was meant.
func (l *link) verify(cs tls.ConnectionState) error {
	if host, ok := l.opts.PeerOf(cs); !ok || host != l.host {
		return fmt.Errorf("host %.80q answers there", host)
	}
	return nil
}

// dialCalls makes the connection for calls, for gRPC.
func (l *link) dialCalls(ctx context.Context, _ string) (net.Conn, error) {
	c, tried := l.dial(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.broadcast()
	if c == nil {
		l.err = &UnreachableError{Host: l.host, Tried: tried}
		return nil, l.err
	}
	l.current, l.err = c, nil
	c.closed = func() { l.closed(c) }
	return c, nil
}

// closed notes that a connection for calls was lost.
func (l *link) closed(c *dialled) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current != c {
		return
	}
	l.current, l.greeted = nil, false
	l.lost++
	l.broadcast()
}

// dialStreams makes the connection for streams, for gRPC.
func (l *link) dialStreams(ctx context.Context, _ string) (net.Conn, error) {
	c, tried := l.dial(ctx)
	if c == nil {
		return nil, &UnreachableError{Host: l.host, Tried: tried}
	}
	return c, nil
}

// errLost is that a connection was lost, or could not be made.
var errLost = errors.New("the connection was lost")

// keep has the host greeted whenever there is a new connection, until the link is closed.
func (l *link) keep() {
	for l.ctx.Err() == nil {
		lost := l.losses()
		g, err := l.hello()
		if l.ctx.Err() != nil {
			return
		}
		news, changed := l.note(lost, g, err)
		if news {
			l.tell()
		}
		if err != nil {
			l.pause(changed, err)
			continue
		}
		l.waitLost(lost)
		if l.ctx.Err() == nil {
			l.tell()
		}
	}
}

func (l *link) losses() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

// tell tells the user how it stands with the host.
func (l *link) tell() {
	if l.opts.Changed != nil {
		l.opts.Changed(l.status())
	}
}

// hello greets the host, on a connection that is made if need be. Returns errLost if the host
// did not answer.
func (l *link) hello() (message.Greeting, error) {
	ctx, cancel := context.WithTimeout(l.ctx, again)
	defer cancel()
	self := l.opts.Self
	begin := time.Now()
	m, err := pb.NewPeerClient(l.calls).Hello(ctx, &pb.HelloRequest{
		Protocols: message.ToRange(self.Protocols), Version: self.Version, Host: self.Host, Boot: self.Boot, ClockUnixNs: begin.UnixNano(),
	}, grpc.WaitForReady(true))
	if err != nil {
		if said := message.FromStatus(status.Convert(err), l.host, self); said != nil {
			return message.Greeting{}, said
		}
		return message.Greeting{}, errLost
	}
	g, clock, err := message.FromHelloAnswer(m)
	if err != nil {
		return message.Greeting{}, l.invalid(err)
	}
	if !self.Protocols.Has(g.Protocol) {
		return message.Greeting{}, &message.VersionError{Host: l.host, Ours: self.Protocols, OurVersion: self.Version, Theirs: g.Protocols, TheirVersion: g.Version}
	}
	g.RoundTrip = time.Since(begin)
	g.Skew = clock.Sub(begin.Add(g.RoundTrip / 2))
	return g, nil
}

// note keeps what came of a greeting. It tells whether there is news, and what is closed when
// something changes after it.
func (l *link) note(lost int, g message.Greeting, err error) (news bool, changed <-chan struct{}) {
	if version, ok := errors.AsType[*message.VersionError](err); ok {
		l.opts.Log.Warn("can't talk to a host", slog.String("host", l.host), slog.String("error", err.Error()), slog.String("hint", version.Remedy()))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil && lost == l.lost && l.current != nil:
		l.greeted, l.greeting, l.since, l.err = true, g, time.Now(), nil
		news = true
	case err != nil && !errors.Is(err, errLost):
		l.err = err
		news = true
	}
	l.broadcast()
	return news, l.changed
}

// pause waits a while after a host could not be greeted: gRPC waits between its attempts to
// connect, and what a host refuses is asked for seldom, or when something has changed.
func (l *link) pause(changed <-chan struct{}, err error) {
	wait := again
	if errors.Is(err, errLost) {
		wait = 50 * time.Millisecond
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-changed:
	case <-l.ctx.Done():
	}
}

// waitLost waits until the connection is lost that was the current one, or until the host has to
// be greeted again.
func (l *link) waitLost(lost int) {
	for {
		l.mu.Lock()
		again, changed := lost != l.lost || !l.greeted, l.changed
		l.mu.Unlock()
		if again {
			return
		}
		select {
		case <-changed:
		case <-l.ctx.Done():
			return
		}
	}
}

// greetAgain has the host greeted on the connection that is there: it does not know the version
// of the protocol that it chose.
func (l *link) greetAgain() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.greeted = false
	l.broadcast()
}

// ready waits until the host has been greeted, and returns the version of the protocol. If there
// is no connection it fails, unless the caller is patient: then it waits until ctx ends.
func (l *link) ready(ctx context.Context, patient bool) (protocol uint32, err error) {
	for {
		l.mu.Lock()
		greeted, why, changed := l.greeted, l.err, l.changed
		protocol = l.greeting.Protocol
		l.mu.Unlock()
		var unreachable *UnreachableError
		switch {
		case greeted:
			return protocol, nil
		case why != nil && (!patient || !errors.As(why, &unreachable)):
			return 0, why
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, l.late(ctx)
		case <-l.ctx.Done():
			return 0, &UnreachableError{Host: l.host, Err: l.ctx.Err()}
		}
	}
}

// late says that a call has ended since its context has.
func (l *link) late(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("call host %s: %w", l.host, context.Cause(ctx))
	}
	e := &UnreachableError{Host: l.host, Err: context.DeadlineExceeded}
	l.mu.Lock()
	defer l.mu.Unlock()
	if before, ok := errors.AsType[*UnreachableError](l.err); ok {
		e.Tried = before.Tried
	} else if l.current != nil {
		e.Tried = []Attempt{{Address: l.current.address, Err: errors.New("connected")}}
	}
	return e
}

// invalid says that a host has said something that it may not say.
func (l *link) invalid(err error) error {
	return &message.RefusedError{By: l.host, Why: "its answer is not valid: " + err.Error(), Hint: "upgrade snapctl on the older of both hosts"}
}

func (l *link) status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Status{Host: l.host, Connected: l.greeted, Greeting: l.greeting, Err: l.err}
	if l.greeted && l.current != nil {
		s.Address, s.Since, s.TLS = l.current.address, l.since, &l.current.state
	}
	return s
}
