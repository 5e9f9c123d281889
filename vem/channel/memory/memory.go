// Package memory has a [channel.Module] that carries nothing: it remembers what it is told, for
// the tests of those who tell it.
package memory

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/snapctl/snapctl/vem/channel"
)

const (
	underlayMTU = 1500 // what all devices of a Kernel are
	headers     = 40
)

// Kernel is what modules of one network leave behind when they are closed.
type Kernel struct {
	Prefix4, Prefix6 netip.Prefix
	Devices          []string       // the host's; there are no others
	Make             []channel.Kind // what its modules make; none: all kinds

	mu     sync.Mutex
	hosts  map[string]channel.Status
	routes map[netip.Addr]channel.Route
	beyond []channel.Beyond
	report channel.Report
}

// Module is a [channel.Module] of the kinds that its kernel has.
type Module struct {
	k *Kernel

	// Under k.mu.
	underlay map[netip.Addr]string
	closed   bool
}

var (
	_ channel.Module = (*Module)(nil)
	_ channel.Router = (*Module)(nil)
)

// Open opens the network's module.
func (k *Kernel) Open() *Module {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.hosts == nil {
		k.hosts, k.routes = make(map[string]channel.Status), make(map[netip.Addr]channel.Route)
		k.report.Hosts = make(map[string]channel.Counters)
	}
	return &Module{k: k}
}

// Count sets what was counted of a host.
func (k *Kernel) Count(name string, c channel.Counters) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.report.Hosts[name] = c
}

// Kinds returns what the module makes.
func (m *Module) Kinds() []channel.Kind {
	if len(m.k.Make) > 0 {
		return slices.Clone(m.k.Make)
	}
	return []channel.Kind{channel.Direct, channel.Tunnel, channel.VXLAN, channel.WireGuard}
}

// use runs fn with the kernel, unless the module is closed or ctx has ended.
func (m *Module) use(ctx context.Context, fn func(k *Kernel) error) error {
	m.k.mu.Lock()
	defer m.k.mu.Unlock()
	if m.closed {
		return fmt.Errorf("use channels in memory: %w", fs.ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return fn(m.k)
}

// SetUnderlay says where channels may begin.
func (m *Module) SetUnderlay(ctx context.Context, list []channel.Underlay) error {
	return m.use(ctx, func(k *Kernel) error {
		underlay := make(map[netip.Addr]string)
		for _, u := range list {
			if !slices.Contains(k.Devices, u.Device) {
				return fmt.Errorf("%w: there is no device %s", channel.ErrUnderlay, u.Device)
			}
			if !u.Addr.IsValid() || k.contains(u.Addr) {
				return fmt.Errorf("%w: address %s", channel.ErrUnderlay, u.Addr)
			}
			underlay[u.Addr] = u.Device
		}
		m.underlay = underlay
		return nil
	})
}

func (k *Kernel) contains(a netip.Addr) bool { return k.Prefix4.Contains(a) || k.Prefix6.Contains(a) }

// SetHost remembers a host.
func (m *Module) SetHost(ctx context.Context, h channel.Host) error {
	return m.use(ctx, func(k *Kernel) error {
		if err := h.Check(); err != nil {
			return err
		}
		for _, kind := range append([]channel.Kind{h.Kind}, h.Accept...) {
			if !slices.Contains(m.Kinds(), kind) {
				return fmt.Errorf("%w: %s", channel.ErrKind, kind)
			}
		}
		if m.underlay[h.Local] == "" {
			return fmt.Errorf("%w: address %s was not given", channel.ErrUnderlay, h.Local)
		}
		room, err := h.Room(underlayMTU, headers)
		if err != nil {
			return err
		}
		mine := append([]netip.Addr{h.Remote}, h.Sources...)
		for name, other := range k.hosts {
			for _, a := range append([]netip.Addr{other.Host.Remote}, other.Host.Sources...) {
				if name != h.Name && slices.Contains(mine, a) {
					return fmt.Errorf("%w: %s is an address of host %s", channel.ErrHost, a, name)
				}
			}
		}
		h.Accept, h.Sources = slices.Clone(h.Accept), slices.Clone(h.Sources)
		k.hosts[h.Name] = channel.Status{Host: h, MTU: room}
		if _, known := k.report.Hosts[h.Name]; !known {
			k.report.Hosts[h.Name] = channel.Counters{}
		}
		return nil
	})
}

// RemoveHost forgets a host and its routes.
func (m *Module) RemoveHost(ctx context.Context, name string) error {
	return m.use(ctx, func(k *Kernel) error {
		delete(k.hosts, name)
		delete(k.report.Hosts, name)
		maps.DeleteFunc(k.routes, func(_ netip.Addr, r channel.Route) bool { return r.Host == name })
		return nil
	})
}

// SetRoutes remembers routes.
func (m *Module) SetRoutes(ctx context.Context, list []channel.Route) error {
	return m.use(ctx, func(k *Kernel) error {
		for _, r := range list {
			_, known := k.hosts[r.Host]
			if !known || !k.contains(r.Addr) || r.State != channel.Opening && r.State != channel.Open {
				return fmt.Errorf("%w: %v", channel.ErrRoute, r)
			}
		}
		for _, r := range list {
			k.routes[r.Addr] = r
		}
		return nil
	})
}

// RemoveRoutes forgets routes.
func (m *Module) RemoveRoutes(ctx context.Context, list []netip.Addr) error {
	return m.use(ctx, func(k *Kernel) error {
		for _, a := range list {
			delete(k.routes, a)
		}
		return nil
	})
}

// SetBeyond remembers prefixes.
func (m *Module) SetBeyond(ctx context.Context, list []channel.Beyond) error {
	return m.use(ctx, func(k *Kernel) error {
		for _, b := range list {
			if err := b.Check(k.Prefix4, k.Prefix6); err != nil {
				return err
			}
		}
		k.beyond = slices.Clone(list)
		return nil
	})
}

// Via returns the first host of each prefix that is set.
func (m *Module) Via(ctx context.Context) (via map[netip.Prefix]string, err error) {
	via = make(map[netip.Prefix]string)
	err = m.use(ctx, func(k *Kernel) error {
		for _, b := range k.beyond {
			i := slices.IndexFunc(b.Hosts, func(name string) bool { _, ok := k.hosts[name]; return ok })
			switch {
			case b.Here:
				via[b.Prefix] = ""
			case i >= 0:
				via[b.Prefix] = b.Hosts[i]
			}
		}
		return nil
	})
	return via, err
}

// Hosts returns all hosts.
func (m *Module) Hosts(ctx context.Context) (found map[string]channel.Status, err error) {
	err = m.use(ctx, func(k *Kernel) error {
		found = maps.Clone(k.hosts)
		return nil
	})
	return found, err
}

// Routes returns all routes.
func (m *Module) Routes(ctx context.Context) (list []channel.Route, err error) {
	err = m.use(ctx, func(k *Kernel) error {
		list = slices.Collect(maps.Values(k.routes))
		return nil
	})
	return list, err
}

// Report returns what [Kernel.Count] was told.
func (m *Module) Report(ctx context.Context) (report channel.Report, err error) {
	err = m.use(ctx, func(k *Kernel) error {
		report = channel.Report{Hosts: maps.Clone(k.report.Hosts), Drops: k.report.Drops}
		return nil
	})
	return report, err
}

// Delete forgets everything.
func (m *Module) Delete(ctx context.Context) error {
	m.k.mu.Lock()
	defer m.k.mu.Unlock()
	if m.closed {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	clear(m.k.hosts)
	clear(m.k.routes)
	m.k.beyond = nil
	clear(m.k.report.Hosts)
	m.closed = true
	return nil
}

// Close ends the use of the module.
func (m *Module) Close() error {
	m.k.mu.Lock()
	defer m.k.mu.Unlock()
	m.closed = true
	return nil
}
