package control

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "github.com/snapctl/snapctl/vem/control/controlpb"
	"github.com/snapctl/snapctl/vem/control/message"
)

// deadline gives a context the default deadline if it has none.
func deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, DefaultTimeout)
}

// inProtocol says in the metadata of a call which version of the protocol it is in.
func inProtocol(ctx context.Context, v uint32) context.Context {
	return metadata.AppendToOutgoingContext(ctx, protocolKey, strconv.FormatUint(uint64(v), 10))
}

// call makes a call, and makes it again when the connection is lost in the middle of it.
func call[A any](ctx context.Context, p *Peers, host string, do func(context.Context, pb.PeerClient, *link) (A, error)) (A, error) {
	var none A
	l, err := p.link(host)
	if err != nil {
		return none, err
	}
	ctx, cancel := deadline(ctx)
	defer cancel()
	var again retry
	for {
		protocol, err := l.ready(ctx, again.maybeDone)
		if err != nil {
			return none, err
		}
		a, err := do(inProtocol(ctx, protocol), pb.NewPeerClient(l.calls), l)
		if err == nil {
			return a, nil
		}
		if err := again.after(ctx, l, err); err != nil {
			return none, err
		}
	}
}

// maxVersions is how often a host may forget the version of the protocol that it chose.
const maxVersions = 2

// retry knows when a call is to be made again.
type retry struct {
	maybeDone bool // an attempt was cut: the host may have done it
	versions  int  // how often the host did not know the protocol version
	pause     time.Duration
}

// after waits until a call can be made again that ended with an error, or returns what the caller
// is told.
func (r *retry) after(ctx context.Context, l *link, err error) error {
	if invalid, ok := errors.AsType[*message.InvalidError](err); ok {
		return l.invalid(invalid)
	}
	s := status.Convert(err)
	said := message.FromStatus(s, l.host, l.opts.Self)
	var (
		busy    *message.BusyError
		version *message.VersionError
	)
	switch {
	case errors.As(said, &busy):
		return r.wait(ctx, l, busy.After, &busy.RefusedError)
	case errors.As(said, &version) && r.versions < maxVersions:
		r.versions++
		l.greetAgain()
		return nil
	case said != nil:
		return said
	case ctx.Err() != nil:
		return l.late(ctx)
	case s.Code() == codes.Unavailable, s.Code() == codes.Canceled:
		r.maybeDone = true
		r.pause = min(max(2*r.pause, 5*time.Millisecond), 500*time.Millisecond)
		return r.wait(ctx, l, r.pause, nil)
	case s.Code() == codes.DeadlineExceeded:
		return &UnreachableError{Host: l.host, Err: context.DeadlineExceeded}
	default:
		return &message.RefusedError{By: l.host, Why: message.OneLine(s.Message())}
	}
}

// wait waits for a while; if ctx ends first it returns late, or that ctx has ended.
func (r *retry) wait(ctx context.Context, l *link, d time.Duration, late error) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		if late != nil && !errors.Is(ctx.Err(), context.Canceled) {
			return late
		}
		return l.late(ctx)
	}
}

// named returns an ID, which is a new one if it is zero.
func named(id message.ID) message.ID {
	if id == (message.ID{}) {
		return message.NewID()
	}
	return id
}

// Resolve asks a host who has an address.
func (p *Peers) Resolve(ctx context.Context, host, network string, a netip.Addr) (message.Owner, error) {
	m := &pb.ResolveRequest{Network: network, Address: message.ToAddr(a)}
	if _, _, err := message.FromResolve(m); err != nil {
		return message.Owner{}, err
	}
	return call(ctx, p, host, func(ctx context.Context, c pb.PeerClient, _ *link) (message.Owner, error) {
		answer, err := c.Resolve(ctx, m)
		if err != nil {
			return message.Owner{}, err
		}
		return message.FromOwner(answer)
	})
}

// Connect asks a host for a channel, and for routes between two endpoints over it.
func (p *Peers) Connect(ctx context.Context, host string, r message.ConnectRequest) (message.Channel, error) {
	r.ID = named(r.ID)
	m := message.ToConnect(r)
	if _, err := message.FromConnect(m); err != nil {
		return message.Channel{}, err
	}
	return call(ctx, p, host, func(ctx context.Context, c pb.PeerClient, _ *link) (message.Channel, error) {
		answer, err := c.Connect(ctx, m)
		if err != nil {
			return message.Channel{}, err
		}
		return message.FromChannel(answer.GetChannel())
	})
}

// Switch asks a host to let their channel use another module, or other addresses.
func (p *Peers) Switch(ctx context.Context, host string, r message.SwitchRequest) (message.Channel, error) {
	r.ID = named(r.ID)
	m := message.ToSwitch(r)
	if _, err := message.FromSwitch(m); err != nil {
		return message.Channel{}, err
	}
	return call(ctx, p, host, func(ctx context.Context, c pb.PeerClient, _ *link) (message.Channel, error) {
		answer, err := c.Switch(ctx, m)
		if err != nil {
			return message.Channel{}, err
		}
		return message.FromChannel(answer.GetChannel())
	})
}

// Disconnect asks a host to take routes, or their channel, down.
func (p *Peers) Disconnect(ctx context.Context, host string, r message.DisconnectRequest) error {
	r.ID = named(r.ID)
	var c message.Checks
	c.Disconnect(r, p.opts.Self.Host, host)
	if c.Err != nil {
		return c.Err
	}
	m := message.ToDisconnect(r, p.opts.Self.Host)
	_, err := call(ctx, p, host, func(ctx context.Context, c pb.PeerClient, _ *link) (*pb.DisconnectAnswer, error) {
		return c.Disconnect(ctx, m)
	})
	return err
}

// Introduce tells a host of endpoints that this one has got.
func (p *Peers) Introduce(ctx context.Context, host string, r message.IntroduceRequest) error {
	var c message.Checks
	if c.Introduce(r); c.Err != nil {
		return c.Err
	}
	m := message.ToIntroduce(r)
	_, err := call(ctx, p, host, func(ctx context.Context, c pb.PeerClient, _ *link) (*pb.IntroduceAnswer, error) {
		return c.Introduce(ctx, m)
	})
	return err
}

// Counters asks a host for the counters of the channels between both, in a network or, if it is
// "", in all.
func (p *Peers) Counters(ctx context.Context, host, network string) ([]message.Counters, error) {
	return call(ctx, p, host, func(ctx context.Context, c pb.PeerClient, _ *link) ([]message.Counters, error) {
		answer, err := c.Counters(ctx, &pb.CountersRequest{Network: network})
		if err != nil {
			return nil, err
		}
		return message.FromCounters(answer)
	})
}

// Renew asks a host to sign a request for a certificate of this host: PKCS #10, DER.
func (p *Peers) Renew(ctx context.Context, host string, id message.ID, csr []byte) (message.Credentials, error) {
	id = named(id)
	m := &pb.RenewRequest{Call: id[:], Csr: csr}
	if _, _, err := message.FromRenew(m); err != nil {
		return message.Credentials{}, err
	}
	return call(ctx, p, host, func(ctx context.Context, c pb.PeerClient, _ *link) (message.Credentials, error) {
		answer, err := c.Renew(ctx, m)
		if err != nil {
			return message.Credentials{}, err
		}
		return message.FromRenewed(answer)
	})
}

// Reconcile compares the table of this host with that of another. If they say the same it returns
// ours, and equal. Otherwise the other host keeps what is newer of both, and Reconcile returns
// what both have from now on, as this host sees it.
func (p *Peers) Reconcile(ctx context.Context, host string, ours message.Table) (merged message.Table, equal bool, err error) {
	self := p.opts.Self.Host
	var c message.Checks
	c.Table(ours, self, host)
	if c.Err != nil {
		return message.Table{}, false, c.Err
	}
	digest := ours.Digest(self, host)
	merged, err = call(ctx, p, host, func(ctx context.Context, c pb.PeerClient, _ *link) (message.Table, error) {
		equal = false
		ctx, cancel := context.WithCancel(ctx)
		defer cancel() // ends the stream if it has not ended
		ss, err := c.Reconcile(ctx)
		if err != nil {
			return message.Table{}, err
		}
		if err := ss.Send(&pb.TablePart{Network: ours.Network, Digest: digest[:]}); err != nil && !errors.Is(err, io.EOF) {
			return message.Table{}, err
		}
		first, err := ss.Recv() // tells why Send has failed, too
		if err != nil {
			return message.Table{}, noEnd(err)
		}
		if first.GetEqual() {
			equal = true
			return ours, nil
		}
		if err := message.SendTable(ss.Send, ours, self); err != nil && !errors.Is(err, io.EOF) {
			return message.Table{}, err
		}
		return message.ReceiveTable(func() (*pb.TablePart, error) {
			part, err := ss.Recv()
			return part, noEnd(err)
		}, ours.Network, host, self)
	})
	return merged, equal, err
}

// noEnd makes the end of a stream, where it has to go on, an error.
func noEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return &message.InvalidError{What: "answer", Why: "ends too early"}
	}
	return err
}
