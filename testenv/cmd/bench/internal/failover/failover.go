// Package failover measures what a pulled cable between two hosts does to what their apps say to each
// other.
package failover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/report"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/rig"
	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/vem/netns"
)

// probeInterval is how often a daemon probes the ways to other hosts.
const probeInterval = time.Second

// Measure measures how long nothing comes from an app of another host after a cable was pulled,
// whose devices stay up, until it comes over another one.
func Measure(ctx context.Context, b *rig.Bench) error {
	const name = "channel/failover"
	if !b.Wants(name) {
		return nil
	}
	var pauses []float64
	err := rig.WithCables(ctx, 2, func(alpha, beta *rig.World, cables []*host.Link) error {
		from, err := alpha.App(ctx, "client", "", "subject")
		if err != nil {
			return err
		}
		to, err := beta.App(ctx, "server", "", "subject")
		if err != nil {
			return err
		}
		inside, err := netns.Open(fmt.Sprintf("/proc/%d/ns/net", from.GetPid()))
		if err != nil {
			return err
		}
		defer inside.Close()
		other, err := netns.Open(fmt.Sprintf("/proc/%d/ns/net", to.GetPid()))
		if err != nil {
			return err
		}
		defer other.Close()
		f := flow{alpha: alpha, from: inside, to: other, at: netip.AddrPortFrom(netip.MustParseAddr(to.GetEndpoint()), 9)}
		pauses, err = f.pauses(ctx, cables, b.Passes)
		return errors.Join(err, alpha.Remove(ctx, "client"), beta.Remove(ctx, "server"))
	})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	b.Report.Add(report.Row{
		Name: name, Unit: "ms", Ours: report.Median(pauses), Other: rig.MS(probeInterval), OtherName: "the interval of probes", Goal: 3,
	})
	return nil
}

// flow is datagrams from an app to one of another host, one each millisecond.
type flow struct {
	alpha    *rig.World
	from, to *netns.NS
	at       netip.AddrPort
}

// pauses pulls one cable after the other, each when the other one works again, and returns for how
// many milliseconds nothing came each time.
func (f flow) pauses(ctx context.Context, cables []*host.Link, times int) (list []float64, err error) {
	var l, c net.PacketConn
	if err := f.to.Do(func() (err error) {
		l, err = (&net.ListenConfig{}).ListenPacket(ctx, "udp4", f.at.String())
		return err
	}); err != nil {
		return nil, err
	}
	defer l.Close()
	if err := f.from.Do(func() (err error) { c, err = (&net.ListenConfig{}).ListenPacket(ctx, "udp4", ":0"); return err }); err != nil {
		return nil, err
	}
	sending := make(chan struct{})
	go func() {
		defer close(sending)
		for tick := time.NewTicker(time.Millisecond); ; <-tick.C {
			if _, err := c.WriteTo([]byte{0}, net.UDPAddrFromAddrPort(f.at)); errors.Is(err, net.ErrClosed) {
				tick.Stop()
				return
			}
		}
	}()
	defer func() { c.Close(); <-sending }()
	for n := range times {
		pulled, other := cables[n%2], cables[1-n%2]
		if err := f.ready(ctx, pulled, other); err != nil {
			return nil, err
		}
		if _, err := gap(ctx, l, 2*probeInterval+rand.N(probeInterval)); err != nil { // at any moment between two probes
			return nil, err
		}
		if err := pulled.Cut(); err != nil {
			return nil, err
		}
		longest, err := gap(ctx, l, 6*probeInterval)
		if err != nil {
			return nil, err
		}
		list = append(list, rig.MS(longest))
		if err := pulled.Mend(); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// gap is the longest time in which nothing came.
func gap(ctx context.Context, l net.PacketConn, during time.Duration) (longest time.Duration, err error) {
	begin := time.Now()
	for last := begin; last.Sub(begin) < during; {
		if err := l.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			return 0, err
		}
		if _, _, err := l.ReadFrom(make([]byte, 1)); err != nil {
			return 0, fmt.Errorf("wait for what is sent: %w", err)
		}
		now := time.Now()
		longest, last = max(longest, now.Sub(last)), now
	}
	return longest, ctx.Err()
}

// ready returns when the channel goes over one cable, and the other one works.
func (f flow) ready(ctx context.Context, used, other *host.Link) error {
	return rig.Until(ctx, time.Minute, func() error {
		r, err := f.alpha.Snapctl(ctx, "host", "show", "beta", "-o", "json")
		if err != nil {
			return err
		}
		var shown struct {
			Ways []struct {
				Address, Remote, State string
				Used                   bool
			}
		}
		if err := json.Unmarshal([]byte(r.Stdout), &shown); err != nil {
			return fmt.Errorf("read what host show says: %w: %s", err, r.Stderr)
		}
		good := 0
		for _, w := range shown.Ways {
			switch {
			case w.State != "up":
			case w.Address == used.A.String() && w.Remote == used.B.String() && w.Used, w.Address == other.A.String() && w.Remote == other.B.String():
				good++
			}
		}
		if good < 2 {
			return fmt.Errorf("the ways are %+v", shown.Ways)
		}
		return nil
	})
}
