package main

import (
	"context"
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
		to := netip.AddrPortFrom(netip.MustParseAddr(server.GetEndpoint()), 7000)
		if err := known(ctx, alpha, to); err != nil {
			return err
		}
		for range times {
			direct, err := connectTime(alpha.Net(), netip.AddrPortFrom(cable.B, 80))
			if err != nil {
				return err
			}
			first, err := fromNewApp(ctx, alpha, func(ns *netns.NS) (time.Duration, error) { return connectTime(ns, to) })
			if err != nil {
				return err
			}
			ours, bare = append(ours, rig.MS(first)), append(bare, rig.MS(direct))
		}
		return beta.Remove(ctx, "server")
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

// known returns when a host has heard of an app on another one.
func known(ctx context.Context, w *rig.World, to netip.AddrPort) error {
	_, err := fromNewApp(ctx, w, func(ns *netns.NS) (took time.Duration, err error) {
		err = rig.Until(ctx, time.Minute, func() error {
			took, err = connectTime(ns, to)
			return err
		})
		return took, err
	})
	return err
}

// fromNewApp does something in the network namespace of an app, which is the only one of its host:
// there is no channel before.
func fromNewApp(ctx context.Context, w *rig.World, do func(ns *netns.NS) (time.Duration, error)) (time.Duration, error) {
	app, err := w.App(ctx, "client", "", "subject")
	if err != nil {
		return 0, err
	}
	took, err := inApp(app, do)
	if err != nil {
		return 0, err
	}
	return took, w.Remove(ctx, "client")
}

func inApp(app *api.App, do func(ns *netns.NS) (time.Duration, error)) (time.Duration, error) {
	ns, err := netns.Open(fmt.Sprintf("/proc/%d/ns/net", app.GetPid()))
	if err != nil {
		return 0, err
	}
	defer ns.Close()
	return do(ns)
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
