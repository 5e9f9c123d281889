package daemon

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"

	"github.com/snapctl/snapctl/runtime/courier"
	"github.com/snapctl/snapctl/runtime/line"
	"github.com/snapctl/snapctl/runtime/move"
	"github.com/snapctl/snapctl/runtime/move/drain"
	"github.com/snapctl/snapctl/runtime/server"
	"github.com/snapctl/snapctl/runtime/server/afar"
	"github.com/snapctl/snapctl/vem/control"
	"github.com/snapctl/snapctl/vem/control/message"
	"github.com/snapctl/snapctl/vem/installation"
	"github.com/snapctl/snapctl/vem/membership"
)

// openMover opens what moves apps, before the engine looks at what an earlier daemon left.
func (d *Daemon) openMover(ctx context.Context) {
	d.mover = move.New(move.Options{Engine: d.engine, Hosts: others{d.hosts}, Origin: d.origin(), Run: d.tasks.Run, Log: d.log})
	d.mover.Sweep(ctx)
	d.drainer = drain.New(drain.Options{
		Apps: drain.Fleet{Engine: d.engine, Mover: d.mover}, Hosts: others{d.hosts}, Run: d.tasks.Run, Log: d.log,
		Available: func(ctx context.Context, host string) (int64, error) { return d.front.Available(ctx, host) },
	})
}

// handler answers the streams of a kind.
type handler = func(context.Context, message.Caller, *control.Stream) error

// streams are those of other hosts that move apps to this one, take snapshots to it, or ask it to do something. None
// is served before this host has taken up its own apps.
func (d *Daemon) streams() map[string]handler {
	when := func(serve handler) handler {
		return func(ctx context.Context, from message.Caller, s *control.Stream) error {
			select {
			case <-d.recovered:
				return serve(ctx, from, s)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return map[string]handler{
		courier.Kind: when(d.courier.Serve),
		courier.GuestKind: when(func(ctx context.Context, from message.Caller, s *control.Stream) error {
			if why, ok := errors.AsType[*membership.Error](d.hosts.TakesApps(ctx)); ok { // it comes to be made an app of
				return &message.RefusedError{Why: message.OneLine(why.Text), Hint: message.OneLine(why.Remedy)}
			}
			return d.courier.Lodge(ctx, from, s)
		}),
		line.Kind: when(func(ctx context.Context, from message.Caller, s *control.Stream) error {
			return d.lines.Serve(ctx, from.Host, s)
		}),
		move.StreamKind: when(func(ctx context.Context, from message.Caller, s *control.Stream) error {
			return d.mover.Serve(ctx, from.Host, s)
		}),
		move.FilesKind: when(func(ctx context.Context, from message.Caller, s *control.Stream) error {
			return d.mover.ServeFiles(ctx, from.Host, s)
		}),
	}
}

// others are the other hosts of the installation.
type others struct{ *installation.Installation }

// Self implements [move.Hosts].
func (o others) Self() string {
	if id := o.Identity(); id != nil {
		return id.Host()
	}
	return ""
}

// Open implements [move.Hosts].
func (o others) Open(ctx context.Context, host, kind string) (move.Stream, error) {
	s, err := o.OpenStream(ctx, host, kind, nil)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Registrar implements [move.Hosts].
func (o others) Registrar() move.Registrar {
	if r := o.Installation.Registrar(); r.Begun() {
		return r
	}
	return nil
}

// neighbours are all hosts of the installation, as this one asks them.
type neighbours struct {
	others

	lines *line.Switchboard
}

// Dial implements [afar.Hosts].
func (n neighbours) Dial(ctx context.Context, host string) (*grpc.ClientConn, error) {
	if host == n.Self() {
		return n.lines.Connect(ctx, host)
	}
	s, err := n.OpenStream(ctx, host, line.Kind, nil)
	if err != nil {
		return nil, fmt.Errorf("ask host %s: %w", host, err)
	}
	return line.Connect(s)
}

// newFront returns what has other hosts do what they are to do.
func (d *Daemon) newFront() *afar.Service {
	return afar.New(d.newService(), afar.Options{Hosts: neighbours{others{d.hosts}, d.lines}, Courier: d.courier, Status: server.Status, Hint: server.Hint})
}
