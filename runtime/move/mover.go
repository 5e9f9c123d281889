package move

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/snapctl/snapctl/runtime/compat"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/membership"
	"github.com/snapctl/snapctl/vem/ownership"
)

// Hosts are the other hosts of the installation.
type Hosts interface {
	// Self is the name of this host; empty if it is in no installation.
	Self() string
	// Open opens a stream to another host.
	Open(ctx context.Context, host, kind string) (Stream, error)
	// TakesApps returns why this host takes no apps of other hosts; nil: it does.
	TakesApps(ctx context.Context) error
	// Registrar says who owns an endpoint: nil before the directory was reached, which its methods say.
	Registrar() Registrar
}

// Registrar is as [registrar.Registrar].
type Registrar interface {
	Keep(ctx context.Context, at ownership.Spot, app string) error
	Depart(ctx context.Context, at ownership.Spot, to string) (directory.Endpoint, error)
	GiveAway(ctx context.Context, at ownership.Spot, to string) error
	Stay(ctx context.Context, at ownership.Spot, state directory.State) (gone bool, err error)
	Welcome(ctx context.Context, there directory.Endpoint) error
	Expect(ctx context.Context, there directory.Endpoint) error
	Arrived(ctx context.Context, at ownership.Spot) (directory.Standing, error)
	Dismiss(at ownership.Spot) error
}

// Carried is how much of a snapshot was taken to another host.
type Carried struct {
	Sent  int64 // bytes, as they went over the network
	Saved int64 // bytes that were there already
	Done  int64 // bytes of the files that were missing
	Total int64 // bytes of these files
}

// Options are what a mover works with. All are required.
type Options struct {
	Engine *engine.Engine
	Hosts  Hosts
	Origin snapshot.Origin // of what is saved on this host
	// Run runs what goes on beside requests, with a context that ends when the daemon does.
	Run func(func(context.Context))
	Log *slog.Logger
}

// Mover moves the apps of this host to others, and takes those that come. Its methods may be called at the same
// time. Both hosts need all that hibernation and wake need.
type Mover struct {
	opt            Options
	here           compat.Host
	depart, arrive *engine.Kind
	journeys       journeys
}

// New returns a mover, which has the engine know its operations.
func New(o Options) *Mover {
	m := &Mover{opt: o, here: compat.Here(o.Origin)}
	m.depart = &engine.Kind{Table: departTable, Committed: m.hasDeparted, Undo: m.stay, Finish: m.leave}
	m.arrive = &engine.Kind{Table: arriveTable, Committed: m.hasArrived, Undo: m.dismiss, Finish: m.settle}
	o.Engine.Know(m.depart, m.arrive)
	return m
}

// Operations are the tables of what a mover does.
func Operations() []journal.Table { return []journal.Table{departTable, arriveTable} }

// registrar returns who says who owns an endpoint.
func (m *Mover) registrar() (Registrar, error) {
	if m.opt.Hosts.Self() == "" {
		return nil, membership.Alone()
	}
	r := m.opt.Hosts.Registrar()
	if r == nil {
		return nil, fmt.Errorf("the directory must be reached first: %w", directory.ErrUnavailable)
	}
	return r, nil
}

// spotOf is where an app's endpoint is.
func spotOf(a *engine.App) ownership.Spot {
	c := a.Endpoint.Claim()
	return ownership.Spot{Network: c.Network, Addr: c.Addr4}
}
