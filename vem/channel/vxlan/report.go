package vxlan

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/channel/guard"
)

// Report returns what was counted, and puts back the host's firewall table if somebody has taken
// it away; see [channel.Module]. The kernel has no times of packets: a Last is when a Report first
// saw the count.
func (m *Module) Report(ctx context.Context) (channel.Report, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return channel.Report{}, err
	}
	report := channel.Report{Hosts: make(map[string]channel.Counters, len(m.hosts))}
	if m.device == 0 {
		return report, nil
	}
	if err := m.repair(); err != nil {
		return report, err
	}
	counted, err := m.guard.Counters()
	if err != nil {
		return report, err
	}
	now := time.Now()
	for name, e := range m.hosts {
		bytes := uint64(channel.VXLAN.Outer(e.status.Host.Local))
		e.seen.Sent = seen(e.seen.Sent, counted[guard.To(e.number)], bytes, now)
		e.seen.Received = seen(e.seen.Received, counted[guard.From(e.number)], bytes, now)
		report.Hosts[name] = e.seen
	}
	report.Drops.Stranger = counted[guard.Stranger].Packets
	if report.Drops.Refused, err = m.inside.Refused(); err != nil {
		return report, err
	}
	link, err := m.fabric.nl.LinkByIndex(m.device)
	if err != nil {
		return report, fmt.Errorf("read counters of the device: %w", err)
	}
	if s := link.Attrs().Statistics; s != nil {
		report.Drops.Congested, report.Drops.Failed = s.RxFrameErrors, s.TxErrors
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

// repair puts the host's table back.
func (m *Module) repair() error {
	have, err := m.guard.There()
	if err != nil || have {
		return err
	}
	return m.install()
}

// install puts the host's table where it is to be, for all hosts.
func (m *Module) install() error {
	var list []guard.Host
	for _, e := range m.hosts {
		list = append(list, e.guarded())
	}
	return m.guard.Install(names(m.underlay), list)
}

// names are the devices that have the addresses.
func names(underlay map[netip.Addr]device) guard.Underlay {
	list := make(guard.Underlay, len(underlay))
	for a, d := range underlay {
		list[a] = d.name
	}
	return list
}
