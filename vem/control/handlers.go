package control

import (
	"context"
	"net/netip"

	"github.com/snapctl/snapctl/vem/control/message"
)

// Handlers do what other hosts ask for. What is nil is refused. They are called at the same time,
// with values that were checked, and with contexts that have a deadline.
//
// A handler that returns an error has done nothing. [message.NotOwnerError], [message.NotFoundError] and
// [message.RefusedError] reach the caller as they are; of any other error it is told the text.
type Handlers struct {
	Hosts    Hosts
	Owners   Owners
	Channels Channels
	Joins    Joins
	// Streams are the handlers of streams by kind. A stream ends when its handler returns.
	Streams map[string]func(ctx context.Context, from message.Caller, s *Stream) error
}

// Hosts is told of the other hosts, and renews their certificates.
type Hosts interface {
	// Greeted is told that a host has greeted this one, and what it said.
	Greeted(from message.Caller, g message.Greeting)
	// Renew signs a request for a certificate by the host that asks.
	Renew(ctx context.Context, from message.Caller, csr []byte) (message.Credentials, error)
}

// Owners knows who has which endpoint.
type Owners interface {
	// Resolve returns who has an endpoint, or a *[message.NotFoundError].
	Resolve(ctx context.Context, from message.Caller, network string, a netip.Addr) (message.Owner, error)
}

// Channels agrees about data channels. The host that asks is the other end of each.
//
// Of two requests about the same channel that with the higher generation wins, in whatever order
// they come.
type Channels interface {
	// Connect brings a channel and two routes up, if they are not, and returns the channel.
	// Returns a *[message.NotOwnerError] if this host does not have the wanted endpoint with that epoch.
	Connect(ctx context.Context, from message.Caller, r message.ConnectRequest) (message.Channel, error)
	// Disconnect takes routes, or the channel, down. What is down already is no error.
	Disconnect(ctx context.Context, from message.Caller, r message.DisconnectRequest) error
	// Switch lets a channel that is up use another module, or other addresses.
	Switch(ctx context.Context, from message.Caller, r message.SwitchRequest) (message.Channel, error)
	// Introduce takes over endpoints that the host that asks has got. Returns a
	// *[message.RefusedError] if the channel is not up in that generation.
	Introduce(ctx context.Context, from message.Caller, r message.IntroduceRequest) error
	// Table returns what this host has in common with the one that asks.
	Table(ctx context.Context, from message.Caller, network string) (message.Table, error)
	// Reconcile is given what the host that asks has, keeps what is newer of both, and returns
	// what both have from now on. Done again it changes nothing.
	Reconcile(ctx context.Context, from message.Caller, theirs message.Table) (message.Table, error)
	// Counters returns those of the channels to the host that asks, in a network or, if it is
	// "", in all.
	Counters(ctx context.Context, from message.Caller, network string) ([]message.Counters, error)
}

// Joins lets hosts into the installation.
type Joins interface {
	// Join takes a token that it never takes again, and signs the certificate of a new host.
	Join(ctx context.Context, from message.Caller, r message.JoinRequest) (message.Joined, error)
}
