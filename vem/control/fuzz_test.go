package control

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/snapctl/snapctl/vem/control/controlpb"
	"github.com/snapctl/snapctl/vem/control/message"
)

// strict is a handler that fails the test if it is given what no handler may be given. It says
// so in its own words, not by message.Checks.
type strict struct{ t *testing.T }

var plainName = regexp.MustCompile(`\A[a-z0-9][a-z0-9_-]*\z`)

func (s strict) check(ok bool, what string, value any) {
	if !ok {
		s.t.Errorf("a handler was given %s %v", what, value)
	}
}

func (s strict) name(n string) {
	s.check(len(n) <= 63 && plainName.MatchString(n), "the name", n)
}

func (s strict) address(a netip.Addr) {
	s.check(a.IsValid() && a == a.Unmap() && a.Zone() == "", "address", a)
	s.check(!a.IsMulticast() && !a.IsUnspecified() && a.String() != "255.255.255.255", "address", a)
}

func (s strict) from(c message.Caller) {
	s.check(c.Host == "a" && c.Protocol == 1, "caller", c)
}

func (s strict) offers(offers []message.Offer) {
	s.check(len(offers) >= 1 && len(offers) <= 8, "offers", len(offers))
	for _, o := range offers {
		s.name(o.Module)
		s.check(len(o.Underlay) >= 1 && len(o.Underlay) <= 16, "underlays", len(o.Underlay))
		for _, a := range o.Underlay {
			s.address(a.Addr())
		}
		s.check(o.MTU >= 576 && o.MTU <= 65535, "MTU", o.MTU)
		s.check(len(o.Parameters) <= 1024, "parameters", len(o.Parameters))
	}
}

func (s strict) routes(routes []message.Route, most int) {
	s.check(len(routes) <= most, "routes", len(routes))
	for _, r := range routes {
		s.address(r.Address)
		s.check(r.Epoch > 0 && (r.Owner == "a" || r.Owner == "b"), "route", r)
	}
}

func (s strict) Greeted(c message.Caller, g message.Greeting) {
	s.from(c)
	s.check(g.Host == "a" && g.Protocol == 1 && g.Protocols.Min == 1 && g.Protocols.Max >= 1, "greeting", g)
	for _, text := range []string{g.Version, g.Boot} {
		s.check(len(text) <= 64 && utf8.ValidString(text) && !strings.ContainsAny(text, "\n\r\x00\x1b"), "text", text)
	}
}

func (s strict) Renew(_ context.Context, c message.Caller, csr []byte) (message.Credentials, error) {
	s.from(c)
	s.check(len(csr) > 0 && len(csr) <= 16<<10, "CSR", len(csr))
	return message.Credentials{Chain: []byte("c")}, nil
}

func (s strict) Resolve(_ context.Context, c message.Caller, network string, a netip.Addr) (message.Owner, error) {
	s.from(c)
	s.name(network)
	s.address(a)
	return message.Owner{Host: "b", Epoch: 1, State: message.Running}, nil
}

func (s strict) Connect(_ context.Context, c message.Caller, r message.ConnectRequest) (message.Channel, error) {
	s.from(c)
	s.name(r.Network)
	s.check(r.ID != message.ID{}, "ID", r.ID)
	for _, e := range []message.Endpoint{r.Source, r.Wanted} {
		s.address(e.Address)
		s.check(e.Epoch > 0, "epoch", e.Epoch)
	}
	s.check(r.Source.Address.Is4() == r.Wanted.Address.Is4(), "families", r)
	s.offers(r.Offers)
	s.check(r.Generation > 0, "generation", r.Generation)
	return message.Channel{}, nil
}

func (s strict) Disconnect(_ context.Context, c message.Caller, r message.DisconnectRequest) error {
	s.from(c)
	s.name(r.Network)
	s.routes(r.Routes, 1024)
	s.check(r.Generation > 0, "generation", r.Generation)
	return nil
}

func (s strict) Introduce(_ context.Context, c message.Caller, r message.IntroduceRequest) error {
	s.from(c)
	s.name(r.Network)
	s.check(len(r.Endpoints) > 0 && len(r.Endpoints) <= 1024, "endpoints", len(r.Endpoints))
	for _, e := range r.Endpoints {
		s.address(e.Address)
		s.check(e.Epoch > 0, "epoch", e.Epoch)
	}
	s.check(r.Generation > 0, "generation", r.Generation)
	return nil
}

func (s strict) Switch(_ context.Context, c message.Caller, r message.SwitchRequest) (message.Channel, error) {
	s.from(c)
	s.name(r.Network)
	s.offers(r.Offers)
	s.check(r.Generation > 0, "generation", r.Generation)
	s.check(r.Local.IsValid() == r.Remote.IsValid() && r.Local.Is4() == r.Remote.Is4(), "ends", r)
	return message.Channel{}, nil
}

func (s strict) Table(_ context.Context, c message.Caller, network string) (message.Table, error) {
	s.from(c)
	s.name(network)
	return message.Table{Network: network}, nil
}

func (s strict) Reconcile(_ context.Context, c message.Caller, theirs message.Table) (message.Table, error) {
	s.from(c)
	s.name(theirs.Network)
	s.routes(theirs.Routes, 1<<16)
	for i := range theirs.Routes {
		if i > 0 {
			s.check(theirs.Routes[i-1].Address.Less(theirs.Routes[i].Address), "order of routes", i)
		}
	}
	if ch := theirs.Channel; ch != nil {
		s.name(ch.Module)
		s.address(ch.Local.Addr())
		s.address(ch.Remote.Addr())
		s.check(ch.Local.Addr().Is4() == ch.Remote.Addr().Is4() && ch.Generation > 0 && ch.MTU >= 576 && ch.MTU <= 65535, "channel", *ch)
	}
	return theirs, nil
}

func (s strict) Counters(_ context.Context, c message.Caller, network string) ([]message.Counters, error) {
	s.from(c)
	if network != "" {
		s.name(network)
	}
	return nil, nil
}

func (s strict) Join(_ context.Context, _ message.Caller, r message.JoinRequest) (message.Joined, error) {
	s.check(regexp.MustCompile(`\A[a-z0-9-]{1,63}\z`).MatchString(r.Host), "host", r.Host)
	s.check(len(r.TokenID) > 0 && len(r.TokenID) <= 64 && len(r.Secret) > 0 && len(r.Secret) <= 256 && len(r.CSR) > 0 && len(r.CSR) <= 16<<10, "sizes", r)
	s.check(len(r.Addresses) > 0 && len(r.Addresses) <= 16, "addresses", r.Addresses)
	for _, a := range r.Addresses {
		s.address(a.Addr())
		s.check(a.Port() != 0, "port", a)
	}
	return message.Joined{Credentials: message.Credentials{Chain: []byte("c")}}, nil
}

// strictServer is a server whose handlers are strict, and a context in which host a asks it.
func strictServer(t *testing.T) (*peerService, *joinService, context.Context) {
	t.Helper()
	h := strict{t}
	s, err := NewServer(t.Context(), ServerOptions{
		Self: self("b"), TLS: new(tls.Config), PeerOf: peerOf, Log: slog.New(slog.DiscardHandler),
		Handlers: Handlers{Hosts: h, Owners: h, Channels: h, Joins: h, Streams: map[string]func(context.Context, message.Caller, *Stream) error{
			"test": func(_ context.Context, c message.Caller, st *Stream) error {
				h.from(c)
				h.check(len(st.Parameters) <= 4<<10, "parameters", len(st.Parameters))
				for {
					b, err := st.Recv()
					if err != nil {
						return nil //nolint:nilerr // it has ended
					}
					h.check(len(b) <= 64<<10, "message", len(b))
				}
			},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	ctx := peer.NewContext(t.Context(), &peer.Peer{AuthInfo: guest{Caller: message.Caller{Host: "a"}}})
	return &peerService{Server: s}, &joinService{Server: s}, metadata.NewIncomingContext(ctx, metadata.Pairs(protocolKey, "1"))
}

// fuzzUnary fuzzes a call with one request, of which some are given.
func fuzzUnary[Q proto.Message](f *testing.F, ask func(context.Context, *peerService, *joinService, Q) error, seeds ...Q) {
	f.Helper()
	for _, m := range seeds {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := seeds[0].ProtoReflect().New().Interface().(Q)
		if proto.Unmarshal(b, m) != nil {
			return
		}
		p, j, ctx := strictServer(t)
		if err := ask(ctx, p, j, m); err != nil {
			// What the caller is told can be sent, whatever the request was.
			if told := message.FromStatus(status.Convert(message.ToStatus(err, self("b"))), "b", self("a")); told == nil && ctx.Err() == nil {
				t.Errorf("%v can't be told", err)
			}
		}
	})
}

func FuzzHello(f *testing.F) {
	fuzzUnary(f, func(ctx context.Context, p *peerService, _ *joinService, m *pb.HelloRequest) error {
		_, err := p.Hello(ctx, m)
		return err
	}, &pb.HelloRequest{Host: "a", Version: "1", Boot: "x", Protocols: &pb.Protocols{Min: 1, Max: 1}, ClockUnixNs: -1 << 63})
}

func FuzzResolve(f *testing.F) {
	fuzzUnary(f, func(ctx context.Context, p *peerService, _ *joinService, m *pb.ResolveRequest) error {
		_, err := p.Resolve(ctx, m)
		return err
	}, &pb.ResolveRequest{Network: "default", Address: []byte{10, 77, 0, 2}}, &pb.ResolveRequest{Network: "default", Address: make([]byte, 16)})
}

func FuzzConnect(f *testing.F) {
	fuzzUnary(f, func(ctx context.Context, p *peerService, _ *joinService, m *pb.ConnectRequest) error {
		_, err := p.Connect(ctx, m)
		return err
	}, message.ToConnect(connectRequest()))
}

func FuzzSwitch(f *testing.F) {
	fuzzUnary(f, func(ctx context.Context, p *peerService, _ *joinService, m *pb.SwitchRequest) error {
		_, err := p.Switch(ctx, m)
		return err
	}, message.ToSwitch(message.SwitchRequest{
		ID: message.NewID(), Network: "default", Offers: connectRequest().Offers, Generation: 1,
		Local: netip.MustParseAddr("192.0.2.1"), Remote: netip.MustParseAddr("192.0.2.2"),
	}))
}

func FuzzDisconnect(f *testing.F) {
	fuzzUnary(f, func(ctx context.Context, p *peerService, _ *joinService, m *pb.DisconnectRequest) error {
		_, err := p.Disconnect(ctx, m)
		return err
	}, &pb.DisconnectRequest{Call: make([]byte, 16), Network: "default", Routes: []*pb.Route{{Address: []byte{10, 77, 0, 2}, Epoch: 1}}, Generation: 1})
}

func FuzzIntroduce(f *testing.F) {
	fuzzUnary(f, func(ctx context.Context, p *peerService, _ *joinService, m *pb.IntroduceRequest) error {
		_, err := p.Introduce(ctx, m)
		return err
	}, &pb.IntroduceRequest{Network: "default", Endpoints: []*pb.Endpoint{{Address: []byte{10, 77, 0, 2}, Epoch: 1}}, Generation: 1})
}

func FuzzCounters(f *testing.F) {
	fuzzUnary(f, func(ctx context.Context, p *peerService, _ *joinService, m *pb.CountersRequest) error {
		_, err := p.Counters(ctx, m)
		return err
	}, &pb.CountersRequest{Network: "default"}, &pb.CountersRequest{})
}

func FuzzProbe(f *testing.F) {
	fuzzUnary(f, func(ctx context.Context, p *peerService, _ *joinService, m *pb.ProbeRequest) error {
		answer, err := p.Probe(ctx, m)
		if err == nil && len(answer.GetPadding()) > MaxPadding {
			return fmt.Errorf("%d bytes", len(answer.GetPadding()))
		}
		return err
	}, &pb.ProbeRequest{Padding: make([]byte, 100), WantBytes: 1 << 31})
}

func FuzzRenew(f *testing.F) {
	fuzzUnary(f, func(ctx context.Context, p *peerService, _ *joinService, m *pb.RenewRequest) error {
		_, err := p.Renew(ctx, m)
		return err
	}, &pb.RenewRequest{Call: []byte("0123456789abcdef"), Csr: []byte("csr")})
}

func FuzzJoin(f *testing.F) {
	fuzzUnary(f, func(ctx context.Context, _ *peerService, j *joinService, m *pb.JoinRequest) error {
		_, err := j.Join(ctx, m)
		return err
	}, message.ToJoin(message.JoinRequest{
		ID: message.NewID(), TokenID: "t", Secret: []byte("s"), Host: "c", CSR: []byte("csr"), Protocols: message.Range{Min: 1, Max: 1},
		Addresses: []message.HostAddress{{AddrPort: netip.MustParseAddrPort("192.0.2.3:7077")}},
	}))
}

// messages is a stream of gRPC whose messages are given.
type messages[M proto.Message] struct {
	grpc.ServerStream

	ctx  context.Context //nolint:containedctx // as gRPC's own
	left [][]byte
}

func (m *messages[M]) Context() context.Context { return m.ctx }
func (m *messages[M]) Send(M) error             { return nil }
func (m *messages[M]) Recv() (M, error) {
	var none M
	if len(m.left) == 0 {
		return none, io.EOF
	}
	b := m.left[0]
	m.left = m.left[1:]
	msg := none.ProtoReflect().New().Interface().(M)
	return msg, proto.Unmarshal(b, msg)
}

// split divides bytes into messages: two bytes have the length of each.
func split(b []byte) (all [][]byte) {
	for len(b) >= 2 {
		n := min(int(b[0])<<8|int(b[1]), len(b)-2)
		all, b = append(all, b[2:2+n]), b[2+n:]
	}
	return all
}

// joined is the opposite of split.
func joined(f *testing.F, ms ...proto.Message) (b []byte) {
	f.Helper()
	for _, m := range ms {
		one, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		b = append(append(b, byte(len(one)>>8), byte(len(one))), one...)
	}
	return b
}

func FuzzReconcile(f *testing.F) {
	start := &pb.TablePart{Network: "default", Digest: make([]byte, 32)}
	routes := []*pb.Route{{Address: []byte{10, 77, 0, 2}, Epoch: 1}, {Address: []byte{10, 77, 0, 3}, Epoch: 2, OwnerIsSender: true}}
	channel := message.ToChannel(message.Channel{Module: "tunnel", Local: netip.MustParseAddrPort("192.0.2.1:1"), Remote: netip.MustParseAddrPort("192.0.2.2:1"), MTU: 1420, Generation: 1})
	f.Add(joined(f, start, &pb.TablePart{Channel: channel, Routes: routes[:1]}, &pb.TablePart{Routes: routes[1:], Last: true}))
	f.Add(joined(f, start, &pb.TablePart{Last: true}))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, _, ctx := strictServer(t)
		_ = p.Reconcile(&messages[*pb.TablePart]{ctx: ctx, left: split(b)}) // an error is an answer
	})
}

func FuzzOpen(f *testing.F) {
	f.Add(joined(f, &pb.Chunk{Kind: "test", Parameters: []byte("p")}, &pb.Chunk{Data: []byte("hello")}, &pb.Chunk{End: true}))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, _, ctx := strictServer(t)
		_ = p.Open(&messages[*pb.Chunk]{ctx: ctx, left: split(b)}) // an error is an answer
	})
}
