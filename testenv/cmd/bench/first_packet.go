package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/report"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/rig"
	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/vem/netns"
)

// quiet is how long nothing happens before the first packet is measured: the slow path forgets
// meanwhile where packets went last.
const quiet = 300 * time.Millisecond

// firstPacket measures how long an app's connection to an app of another host takes with no channel
// there: until the hosts have agreed about one, the SYN waits.
func firstPacket(ctx context.Context, b *rig.Bench) error {
	const name = "channel/first-packet"
	if !b.Wants(name) {
		return nil
	}
	times := 4 * b.Passes
	if b.Small {
		times = 2
	}
	var ours, bare []float64
	err := rig.WithInstallation(ctx, func(alpha, beta *rig.World, cable *host.Link) error {
		server, err := beta.App(ctx, "server", "", "subject")
		if err != nil {
			return err
		}
		l, err := beta.Listen(ctx, "tcp", netip.AddrPortFrom(cable.B, 80).String())
		if err != nil {
			return err
		}
		defer l.Close()
		client, err := alpha.App(ctx, "client", "", "subject")
		if err != nil {
			return err
		}
		ns, err := netns.Open(fmt.Sprintf("/proc/%d/ns/net", client.GetPid()))
		if err != nil {
			return err
		}
		defer ns.Close()
		to := netip.AddrPortFrom(netip.MustParseAddr(server.GetEndpoint()), 7000)
		err = rig.Until(ctx, time.Minute, func() error { // alpha has to hear of the app first
			_, err := connectTime(ns, to)
			return err
		})
		if err != nil {
			return err
		}
		for range times {
			if err := withoutChannel(ctx, alpha, beta); err != nil {
				return err
			}
			direct, err := connectTime(alpha.Net(), netip.AddrPortFrom(cable.B, 80))
			if err != nil {
				return err
			}
			first, err := connectTime(ns, to)
			if err != nil {
				return err
			}
			ours, bare = append(ours, rig.MS(first)), append(bare, rig.MS(direct))
		}
		return errors.Join(alpha.Remove(ctx, "client"), beta.Remove(ctx, "server"))
	})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	b.Report.Add(report.Row{
		Name: name, Unit: "ms p50", Ours: report.Median(ours), Other: 3 * report.Median(bare), OtherName: "three round trips of the underlay",
		Goal: 2, GoalOn: "extra",
	})
	return nil
}

// withoutChannel takes the channel between two hosts down, and returns when neither has had it for a
// while: the end of the connection before may bring it up once more.
func withoutChannel(ctx context.Context, hosts ...*rig.World) error {
	return rig.Until(ctx, time.Minute, func() error {
		rig.Rest(ctx, quiet)
		for _, h := range hosts {
			list, err := h.API.TakeChannelsDown(ctx, &api.ChannelsRequest{})
			if err != nil {
				return err
			}
			if len(list) > 0 {
				return errors.New("the channel was still up")
			}
		}
		return nil
	})
}

// connectTime is how long it takes to connect from a namespace to an IPv4 address.
func connectTime(ns *netns.NS, to netip.AddrPort) (took time.Duration, err error) {
	err = ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		start := time.Now()
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
		took = time.Since(start)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("connect to %s: %w", to, err)
	}
	return took, nil
}
