package message

import (
	"net/netip"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/snapctl/snapctl/vem/control/controlpb"
)

func fromAddr(b []byte) netip.Addr {
	a, ok := netip.AddrFromSlice(b)
	if !ok || a.Is4In6() {
		return netip.Addr{} // no check lets it pass
	}
	return a
}

// ToAddr returns the bytes of an address.
func ToAddr(a netip.Addr) []byte { return a.AsSlice() }

func fromUnderlay(m *pb.UnderlayAddress) netip.AddrPort {
	if m.GetPort() > 65535 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(fromAddr(m.GetAddress()), uint16(m.GetPort()))
}

func toUnderlay(a netip.AddrPort) *pb.UnderlayAddress {
	return &pb.UnderlayAddress{Address: ToAddr(a.Addr()), Port: uint32(a.Port())}
}

func fromID(b []byte) (id ID) {
	if len(b) == len(id) {
		copy(id[:], b)
	}
	return id
}

func fromMTU(n uint32) int { return int(min(n, maxMTU+1)) }

func fromRange(m *pb.Protocols) Range { return Range{Min: m.GetMin(), Max: m.GetMax()} }

// ToRange makes a message of a range.
func ToRange(r Range) *pb.Protocols { return &pb.Protocols{Min: r.Min, Max: r.Max} }

// FromHello returns what a host says of itself when it greets this one, and its clock.
func FromHello(m *pb.HelloRequest) (s Self, clock time.Time, err error) {
	s = Self{Host: m.GetHost(), Version: m.GetVersion(), Boot: m.GetBoot(), Protocols: fromRange(m.GetProtocols())}
	var c Checks
	c.Self(s)
	return s, time.Unix(0, m.GetClockUnixNs()), c.Err
}

// FromHelloAnswer returns what a host says of itself when it was greeted, and its clock.
func FromHelloAnswer(m *pb.HelloAnswer) (g Greeting, clock time.Time, err error) {
	g = Greeting{
		Self:     Self{Host: m.GetHost(), Version: m.GetVersion(), Boot: m.GetBoot(), Protocols: fromRange(m.GetProtocols())},
		Protocol: m.GetProtocol(),
	}
	var c Checks
	c.Self(g.Self)
	c.That(g.Protocols.Has(g.Protocol), "protocol", "%d is not among %v", g.Protocol, g.Protocols)
	return g, time.Unix(0, m.GetClockUnixNs()), c.Err
}

// FromResolve returns the network and the address that are asked for.
func FromResolve(m *pb.ResolveRequest) (network string, a netip.Addr, err error) {
	network, a = m.GetNetwork(), fromAddr(m.GetAddress())
	var c Checks
	c.Name("network", network)
	c.Unicast("address", a)
	return network, a, c.Err
}

// FromOwner returns the owner that a host answers with.
func FromOwner(m *pb.ResolveAnswer) (Owner, error) {
	o := Owner{Host: m.GetOwner(), Epoch: m.GetEpoch(), State: EndpointState(m.GetState())}
	var c Checks
	c.owner(o)
	return o, c.Err
}

// ToOwner makes a message of an owner.
func ToOwner(o Owner) *pb.ResolveAnswer {
	return &pb.ResolveAnswer{Owner: o.Host, Epoch: o.Epoch, State: pb.EndpointState(o.State)}
}

func fromEndpoint(m *pb.Endpoint) Endpoint {
	return Endpoint{Address: fromAddr(m.GetAddress()), Epoch: m.GetEpoch()}
}

func toEndpoint(e Endpoint) *pb.Endpoint {
	return &pb.Endpoint{Address: ToAddr(e.Address), Epoch: e.Epoch}
}

func fromOffers(ms []*pb.Offer) []Offer {
	offers := make([]Offer, 0, min(len(ms), maxOffers+1))
	for _, m := range ms[:min(len(ms), maxOffers+1)] { // one more than allowed is enough to refuse it
		o := Offer{Module: m.GetModule(), MTU: fromMTU(m.GetMtu()), Parameters: m.GetParameters(), Given: m.GetGiven()}
		for _, a := range m.GetUnderlay()[:min(len(m.GetUnderlay()), MaxAddresses+1)] {
			o.Underlay = append(o.Underlay, fromUnderlay(a))
		}
		offers = append(offers, o)
	}
	return offers
}

func toOffers(offers []Offer) []*pb.Offer {
	ms := make([]*pb.Offer, 0, len(offers))
	for _, o := range offers {
		m := &pb.Offer{Module: o.Module, Mtu: uint32(o.MTU), Parameters: o.Parameters, Given: o.Given}
		for _, a := range o.Underlay {
			m.Underlay = append(m.Underlay, toUnderlay(a))
		}
		ms = append(ms, m)
	}
	return ms
}

// FromConnect returns a request for a channel.
func FromConnect(m *pb.ConnectRequest) (ConnectRequest, error) {
	r := ConnectRequest{
		ID: fromID(m.GetCall()), Network: m.GetNetwork(),
		Source: fromEndpoint(m.GetSource()), Wanted: fromEndpoint(m.GetWanted()),
		Offers: fromOffers(m.GetOffers()), Generation: m.GetGeneration(),
	}
	var c Checks
	c.connect(r)
	return r, c.Err
}

// ToConnect makes a message of a request for a channel.
func ToConnect(r ConnectRequest) *pb.ConnectRequest {
	return &pb.ConnectRequest{
		Call: r.ID[:], Network: r.Network, Source: toEndpoint(r.Source), Wanted: toEndpoint(r.Wanted),
		Offers: toOffers(r.Offers), Generation: r.Generation,
	}
}

// FromSwitch returns a request to switch a channel.
func FromSwitch(m *pb.SwitchRequest) (SwitchRequest, error) {
	r := SwitchRequest{
		ID: fromID(m.GetCall()), Network: m.GetNetwork(), Offers: fromOffers(m.GetOffers()), Generation: m.GetGeneration(),
		Local: fromUnderlay(m.GetReceiver()).Addr(), Remote: fromUnderlay(m.GetSender()).Addr(),
	}
	var c Checks
	c.change(r)
	return r, c.Err
}

// ToSwitch makes a message of a request to switch a channel.
func ToSwitch(r SwitchRequest) *pb.SwitchRequest {
	m := &pb.SwitchRequest{Call: r.ID[:], Network: r.Network, Offers: toOffers(r.Offers), Generation: r.Generation}
	if r.Local.IsValid() {
		m.Sender, m.Receiver = toUnderlay(netip.AddrPortFrom(r.Local, 0)), toUnderlay(netip.AddrPortFrom(r.Remote, 0))
	}
	return m
}

// FromChannel returns a channel as the receiver sees it.
func FromChannel(m *pb.Channel) (Channel, error) {
	ch := Channel{
		Module: m.GetModule(), Local: fromUnderlay(m.GetReceiver()), Remote: fromUnderlay(m.GetSender()),
		MTU: fromMTU(m.GetMtu()), Parameters: m.GetParameters(), Generation: m.GetGeneration(), Given: m.GetGiven(),
	}
	var c Checks
	c.channel(ch)
	return ch, c.Err
}

// ToChannel is given a channel as the sender sees it, with the sender's parameters, and what it was told to have.
func ToChannel(ch Channel) *pb.Channel {
	return &pb.Channel{
		Module: ch.Module, Sender: toUnderlay(ch.Local), Receiver: toUnderlay(ch.Remote),
		Mtu: uint32(ch.MTU), Parameters: ch.Parameters, Generation: ch.Generation, Given: ch.Given,
	}
}

// fromRoutes turns routes into values; the sender and the receiver of the message are the two
// hosts.
func fromRoutes(ms []*pb.Route, sender, receiver string) []Route {
	routes := make([]Route, 0, len(ms))
	for _, m := range ms {
		r := Route{Address: fromAddr(m.GetAddress()), Owner: receiver, Epoch: m.GetEpoch()}
		if m.GetOwnerIsSender() {
			r.Owner = sender
		}
		routes = append(routes, r)
	}
	return routes
}

func toRoutes(routes []Route, sender string) []*pb.Route {
	ms := make([]*pb.Route, 0, len(routes))
	for _, r := range routes {
		ms = append(ms, &pb.Route{Address: ToAddr(r.Address), OwnerIsSender: r.Owner == sender, Epoch: r.Epoch})
	}
	return ms
}

// FromIntroduce returns a request that tells of endpoints.
func FromIntroduce(m *pb.IntroduceRequest) (IntroduceRequest, error) {
	r := IntroduceRequest{Network: m.GetNetwork(), Generation: m.GetGeneration()}
	for _, e := range m.GetEndpoints()[:min(len(m.GetEndpoints()), MaxIntroduce+1)] { // one more than allowed is enough to refuse it
		r.Endpoints = append(r.Endpoints, fromEndpoint(e))
	}
	var c Checks
	c.Introduce(r)
	return r, c.Err
}

// ToIntroduce makes a message of a request that tells of endpoints.
func ToIntroduce(r IntroduceRequest) *pb.IntroduceRequest {
	m := &pb.IntroduceRequest{Network: r.Network, Generation: r.Generation}
	for _, e := range r.Endpoints {
		m.Endpoints = append(m.Endpoints, toEndpoint(e))
	}
	return m
}

// FromDisconnect returns a request to disconnect, of the sender to the receiver.
func FromDisconnect(m *pb.DisconnectRequest, sender, receiver string) (DisconnectRequest, error) {
	var c Checks
	c.Count("routes", len(m.GetRoutes()), 0, maxDisconnect)
	if c.Err != nil {
		return DisconnectRequest{}, c.Err
	}
	r := DisconnectRequest{
		ID: fromID(m.GetCall()), Network: m.GetNetwork(),
		Routes: fromRoutes(m.GetRoutes(), sender, receiver), Generation: m.GetGeneration(),
	}
	c.Disconnect(r, sender, receiver)
	return r, c.Err
}

// ToDisconnect makes a message of a request of the sender to disconnect.
func ToDisconnect(r DisconnectRequest, sender string) *pb.DisconnectRequest {
	return &pb.DisconnectRequest{Call: r.ID[:], Network: r.Network, Routes: toRoutes(r.Routes, sender), Generation: r.Generation}
}

// FromCounters returns the counters that a host answers with.
func FromCounters(m *pb.CountersAnswer) ([]Counters, error) {
	var c Checks
	c.Count("channels", len(m.GetChannels()), 0, maxCounters)
	if c.Err != nil {
		return nil, c.Err
	}
	all := make([]Counters, 0, len(m.GetChannels()))
	for _, m := range m.GetChannels() {
		n := Counters{
			Network: m.GetNetwork(), Module: m.GetModule(),
			PacketsIn: m.GetPacketsIn(), BytesIn: m.GetBytesIn(), PacketsOut: m.GetPacketsOut(), BytesOut: m.GetBytesOut(),
			Dropped: m.GetDropped(), UpFor: m.GetUpFor().AsDuration(), IdleFor: m.GetIdleFor().AsDuration(),
		}
		c.counters(n)
		all = append(all, n)
	}
	return all, c.Err
}

// ToCounters makes a message of counters.
func ToCounters(all []Counters) *pb.CountersAnswer {
	m := new(pb.CountersAnswer)
	for _, n := range all[:min(len(all), maxCounters)] {
		m.Channels = append(m.Channels, &pb.ChannelCounters{
			Network: n.Network, Module: n.Module,
			PacketsIn: n.PacketsIn, BytesIn: n.BytesIn, PacketsOut: n.PacketsOut, BytesOut: n.BytesOut,
			Dropped: n.Dropped, UpFor: durationpb.New(n.UpFor), IdleFor: durationpb.New(n.IdleFor),
		})
	}
	return m
}
