// Package channel says how the packets of a virtual network get from one host to another.
//
// A data channel, or channel, is the way between this host and another one for one network: what
// carries it (its kind), and the addresses of both ends on the underlay, the real network between
// hosts. A route leads the packets for an endpoint of another host into the channel to that host.
// No packet of an open route passes through a process: routes and channels are state of the
// kernel, which goes on when the daemon dies.
//
//	endpoint -- route --> host -- channel (kind, local and remote address) --> underlay
//
// Many routes lead to one host, so another interface or kind for all endpoints of a host is one
// change of the kernel's state. A [Module] makes channels of some kinds in one network:
//
//	package    kinds           what it takes
//	redirect   Direct, Tunnel  BPF
//	vxlan      VXLAN           routes and a firewall table of the kernel's
//	wireguard  WireGuard       these too; a process where the kernel has no WireGuard
//	memory     all             nothing: it only remembers, for the tests of its users
//
// Package channeltest has the tests that all of them pass.
//
// # A route's life
//
// A route is Opening first: what the slow path writes back takes it, all other packets for the
// endpoint still come to the slow path. When all that waited is out it becomes Open. So no packet
// overtakes one that waits.
//
//	(none) -- SetRoutes Opening --> Opening -- SetRoutes Open --> Open
//	   ^-------- RemoveRoutes, RemoveHost ---------'---------------'
//
// # Packet sizes
//
// All apps of an installation have one MTU from the start (1420 bytes), for which every kind has
// room on an underlay of 1500 bytes, so that another kind or host never changes it. Where the
// underlay has less room, Status.MTU is smaller, and a packet that does not fit is answered by
// "too big" with that size, or fragmented inside where its sender allows that: never dropped
// without a word.
package channel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

var (
	// ErrHost says that a Host, or the name of one, can't work.
	ErrHost = errors.New("invalid host")
	// ErrRoute says that a Route can't work: the address is none of the network, or the host
	// is not set.
	ErrRoute = errors.New("invalid route")
	// ErrKind says that the module does not make channels of a kind.
	ErrKind = errors.New("kind not supported by this module")
	// ErrUnderlay says that an underlay device or address can't be used.
	ErrUnderlay = errors.New("underlay not usable")
	// ErrMTU says that the underlay has no room for what every IPv6 network has to carry:
	// 1280 bytes (RFC 8200).
	ErrMTU = errors.New("underlay too small")
)

// Kind is what carries packets to another host.
type Kind int

const (
	// Direct carries packets as they are, between hosts on one link. Whoever can send on that
	// link can send as any endpoint of another host. What arrives is only let in while there is a
	// route (of either state) to its source: set it before the other host has one to this one's
	// endpoint, and remove it after.
	Direct Kind = iota + 1
	// Tunnel carries them in IP packets between the hosts' addresses. Whoever can send with
	// another host's address as the source can send as any endpoint there.
	Tunnel
	// VXLAN carries them in Ethernet frames in UDP packets (RFC 7348), by the kernel's routes. It
	// is for hosts without BPF, and as open as Tunnel.
	VXLAN
	// WireGuard carries them encrypted and authenticated in UDP packets. What arrives is only let
	// in while there is a route (of either state) to its source, as with Direct. Its hosts have
	// Parameters and a Port.
	WireGuard
)

// kinds are the names of all kinds. Hosts say names to each other: one that does not know a name
// makes no channels of that kind, and does without.
var kinds = map[Kind]string{Direct: "direct", Tunnel: "tunnel", VXLAN: "vxlan", WireGuard: "wireguard"}

// String returns "direct", "tunnel", "vxlan" or "wireguard".
func (k Kind) String() string {
	if name, ok := kinds[k]; ok {
		return name
	}
	return fmt.Sprintf("Kind(%d)", int(k))
}

// Outer returns how many bytes a channel of a kind adds to a packet at most, if its hosts have IPv4
// or IPv6 addresses on the underlay. A kind that this release does not know is taken for the largest
// one that there is.
func (k Kind) Outer(at netip.Addr) int {
	bytes := map[Kind][2]int{
		Direct: {20, 40}, // for packets that go in a tunnel: IPv6 over IPv4, and those of a Beyond
		Tunnel: {20, 40},
		VXLAN:  {50, 70}, // IP, UDP (8), VXLAN (8), Ethernet (14)

		WireGuard: {60, 80}, // IP, UDP (8), header (16), tag (16)
	}
	both, ok := bytes[k]
	if !ok {
		both = bytes[WireGuard]
	}
	if at.Is4() {
		return both[0]
	}
	return both[1]
}

// ParseKind returns the kind of a name; false if this release knows none.
func ParseKind(name string) (Kind, bool) {
	for k, n := range kinds {
		if n == name {
			return k, true
		}
	}
	return 0, false
}

// Underlay is an address of this host that channels may begin at.
type Underlay struct {
	Device string // in the host's namespace, with Ethernet headers
	Addr   netip.Addr
}

// Host is another host and the channel to it.
type Host struct {
	Name          string     // 1 to 63 bytes
	Kind          Kind       // how packets go there
	Local, Remote netip.Addr // of one family; Local is one that SetUnderlay was given
	MTU           int        // the largest packet that the underlay carries there; zero: the device's
	// Accept are further kinds in which packets may come from there, besides Kind. While two
	// hosts change to another kind, which they can't do in the same moment, both accept both.
	Accept []Kind
	// Sources are further addresses that the host may send from, besides Remote: all of its
	// underlay's, so that it may change to another interface by itself.
	Sources []netip.Addr
	// Port is the UDP port to send to, and Parameters are what else the module there has offered,
	// of kinds that have that: both zero with the others.
	Port       uint16
	Parameters []byte
}

// State says which packets a route is for.
type State int

const (
	// Opening routes are for packets that the slow path writes back.
	Opening State = iota + 1
	// Open routes are for all packets.
	Open
)

// String returns "opening" or "open".
func (s State) String() string {
	switch s {
	case Opening:
		return "opening"
	case Open:
		return "open"
	}
	return fmt.Sprintf("State(%d)", int(s))
}

// Route leads packets for an endpoint to its host.
type Route struct {
	Addr  netip.Addr // one of the network's prefixes; IPv4 and IPv6 are two routes
	Host  string
	State State
}

// Status is a host as a module has it.
type Status struct {
	Host Host
	MTU  int // the largest packet of an endpoint that fits into the channel as it is
}

// Traffic is what went one way. A segment that the kernel splits later counts as one packet.
type Traffic struct {
	Packets, Bytes uint64    // Bytes are those of the endpoints' packets, without outer headers
	Last           time.Time // of the last packet, as exactly as the module knows it; zero: there was none
}

// Counters are those of one host, from when it was set.
type Counters struct{ Sent, Received Traffic }

// Last returns when the last packet went either way; zero if there was none.
func (c Counters) Last() time.Time {
	if c.Received.Last.After(c.Sent.Last) {
		return c.Received.Last
	}
	return c.Sent.Last
}

// Drops are packets that a module refused, of all hosts together.
type Drops struct {
	Stranger  uint64 // for an endpoint here, in a tunnel from no known host
	Refused   uint64 // from a known host, in a kind that is not accepted from it
	Congested uint64 // met congestion on the way, which its sender can't be told (RFC 6040, 4.2)
	Failed    uint64 // the kernel could not put an outer header on or take it off
}

// Report is all that a module has counted.
type Report struct {
	Hosts map[string]Counters
	Drops Drops
}

// Module makes channels of some kinds in one network of this host. Its methods may be called at
// the same time. All of them may be repeated: what is there already stays, without a packet lost,
// and what is not there is removed without an error. If a method fails, another call with the
// same arguments finishes what it began.
//
// The state is the kernel's: a new Module of the same network finds what an earlier one left,
// also if that one's process was killed. That is why a Module can tell what it has.
type Module interface {
	// Kinds returns what the module makes.
	Kinds() []Kind
	// SetUnderlay says which addresses channels may begin at, and by that on which devices
	// packets from other hosts may arrive: these, and no others. It returns an error wrapping
	// [ErrUnderlay] if there is no such device, or not of a type that can be used.
	SetUnderlay(ctx context.Context, list []Underlay) error
	// SetHost makes the channel to a host, or changes it. A change is for all routes to the host
	// at once, and each packet takes the old channel or the new one. It returns an error wrapping
	// [ErrHost], [ErrKind], [ErrUnderlay] if Local is not known, or [ErrMTU].
	SetHost(ctx context.Context, h Host) error
	// RemoveHost removes the channel to a host and all routes to it: packets for its endpoints
	// come to the slow path. Nothing arrives from it from then on.
	RemoveHost(ctx context.Context, name string) error
	// SetRoutes adds routes or changes them, as many as there are for little more than one
	// costs. It returns an error wrapping [ErrRoute] before it changes anything if one is wrong.
	SetRoutes(ctx context.Context, list []Route) error
	// RemoveRoutes removes routes.
	RemoveRoutes(ctx context.Context, list []netip.Addr) error
	// Hosts returns all hosts by their names.
	Hosts(ctx context.Context) (map[string]Status, error)
	// Routes returns all routes, in no order.
	Routes(ctx context.Context) ([]Route, error)
	// Report returns what was counted.
	Report(ctx context.Context) (Report, error)
	// Delete removes all that the module has in the kernel. The network has to be there still.
	Delete(ctx context.Context) error
	// Close ends the use of the Module and leaves the channels as they are. After it, and after
	// Delete, the other methods return an error wrapping fs.ErrClosed; a second Close does
	// nothing.
	Close() error
}

// Offerer is a [Module] that has something to tell to the other host of a channel, before that can
// make its end of it.
type Offerer interface {
	// Offer returns what the other host is to have in [Host.Port] and [Host.Parameters]. It may
	// be something else after a while, as long as there is no channel.
	Offer(ctx context.Context) (port uint16, parameters []byte, err error)
}

// Beyond is a prefix of machines that are no endpoints: gateways forward what they send to endpoints,
// and what these send to them, and their addresses stay as they are.
type Beyond struct {
	Prefix netip.Prefix
	Here   bool // this host is a gateway for the prefix: its own routes lead there
	// Hosts are other hosts that are gateways for it, the best first: packets go to the first one that
	// is set. Senders are further ones, to which none go. They may come from all of both, and from nobody
	// else.
	Hosts, Senders []string
}

// Router is a [Module] whose channels carry packets of machines beyond gateways.
type Router interface {
	// SetBeyond says which prefixes of such machines there are, instead of those that it was told
	// before. Hosts that are not set are taken when they are. While none is, packets for the prefix
	// go by another module of the network that has one, or else are dropped, if all of them are told
	// of it. It returns an error wrapping [ErrRoute] if a prefix overlaps the network's.
	SetBeyond(ctx context.Context, list []Beyond) error
	// Via returns to which host the packets for each prefix go now: "" is this one. A prefix is
	// missing if they are dropped.
	Via(ctx context.Context) (map[netip.Prefix]string, error)
}

// Starter is a [Module] whose channels can carry nothing until both hosts have exchanged messages
// over them.
type Starter interface {
	// Start has them do that, and waits for the end of it, for two seconds at most. Only one of the
	// two hosts is to do it: the one that makes its end of the channel last.
	Start(ctx context.Context, host string) error
}

// Check returns an error wrapping [ErrHost] if h can't work with any module.
func (h *Host) Check() error {
	switch {
	case h.Name == "" || len(h.Name) > 63:
		return fmt.Errorf("%w: its name has %d bytes, and 1 to 63 can be", ErrHost, len(h.Name))
	case !h.Local.IsValid() || !h.Remote.IsValid() || h.Local.Is4() != h.Remote.Is4():
		return fmt.Errorf("%w %s: %s and %s are not two addresses of one family", ErrHost, h.Name, h.Local, h.Remote)
	case h.Local == h.Remote:
		return fmt.Errorf("%w %s: %s is at both ends of the channel", ErrHost, h.Name, h.Local)
	case h.MTU < 0:
		return fmt.Errorf("%w %s: MTU %d", ErrHost, h.Name, h.MTU)
	}
	for _, a := range append([]netip.Addr{h.Local, h.Remote}, h.Sources...) {
		// A zone means another device on every host, and the kernel's packets have none.
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
			return fmt.Errorf("%w %s: address %s can't be another host's or this one's on the underlay", ErrHost, h.Name, a)
		}
	}
	return nil
}
