package directorycli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"sync"

	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"

	"github.com/snapctl/snapctl/vem/directory/guard"
	"github.com/snapctl/snapctl/vem/directory/member"
	"github.com/snapctl/snapctl/vem/membership"
)

// doors are the ports of a member that a guard has.
type doors struct{ clients, peers []net.Listener }

// openDoors opens the ports, where nobody is let in yet.
func openDoors(ctx context.Context, c member.Config) (*doors, error) {
	d := &doors{}
	if c.Installation() == "" {
		return d, nil // etcd opens its ports itself
	}
	for _, set := range []struct {
		to   *[]net.Listener
		from []string
	}{{&d.clients, c.ListenClient}, {&d.peers, c.ListenPeer}} {
		for _, s := range set.from {
			l, err := listen(ctx, s)
			if err != nil {
				d.close()
				return nil, fmt.Errorf("open port of the member: %w", err)
			}
			*set.to = append(*set.to, l)
		}
	}
	return d, nil
}

func listen(ctx context.Context, at string) (net.Listener, error) {
	u, err := url.Parse(at)
	if err != nil {
		return nil, err
	}
	a, err := netip.ParseAddrPort(u.Host)
	if err != nil {
		return nil, err
	}
	return guard.Listen(ctx, a)
}

func (d *doors) close() {
	for _, l := range append(d.clients, d.peers...) {
		_ = l.Close() // it may be closed already
	}
}

// stand has a guard let hosts in, by what the member knows of them. end sends all of them away.
func (d *doors) stand(ctx context.Context, c member.Config, s *etcdserver.EtcdServer, log *slog.Logger) (end func(), err error) {
	if c.Installation() == "" {
		return func() {}, nil
	}
	client := v3client.New(s)
	roll := guard.NewRoll(client, member.Keys(c.Installation()))
	if _, err := roll.Load(ctx); err != nil {
		return nil, err
	}
	g, err := guard.New(guard.Options{Pair: c.ClientTLS.CertFile, Check: membership.Check(roll.Host), Log: log})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	all.Go(func() { roll.Follow(ctx, g.Review) })
	serve := func(list []net.Listener, to string, protocols ...string) {
		for _, l := range list {
			all.Go(func() {
				if err := g.Serve(ctx, l, to, protocols...); err != nil && !errors.Is(err, net.ErrClosed) {
					log.ErrorContext(ctx, "the member can't be reached any more", slog.String("at", l.Addr().String()), slog.Any("error", err))
				}
			})
		}
	}
	serve(d.clients, c.ClientSocket(), "h2") // gRPC wants it (RFC 9113, 3.2)
	serve(d.peers, c.PeerSocket())
	return func() {
		cancel()
		_, _ = g.Close(), client.Close() // neither was written to
		all.Wait()
	}, nil
}
