package wireguard

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/channel/guard"
)

// Report returns what was counted, and puts back what others have changed: the host's firewall
// table, and where WireGuard of the kernel's sends to. See [channel.Module]. The kernel has no times
// of packets: a Last is when a Report first saw the count. WireGuard's own messages are counted too.
func (m *Module) Report(ctx context.Context) (channel.Report, error) {
	release, err := m.take(ctx)
	if err != nil {
		return channel.Report{}, err
	}
	defer release()
	report := channel.Report{Hosts: make(map[string]channel.Counters, len(m.hosts))}
	if m.device.index == 0 {
		return report, nil
	}
	if err := m.repair(); err != nil {
		return report, err
	}
	if err := m.lead(ctx); err != nil {
		return report, err
	}
	counted, err := m.guard.Counters()
	if err != nil {
		return report, err
	}
	now := time.Now()
	for name, e := range m.hosts {
		bytes := uint64(channel.WireGuard.Outer(e.status.Host.Local))
		e.seen.Sent = seen(e.seen.Sent, counted[guard.To(e.number)], bytes, now)
		e.seen.Received = seen(e.seen.Received, counted[guard.From(e.number)], bytes, now)
		report.Hosts[name] = e.seen
	}
	report.Drops.Stranger = counted[guard.Stranger].Packets
	if report.Drops.Refused, err = m.inside.Refused(); err != nil {
		return report, err
	}
	aside, err := m.machines.module.Report(ctx)
	if err != nil {
		return report, err
	}
	report.Drops.Refused += aside.Drops.Refused + aside.Drops.Stranger
	link, err := m.fabric.nl.LinkByIndex(m.device.index)
	if err != nil {
		return report, fmt.Errorf("read counters of the device: %w", err)
	}
	if s := link.Attrs().Statistics; s != nil {
		report.Drops.Refused += s.RxFrameErrors // of a source that its sender has not: the kernel's only
		report.Drops.Failed = s.TxErrors + s.TxDropped
	}
	return report, nil
}

// seen takes outer headers off what was counted, and notes when that has changed.
func seen(before, now channel.Traffic, outer uint64, at time.Time) channel.Traffic {
	now.Bytes -= min(now.Bytes, now.Packets*outer)
	now.Last = before.Last
	if now.Packets != before.Packets {
		now.Last = at
	}
	return now
}

// lead has the kernel's device send to where channels go, if it sends elsewhere.
func (m *Module) lead(ctx context.Context) error {
	if !m.wg.kernel {
		return nil // it does not go elsewhere, see package userspace
	}
	d, err := m.wg.get(ctx)
	if err != nil {
		return err
	}
	at := make(map[wgtypes.Key]netip.AddrPort, len(d.Peers))
	for _, p := range d.Peers {
		if p.Endpoint != nil {
			a := p.Endpoint.AddrPort()
			at[p.PublicKey] = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
		}
	}
	var cfg wgtypes.Config
	for _, e := range m.hosts {
		if at[e.key] != netip.AddrPortFrom(e.status.Host.Remote, e.status.Host.Port) {
			cfg.Peers = append(cfg.Peers, e.peer(nil))
		}
	}
	if len(cfg.Peers) == 0 {
		return nil
	}
	return m.wg.set(ctx, cfg)
}
