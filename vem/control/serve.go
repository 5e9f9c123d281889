package control

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	pb "github.com/snapctl/snapctl/vem/control/controlpb"
	"github.com/snapctl/snapctl/vem/control/limit"
	"github.com/snapctl/snapctl/vem/control/message"
	"github.com/snapctl/snapctl/vem/control/once"
)

// protocolKey is the metadata that says which version of the protocol a call is made in.
const protocolKey = "snapctl-protocol"

// unary surrounds each call that has one answer: it gives it a deadline, and its error a form
// that reaches the caller.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Limits.Call)
	defer cancel()
	resp, err := handle(ctx, req)
	s.tell(ctx, info.FullMethod, err)
	return resp, message.ToStatus(err, s.opts.Self)
}

// stream does the same for streams, which have no deadline.
func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	err := handle(srv, ss)
	s.tell(ss.Context(), info.FullMethod, err)
	return message.ToStatus(err, s.opts.Self)
}

// tell writes what the operator of this host should know of a call that failed.
func (s *Server) tell(ctx context.Context, method string, err error) {
	var (
		version *message.VersionError
		invalid *message.InvalidError
	)
	if !errors.As(err, &version) && !errors.As(err, &invalid) {
		return
	}
	p, _ := caller(ctx)
	s.noisy.Do(func() {
		s.opts.Log.WarnContext(ctx, "refused a call on the control channel",
			slog.String("host", p.Host), slog.String("from", p.Address.String()), slog.String("call", method), slog.String("error", err.Error()))
	})
}

// enter returns who asks, in a version of the protocol that both speak.
func (s *Server) enter(ctx context.Context) (message.Caller, error) {
	who, ok := caller(ctx)
	if !ok {
		return message.Caller{}, &message.RefusedError{Why: "no certificate of a host came", Hint: "join the installation first: snapctl host join"}
	}
	said := metadata.ValueFromIncomingContext(ctx, protocolKey)
	if len(said) != 1 {
		return message.Caller{}, &message.InvalidError{What: protocolKey, Why: "is missing"}
	}
	v, err := strconv.ParseUint(said[0], 10, 32)
	if err != nil {
		return message.Caller{}, &message.InvalidError{What: protocolKey, Why: "is no number"}
	}
	if who.Protocol = uint32(v); !s.opts.Self.Protocols.Has(who.Protocol) {
		return message.Caller{}, s.versionError(who.Host, message.Range{Min: who.Protocol, Max: who.Protocol}, "")
	}
	return who, nil
}

func (s *Server) versionError(host string, theirs message.Range, version string) *message.VersionError {
	return &message.VersionError{Host: host, Ours: s.opts.Self.Protocols, OurVersion: s.opts.Self.Version, Theirs: theirs, TheirVersion: version}
}

// unserved is that this host has nobody who does what it is asked for.
func unserved(what string) error {
	return &message.RefusedError{Why: "this host does not serve " + what}
}

// doOnce does a call whose effect must not happen twice.
func doOnce[A proto.Message](ctx context.Context, s *Server, name once.Name, req proto.Message, do func(context.Context) (A, error)) (A, error) {
	var none A
	said, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	if err != nil {
		return none, err
	}
	digest := sha256.Sum256(append([]byte(req.ProtoReflect().Descriptor().FullName()), said...))
	answer, err := s.answers.Do(ctx, name, digest, func(ctx context.Context) (proto.Message, error) { return do(ctx) })
	if err != nil {
		return none, err
	}
	return answer.(A), nil //nolint:errcheck,forcetypeassert // the digest has the request's type
}

// peerService is what hosts of the installation may ask.
type peerService struct {
	pb.UnimplementedPeerServer
	*Server
}

func (s *peerService) Hello(ctx context.Context, m *pb.HelloRequest) (*pb.HelloAnswer, error) {
	who, ok := caller(ctx)
	if !ok {
		return nil, &message.RefusedError{Why: "no certificate of a host came"}
	}
	said, clock, err := message.FromHello(m)
	if err != nil {
		return nil, err
	}
	if said.Host != who.Host {
		return nil, &message.RefusedError{Why: "its certificate is that of " + who.Host + ", and it says that it is " + said.Host}
	}
	self := s.opts.Self
	if who.Protocol, ok = self.Protocols.Common(said.Protocols); !ok {
		return nil, s.versionError(who.Host, said.Protocols, said.Version)
	}
	now := time.Now()
	if h := s.opts.Handlers.Hosts; h != nil {
		h.Greeted(who, message.Greeting{Self: said, Protocol: who.Protocol, Skew: clock.Sub(now)})
	}
	return &pb.HelloAnswer{
		Protocol: who.Protocol, Protocols: message.ToRange(self.Protocols),
		Version: self.Version, Host: self.Host, Boot: self.Boot, ClockUnixNs: now.UnixNano(),
	}, nil
}

func (s *peerService) Resolve(ctx context.Context, m *pb.ResolveRequest) (*pb.ResolveAnswer, error) {
	who, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	network, a, err := message.FromResolve(m)
	if err != nil {
		return nil, err
	}
	if s.opts.Handlers.Owners == nil {
		return nil, unserved("owners")
	}
	o, err := s.opts.Handlers.Owners.Resolve(ctx, who, network, a)
	if err != nil {
		return nil, err
	}
	return message.ToOwner(o), nil
}

// channels returns who agrees about channels with the host that asks.
func (s *peerService) channels(ctx context.Context) (message.Caller, Channels, error) {
	who, err := s.enter(ctx)
	if err == nil && s.opts.Handlers.Channels == nil {
		err = unserved("channels")
	}
	return who, s.opts.Handlers.Channels, err
}

func (s *peerService) Connect(ctx context.Context, m *pb.ConnectRequest) (*pb.ChannelAnswer, error) {
	who, channels, err := s.channels(ctx)
	if err != nil {
		return nil, err
	}
	r, err := message.FromConnect(m)
	if err != nil {
		return nil, err
	}
	return doOnce(ctx, s.Server, once.Name{Peer: who.Host, ID: r.ID}, m, func(ctx context.Context) (*pb.ChannelAnswer, error) {
		return channelAnswer(channels.Connect(ctx, who, r))
	})
}

func (s *peerService) Switch(ctx context.Context, m *pb.SwitchRequest) (*pb.ChannelAnswer, error) {
	who, channels, err := s.channels(ctx)
	if err != nil {
		return nil, err
	}
	r, err := message.FromSwitch(m)
	if err != nil {
		return nil, err
	}
	return doOnce(ctx, s.Server, once.Name{Peer: who.Host, ID: r.ID}, m, func(ctx context.Context) (*pb.ChannelAnswer, error) {
		return channelAnswer(channels.Switch(ctx, who, r))
	})
}

func channelAnswer(ch message.Channel, err error) (*pb.ChannelAnswer, error) {
	if err != nil {
		return nil, err
	}
	return &pb.ChannelAnswer{Channel: message.ToChannel(ch)}, nil
}

func (s *peerService) Disconnect(ctx context.Context, m *pb.DisconnectRequest) (*pb.DisconnectAnswer, error) {
	who, channels, err := s.channels(ctx)
	if err != nil {
		return nil, err
	}
	r, err := message.FromDisconnect(m, who.Host, s.opts.Self.Host)
	if err != nil {
		return nil, err
	}
	return doOnce(ctx, s.Server, once.Name{Peer: who.Host, ID: r.ID}, m, func(ctx context.Context) (*pb.DisconnectAnswer, error) {
		return new(pb.DisconnectAnswer), channels.Disconnect(ctx, who, r)
	})
}

func (s *peerService) Introduce(ctx context.Context, m *pb.IntroduceRequest) (*pb.IntroduceAnswer, error) {
	who, channels, err := s.channels(ctx)
	if err != nil {
		return nil, err
	}
	r, err := message.FromIntroduce(m)
	if err != nil {
		return nil, err
	}
	return new(pb.IntroduceAnswer), channels.Introduce(ctx, who, r)
}

func (s *peerService) Counters(ctx context.Context, m *pb.CountersRequest) (*pb.CountersAnswer, error) {
	who, channels, err := s.channels(ctx)
	if err != nil {
		return nil, err
	}
	var c message.Checks
	if m.GetNetwork() != "" {
		c.Name("network", m.GetNetwork())
	}
	if c.Err != nil {
		return nil, c.Err
	}
	all, err := channels.Counters(ctx, who, m.GetNetwork())
	if err != nil {
		return nil, err
	}
	return message.ToCounters(all), nil
}

func (s *peerService) Probe(_ context.Context, m *pb.ProbeRequest) (*pb.ProbeAnswer, error) {
	var c message.Checks
	c.Bytes("padding", m.GetPadding(), 0, MaxPadding)
	c.That(m.GetWantBytes() <= MaxPadding, "wanted padding", "has %d bytes, and may have %d", m.GetWantBytes(), MaxPadding)
	if c.Err != nil {
		return nil, c.Err
	}
	return &pb.ProbeAnswer{Padding: make([]byte, m.GetWantBytes())}, nil
}

func (s *peerService) Renew(ctx context.Context, m *pb.RenewRequest) (*pb.RenewAnswer, error) {
	who, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	id, csr, err := message.FromRenew(m)
	if err != nil {
		return nil, err
	}
	if s.opts.Handlers.Hosts == nil {
		return nil, unserved("certificates")
	}
	return doOnce(ctx, s.Server, once.Name{Peer: who.Host, ID: id}, m, func(ctx context.Context) (*pb.RenewAnswer, error) {
		cr, err := s.opts.Handlers.Hosts.Renew(ctx, who, csr)
		if err != nil {
			return nil, err
		}
		return &pb.RenewAnswer{Chain: cr.Chain, Authorities: cr.Authorities}, nil
	})
}

// Reconcile compares two tables, and exchanges them if they differ.
func (s *peerService) Reconcile(ss pb.Peer_ReconcileServer) error {
	ctx, cancel := context.WithTimeout(ss.Context(), s.opts.Limits.Call)
	defer cancel()
	who, channels, err := s.channels(ctx)
	if err != nil {
		return err
	}
	done, err := s.table.Begin(who.Host, limit.Stream, time.Now())
	if err != nil {
		return err
	}
	defer done()
	start, err := ss.Recv()
	if err != nil {
		return err
	}
	network, digest, err := message.FromStart(start)
	if err != nil {
		return err
	}
	self := s.opts.Self.Host
	ours, err := channels.Table(ctx, who, network)
	if err != nil {
		return err
	}
	mine := ours.Digest(self, who.Host)
	equal := mine == digest
	if err := ss.Send(&pb.TablePart{Digest: mine[:], Equal: equal}); err != nil || equal {
		return err
	}
	theirs, err := message.ReceiveTable(ss.Recv, network, who.Host, self)
	if err != nil {
		return err
	}
	if ours, err = channels.Reconcile(ctx, who, theirs); err != nil {
		return err
	}
	return message.SendTable(ss.Send, ours, self)
}

// joinService is what strangers may ask.
type joinService struct {
	pb.UnimplementedJoinServer
	*Server
}

func (s *joinService) Join(ctx context.Context, m *pb.JoinRequest) (*pb.JoinAnswer, error) {
	r, err := message.FromJoin(m)
	if err != nil {
		return nil, err
	}
	who, _ := caller(ctx) // a stranger, of whom the address is known
	var ok bool
	if who.Protocol, ok = s.opts.Self.Protocols.Common(r.Protocols); !ok {
		return nil, s.versionError(r.Host, r.Protocols, r.Version)
	}
	if s.opts.Handlers.Joins == nil {
		return nil, unserved("hosts that want to join; ask another host of the installation")
	}
	// Whoever has the secret, and asks for the same key, may have the same answer again.
	return doOnce(ctx, s.Server, once.Name{ID: r.ID}, m, func(ctx context.Context) (*pb.JoinAnswer, error) {
		j, err := s.opts.Handlers.Joins.Join(ctx, who, r)
		if err != nil {
			return nil, err
		}
		return message.ToJoined(j), nil
	})
}
