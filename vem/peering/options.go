package peering

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"github.com/snapctl/snapctl/vem/control/message"
)

// Options are what a [Peering] works with. All may be asked at the same time.
type Options struct {
	Self   string // the name of this host
	Peers  Peers
	Owners Owners
	Locals Locals
	// Idle is how long nothing has to come over a channel before it is taken down; 0: 5 minutes.
	Idle time.Duration
	// Run runs what goes on beside requests, with a context that ends before Close is called.
	Run func(func(context.Context))
	// Changed is told that channels to a host have come, have gone, or go another way; nil: nobody
	// is. It must return at once.
	Changed func(host string)
	Log     *slog.Logger
}

// DefaultIdle is how long a channel stays up that nobody uses.
const DefaultIdle = 5 * time.Minute

// Peers are the other hosts, as [control.Peers] reaches them.
type Peers interface {
	Connect(ctx context.Context, host string, r message.ConnectRequest) (message.Channel, error)
	Disconnect(ctx context.Context, host string, r message.DisconnectRequest) error
	Switch(ctx context.Context, host string, r message.SwitchRequest) (message.Channel, error)
	Introduce(ctx context.Context, host string, r message.IntroduceRequest) error
	Reconcile(ctx context.Context, host string, ours message.Table) (merged message.Table, equal bool, err error)
}

// Owner is who has an endpoint, and with which epoch.
type Owner struct {
	Host  string
	Epoch uint64
}

// Owners knows who has which endpoint, as the directory says.
type Owners interface {
	// Owner returns who has an endpoint, or an error wrapping [slowpath.ErrNobody] if it is sure
	// that nobody has. Any other error is for the moment.
	Owner(ctx context.Context, network string, a netip.Addr) (Owner, error)
	// Known returns who has an endpoint, as far as that is known without asking anybody.
	Known(network string, a netip.Addr) (Owner, bool)
}

// Locals are the endpoints of this host.
type Locals interface {
	// Epoch is the epoch with which this host has an endpoint; false if it does not have it.
	Epoch(network string, a netip.Addr) (uint64, bool)
	// All returns the endpoints that are in a network, with their addresses of both families.
	All(network string) []message.Endpoint
}
