package control

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/proto"

	"github.com/snapctl/snapctl/vem/control/batch"
	pb "github.com/snapctl/snapctl/vem/control/controlpb"
	"github.com/snapctl/snapctl/vem/control/limit"
	"github.com/snapctl/snapctl/vem/control/message"
	"github.com/snapctl/snapctl/vem/control/once"
)

// Limits bound what others may have of a [Server]. Zero means the default of each.
type Limits struct {
	limit.Budget // of each host: 64 calls, 16 streams, 500 a second, 1000 at once

	Connections int           // of each host, those of its probes included: 32
	Handshakes  int           // under way, and of one source at most a quarter: 64
	Strangers   int           // connected, without a certificate, and of one source at most a quarter: 16
	Hurry       time.Duration // within which a handshake, and then a stranger's call, is done: 5 s
	Call        time.Duration // that a handler has at most: 30 s
}

func (l Limits) orDefaults() Limits {
	or(&l.Calls, 64)
	or(&l.Streams, 16)
	or(&l.PerSecond, 500)
	or(&l.Burst, 1000)
	or(&l.Connections, 32)
	or(&l.Handshakes, 64)
	or(&l.Strangers, 16)
	or(&l.Hurry, 5*time.Second)
	or(&l.Call, 30*time.Second)
	return l
}

// or gives a setting that is zero its default.
func or[T comparable](setting *T, value T) {
	var zero T
	if *setting == zero {
		*setting = value
	}
}

// ServerOptions are what a [Server] is made from.
type ServerOptions struct {
	Self message.Self
	// TLS is the server's side of mutual TLS. It asks for a client certificate and verifies the
	// one that it is given; it lets a client without one pass, who may join and nothing else.
	TLS *tls.Config
	// PeerOf returns the host that a verified certificate names; not ok: there was none.
	PeerOf func(tls.ConnectionState) (host string, ok bool)
	// Explain makes an error of a TLS handshake clear; nil: it is taken as it is.
	Explain  func(error) error
	Handlers Handlers
	Limits   Limits
	Log      *slog.Logger
}

// Server answers what other hosts ask. Its methods may be called at the same time.
type Server struct {
	opts    ServerOptions
	door    *door
	peers   *grpc.Server // for hosts with a certificate
	joins   *grpc.Server // for those without one
	calls   *limit.Calls
	answers *once.Memory[proto.Message]
	table   *limit.Calls // one reconciliation of each host at a time
	noisy   *rate.Sometimes

	streams sync.WaitGroup  // their handlers
	stopped context.Context //nolint:containedctx // ends the handlers of streams when the server is closed
	stop    context.CancelFunc
	closing sync.Once
}

// NewServer returns a server that serves nothing yet. ctx bounds the life of its streams. The
// caller closes the server.
func NewServer(ctx context.Context, o ServerOptions) (*Server, error) {
	o.Self.Protocols = o.Self.Protocols.OrOurs()
	o.Limits = o.Limits.orDefaults()
	var c message.Checks
	c.Self(o.Self)
	c.That(o.TLS != nil && o.PeerOf != nil && o.Log != nil, "options", "need TLS, PeerOf and Log")
	if c.Err != nil {
		return nil, fmt.Errorf("make a server of the control channel: %w", c.Err)
	}
	s := &Server{
		opts:    o,
		calls:   limit.NewCalls(o.Limits.Budget),
		answers: once.New(once.Limits{Answers: 4096, Bytes: 1 << 20, For: 2 * time.Minute}, proto.Size),
		table:   limit.NewCalls(limit.Budget{Streams: 1, PerSecond: 100, Burst: 100}),
		noisy:   &rate.Sometimes{First: 10, Interval: time.Minute},
	}
	s.stopped, s.stop = context.WithCancel(ctx)
	s.door = newDoor(o)
	s.peers = s.newGRPC(o.Limits.Hurry, 32, grpc.InTapHandle(s.tap), grpc.MaxRecvMsgSize(message.MaxMessage),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 15 * time.Second, Timeout: 5 * time.Second, MaxConnectionAge: time.Hour}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.StaticStreamWindowSize(StreamWindow), grpc.StaticConnWindowSize(2*StreamWindow),
	)
	pb.RegisterPeerServer(s.peers, &peerService{Server: s})
	s.joins = s.newGRPC(o.Limits.Hurry, 1, grpc.MaxRecvMsgSize(message.MaxMessage/2),
		grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error {
			return &message.RefusedError{Why: "only hosts of the installation may ask this, and no certificate of a host came", Hint: "join the installation first: snapctl host join"}
		}),
	)
	pb.RegisterJoinServer(s.joins, &joinService{Server: s})
	return s, nil
}

func (s *Server) newGRPC(hurry time.Duration, streams uint32, opts ...grpc.ServerOption) *grpc.Server {
	return grpc.NewServer(append(opts,
		grpc.Creds(atDoor{}),
		grpc.ConnectionTimeout(hurry),
		grpc.MaxConcurrentStreams(streams),
		grpc.WriteBufferSize(batch.WriteBytes),
		grpc.MaxHeaderListSize(8<<10),
		grpc.MaxSendMsgSize(message.MaxMessage),
		grpc.WaitForHandlers(true),
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.stream),
	)...)
}

// Serve answers who connects to a listener, which it closes, until the server is closed: then it
// returns nil. It can be called for several listeners at the same time.
func (s *Server) Serve(ln net.Listener) error {
	peers, joins := s.door.halls()
	var wait sync.WaitGroup
	defer wait.Wait()
	wait.Go(func() { _ = s.peers.Serve(peers) }) // ends when the hall is closed
	wait.Go(func() { _ = s.joins.Serve(joins) })
	err := s.door.serve(s.stopped, ln, peers, joins)
	if errors.Is(err, net.ErrClosed) && s.stopped.Err() != nil {
		return nil
	}
	return err
}

// Drop closes all connections of a host, and forgets it: it is no host of the installation any
// more.
func (s *Server) Drop(host string) {
	s.door.peers.End(host)
	s.calls.Forget(host)
	s.table.Forget(host)
	s.answers.Forget(host)
}

// Close ends all connections and waits for all handlers, whose contexts end. It can be repeated.
func (s *Server) Close() {
	s.closing.Do(func() {
		s.stop()
		s.door.close()
		s.peers.Stop()
		s.joins.Stop()
	})
	s.streams.Wait()
}

// tap counts what a host begins, before anything of it is read. gRPC calls it with a lock held,
// for each connection.
func (s *Server) tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	who, ok := caller(ctx)
	if !ok {
		return nil, status.Error(codes.Unauthenticated, "no certificate of a host came")
	}
	kind := limit.Call
	if info.FullMethodName == pb.Peer_Open_FullMethodName {
		kind = limit.Stream
	}
	done, err := s.calls.Begin(who.Host, kind, time.Now())
	if err != nil {
		return nil, message.ToStatus(err, s.opts.Self)
	}
	context.AfterFunc(ctx, done) // a stream's context ends with the stream
	return ctx, nil
}

// caller returns who asks, as the door found out.
func caller(ctx context.Context) (message.Caller, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return message.Caller{}, false
	}
	g, ok := p.AuthInfo.(guest)
	return g.Caller, ok && g.Host != ""
}
