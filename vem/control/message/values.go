// Package message is what hosts say to each other on the control channel: plain values, the
// checks that they pass, and what they are on the wire. Package control says them.
//
// Whatever comes from a peer is turned into values by functions whose names begin with From,
// which return an [*InvalidError], or a value without fault. Functions whose names begin with To
// make messages of package controlpb; they expect values that have passed [Checks].
package message

import (
	"crypto/rand"
	"crypto/tls"
	"net/netip"
	"time"
)

// Bounds of what is said on the control channel.
const (
	// MaxMessage is how many bytes a message may have.
	MaxMessage = 288 << 10
	// MaxRoutes is how many routes two hosts may have for one network.
	MaxRoutes = 1 << 16
	// MaxIntroduce is how many endpoints a host may introduce in one call.
	MaxIntroduce = 1024
	// MaxChunk is how many bytes a message of a [Stream] may have.
	MaxChunk = 256 << 10
	// MaxOpening is how many bytes the parameters of a stream may have.
	MaxOpening = 4 << 10
	// MaxAddresses is how many addresses a host may have.
	MaxAddresses = 16

	maxOffers     = 8        // of modules
	maxParameters = 1 << 10  // bytes, of a module
	maxText       = 1 << 10  // bytes, of an explanation
	maxCSR        = 16 << 10 // bytes
	maxChain      = 32 << 10 // bytes
	maxEndpoints  = 16       // of the directory
	maxURL        = 256      // bytes
	maxSecret     = 256      // bytes
	maxDisconnect = 1024     // routes in one message
	maxCounters   = 1024     // channels in one message
	minMTU        = 576      // RFC 791: what every host takes
	maxMTU        = 65535
)

// ID names a call. The same call made again under the same ID is done once. The zero ID has
// [Peers] choose one.
type ID [16]byte

// NewID returns an ID that no other call has.
func NewID() ID {
	var id ID
	_, _ = rand.Read(id[:]) // never fails (crypto/rand, since Go 1.24)
	return id
}

// Self is what a host says of itself.
type Self struct {
	Host      string
	Version   string // of snapctl
	Boot      string // another one after the host was started again
	Protocols Range  // zero: those of this build
}

// Caller is the host that asks.
type Caller struct {
	Host string // as its certificate says; "": it has none, and wants to join
	// Address is where its connection comes from.
	Address netip.AddrPort
	// Protocol is the version that both use.
	Protocol uint32
	// TLS is the state of its connection, with its certificate.
	TLS *tls.ConnectionState
}

// Greeting is what a host said when it was greeted.
type Greeting struct {
	Self
	// Protocol is the version that both use.
	Protocol uint32
	// Skew is how far the clock of that host is ahead of this one's. It is right to half of
	// RoundTrip.
	Skew time.Duration
	// RoundTrip is how long the greeting took; 0 for the host that was greeted.
	RoundTrip time.Duration
}

// Endpoint is an endpoint as a host believes it to be.
type Endpoint struct {
	Address netip.Addr // virtual
	Epoch   uint64     // at least 1
}

// EndpointState is what an endpoint is doing.
type EndpointState int

// The states of endpoints.
const (
	Running EndpointState = iota + 1
	Held
	Moving
)

func (s EndpointState) String() string {
	switch s {
	case Running:
		return "running"
	case Held:
		return "held"
	case Moving:
		return "moving"
	default:
		return "unknown"
	}
}

// Owner tells who has an endpoint.
type Owner struct {
	Host  string
	Epoch uint64
	State EndpointState
}

// Offer is a module that a host can use for a channel.
type Offer struct {
	Module string
	// Underlay has the host's own addresses that the module can use, the best first. The port
	// is 0 if the module has none.
	Underlay []netip.AddrPort
	MTU      int // of packets inside
	// Parameters are the module's own, such as a public key: at most 1 KiB.
	Parameters []byte
	// Given tells that the host was told to have this module, and none of the others before it.
	Given bool
}

// Channel is a data channel as one of its two hosts sees it: Local is that host's.
type Channel struct {
	Module        string
	Local, Remote netip.AddrPort
	MTU           int
	// Parameters are those of the other host, for this one.
	Parameters []byte
	// Generation grows with each change of the channel: the newer record wins.
	Generation uint64
	// Given is the module that the other host was told to have; "": none.
	Given string
}

// Route is an endpoint that one of two hosts reaches over their channel, since the other, its
// owner, has it.
type Route struct {
	Address netip.Addr
	Owner   string // one of the two hosts
	Epoch   uint64
}

// ConnectRequest asks for a channel, and for routes between two endpoints over it.
type ConnectRequest struct {
	ID         ID
	Network    string
	Source     Endpoint // of the host that asks
	Wanted     Endpoint // of the host that is asked, as the other believes
	Offers     []Offer
	Generation uint64
}

// SwitchRequest asks for another module, or other underlay addresses, for a channel that is up.
type SwitchRequest struct {
	ID         ID
	Network    string
	Offers     []Offer
	Generation uint64
	// Local and Remote are the addresses that the host wants which asks, as whoever has the
	// request sees them. Both are invalid if it wants none before others.
	Local, Remote netip.Addr
}

// IntroduceRequest tells of endpoints that the host that asks has got, and that the other one
// reaches over their channel from now on. Done again it changes nothing.
type IntroduceRequest struct {
	Network   string
	Endpoints []Endpoint // 1 to [MaxIntroduce]
	// Generation is that of the channel. If it is another one now, the hosts compare their tables.
	Generation uint64
}

// DisconnectRequest asks to take routes away, or the whole channel with all its routes.
type DisconnectRequest struct {
	ID         ID
	Network    string
	Routes     []Route // none: the whole channel
	Generation uint64
}

// Counters are those of a channel, as the host that returns them counts.
type Counters struct {
	Network    string
	Module     string
	PacketsIn  uint64
	BytesIn    uint64
	PacketsOut uint64
	BytesOut   uint64
	Dropped    uint64
	UpFor      time.Duration
	IdleFor    time.Duration
}

// HostAddress is an address of a host in the underlay, with the port of its control channel.
type HostAddress struct {
	netip.AddrPort

	Priority uint32 // lower goes first
}

// JoinRequest asks to become a host of the installation.
type JoinRequest struct {
	ID        ID
	TokenID   string
	Secret    []byte
	Host      string // the name that it wants to have
	CSR       []byte // PKCS #10, DER
	Addresses []HostAddress
	Version   string
	Protocols Range // zero: those of this build
}

// Credentials are what proves who a host is.
type Credentials struct {
	// Chain has the host's own certificate first, and then those that it is signed with; X.509,
	// DER, one after another.
	Chain []byte
	// Authorities has the certificates of the installation's CA, if the chain does not.
	Authorities []byte
}

// Joined is what a new host of the installation has to know.
type Joined struct {
	Credentials

	Installation string
	Directory    []string // URLs
}
