package redirect

import (
	"context"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/fabric/fastpath"
)

// SetRoutes adds or changes routes; see [channel.Module].
func (m *Module) SetRoutes(ctx context.Context, list []channel.Route) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return err
	}
	routes := make([]fastpath.Route, len(list))
	for i, r := range list {
		e := m.hosts[r.Host]
		if err := r.Check(e != nil, m.cfg.Prefix4, m.cfg.Prefix6); err != nil {
			return err
		}
		routes[i] = fastpath.Route{Addr: r.Addr, Host: e.number, Use: fastpath.Opening}
		if r.State == channel.Open {
			routes[i].Use = fastpath.Open
		}
	}
	return m.cfg.Remotes.PutRoutes(routes)
}

// RemoveRoutes removes routes; see [channel.Module].
func (m *Module) RemoveRoutes(ctx context.Context, list []netip.Addr) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return err
	}
	return m.cfg.Remotes.RemoveRoutes(list)
}

// Routes returns all routes; see [channel.Module].
func (m *Module) Routes(ctx context.Context) ([]channel.Route, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return nil, err
	}
	names := make(map[int]string, len(m.hosts))
	for name, e := range m.hosts {
		names[e.number] = name
	}
	var list []channel.Route
	for r, err := range m.cfg.Remotes.Routes() {
		if err != nil {
			return nil, err
		}
		state := channel.Opening
		if r.Use == fastpath.Open {
			state = channel.Open
		}
		list = append(list, channel.Route{Addr: r.Addr, Host: names[r.Host], State: state})
	}
	return list, nil
}

// Report returns what was counted; see [channel.Module].
func (m *Module) Report(ctx context.Context) (channel.Report, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return channel.Report{}, err
	}
	report := channel.Report{Hosts: make(map[string]channel.Counters, len(m.hosts))}
	for name, e := range m.hosts {
		sent, received, err := m.cfg.Remotes.Counted(e.number)
		if err != nil {
			return channel.Report{}, err
		}
		report.Hosts[name] = channel.Counters{Sent: traffic(sent), Received: traffic(received)}
	}
	drops, err := m.cfg.Remotes.Dropped()
	report.Drops = channel.Drops(drops)
	return report, err
}

// traffic turns the kernel's time since its start into one of the day.
func traffic(t fastpath.Traffic) channel.Traffic {
	count := channel.Traffic{Packets: t.Packets, Bytes: t.Bytes}
	if t.Last == 0 {
		return count
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return count
	}
	count.Last = time.Now().Add(time.Duration(int64(t.Last) - now.Nano()))
	return count
}
