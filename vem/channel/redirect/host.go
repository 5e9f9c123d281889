package redirect

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/fabric/fastpath"
)

const (
	// membarrierGlobal is MEMBARRIER_CMD_GLOBAL (include/uapi/linux/membarrier.h).
	membarrierGlobal = 1
	// settle is how long nobody still reads a way that was replaced. Programs run for
	// microseconds; a machine that is stopped for longer stops them too.
	settle = time.Second
)

// SetHost makes or changes the channel to a host; see [channel.Module].
func (m *Module) SetHost(ctx context.Context, h channel.Host) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return err
	}
	if err := m.setHost(h); err != nil {
		return fmt.Errorf("set channel to host %s: %w", h.Name, err)
	}
	return nil
}

func (m *Module) setHost(h channel.Host) error {
	path, err := m.path(h)
	if err != nil {
		return err
	}
	for _, a := range append([]netip.Addr{h.Remote}, h.Sources...) {
		for name, other := range m.hosts {
			if name != h.Name && (other.status.Host.Remote == a || slices.Contains(other.status.Host.Sources, a)) {
				return fmt.Errorf("%w: %s is an address of host %s", channel.ErrHost, a, name)
			}
		}
	}
	if err := m.tellNarrow(path.MTU); err != nil {
		return err
	}
	e := m.hosts[h.Name]
	var before []netip.Addr
	if e == nil {
		number, err := m.free()
		if err != nil {
			return err
		}
		e = &entry{number: number}
		if err := m.cfg.Remotes.RemovePath(number); err != nil { // and zero its counters
			return err
		}
	} else {
		before = append([]netip.Addr{e.status.Host.Remote}, e.status.Host.Sources...)
	}
	after := append([]netip.Addr{h.Remote}, h.Sources...)
	if e.path == path && slices.Equal(before, after) {
		e.status.Host = copied(h)
		return nil
	}
	for _, a := range after {
		if err := m.cfg.Remotes.PutSender(a, e.number); err != nil {
			return err
		}
	}
	if time.Since(e.changed) < settle {
		if err := awaitReaders(); err != nil {
			return err
		}
	}
	if err := m.cfg.Remotes.PutPath(e.number, path); err != nil {
		return err
	}
	e.changed, e.path, e.status = time.Now(), path, channel.Status{Host: copied(h), MTU: path.MTU}
	m.hosts[h.Name] = e
	for _, a := range before {
		if slices.Contains(after, a) {
			continue
		}
		if err := m.cfg.Remotes.RemoveSender(a); err != nil {
			return err
		}
	}
	return errors.Join(m.tellBeyond(), m.tellDirect(), m.tellNarrow())
}

// tellNarrow tells the fabric how large packets to hosts may be, where that is less than apps take it
// for: to those that are set, and to one that is about to be.
func (m *Module) tellNarrow(next ...int) error {
	sizes := next
	for _, e := range m.hosts {
		sizes = append(sizes, e.status.MTU)
	}
	sizes = slices.DeleteFunc(sizes, func(n int) bool { return n >= m.cfg.MTU })
	slices.Sort(sizes)
	if sizes = slices.Compact(sizes); m.narrow != nil && slices.Equal(sizes, m.narrow) {
		return nil
	}
	m.narrow = nil // if it fails, the next one tells all
	if err := m.cfg.Narrow(sizes); err != nil {
		return err
	}
	m.narrow = append([]int{}, sizes...)
	return nil
}

// tellDirect tells the programs whether any host may send without outer header.
func (m *Module) tellDirect() error {
	direct := false
	for _, e := range m.hosts {
		h := &e.status.Host
		direct = direct || h.Kind == channel.Direct || slices.Contains(h.Accept, channel.Direct)
	}
	return m.cfg.Remotes.SetDirect(direct)
}

// copied returns h with lists of its own.
func copied(h channel.Host) channel.Host {
	h.Accept, h.Sources = slices.Clone(h.Accept), slices.Clone(h.Sources)
	return h
}

// awaitReaders returns when every program that runs now has ended (membarrier(2): a global one
// is synchronize_rcu, kernel/sched/membarrier.c).
func awaitReaders() error {
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobal, 0, 0); errno != 0 {
		return fmt.Errorf("wait for programs: membarrier: %w", errno)
	}
	return nil
}

// path checks a host and makes what the kernel gets.
func (m *Module) path(h channel.Host) (fastpath.Path, error) {
	if err := h.Check(); err != nil {
		return fastpath.Path{}, err
	}
	kinds := append([]channel.Kind{h.Kind}, h.Accept...)
	var accept fastpath.Modules
	for _, k := range kinds {
		if k != channel.Direct && k != channel.Tunnel {
			return fastpath.Path{}, fmt.Errorf("%w: %s", channel.ErrKind, k)
		}
		accept |= fastpath.Set(moduleOf(k))
		if k == channel.Direct {
			accept |= fastpath.OtherFamily // and what machines beyond gateways send
		}
	}
	from, ok := m.underlay[h.Local]
	if !ok {
		return fastpath.Path{}, fmt.Errorf("%w: address %s of this host was not given", channel.ErrUnderlay, h.Local)
	}
	module, outer := fastpath.Tunnel, h.Kind.Outer(h.Local)
	if h.Kind == channel.Direct {
		module = fastpath.Direct
	}
	room, err := h.Room(from.mtu, outer)
	if err != nil {
		return fastpath.Path{}, err
	}
	return fastpath.Path{
		Module: module, Device: from.index, MTU: room, Local: h.Local, Remote: h.Remote, Accept: accept, Name: h.Name,
	}, nil
}

// fromPath makes a host of what the kernel has.
func fromPath(p fastpath.Path) channel.Host {
	h := channel.Host{Name: p.Name, Kind: channel.Tunnel, Local: p.Local, Remote: p.Remote}
	other := channel.Direct
	if p.Module == fastpath.Direct {
		h.Kind, other = channel.Direct, channel.Tunnel
	}
	if p.Accept.Has(moduleOf(other)) {
		h.Accept = []channel.Kind{other}
	}
	return h
}

func moduleOf(k channel.Kind) fastpath.Module {
	if k == channel.Direct {
		return fastpath.Direct
	}
	return fastpath.Tunnel
}

// free returns a number that no host has.
func (m *Module) free() (int, error) {
	var used [fastpath.MaxHosts + 1]bool
	for _, e := range m.hosts {
		used[e.number] = true
	}
	for number := 1; number <= fastpath.MaxHosts; number++ {
		if !used[number] {
			return number, nil
		}
	}
	return 0, fmt.Errorf("%w: there are %d hosts already", channel.ErrHost, fastpath.MaxHosts)
}

// RemoveHost removes the channel to a host; see [channel.Module].
func (m *Module) RemoveHost(ctx context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return err
	}
	if err := m.removeHost(name); err != nil {
		return fmt.Errorf("remove channel to host %s: %w", name, err)
	}
	return nil
}

// removeHost takes routes first, for no packet to meet a host that is gone, and the number last,
// for the next run to find what is left.
func (m *Module) removeHost(name string) error {
	e := m.hosts[name]
	if e == nil {
		return nil
	}
	var addrs []netip.Addr
	for r, err := range m.cfg.Remotes.Routes() {
		if err != nil {
			return err
		}
		if r.Host == e.number {
			addrs = append(addrs, r.Addr)
		}
	}
	if err := m.cfg.Remotes.RemoveRoutes(addrs); err != nil {
		return err
	}
	for _, a := range append([]netip.Addr{e.status.Host.Remote}, e.status.Host.Sources...) {
		if err := m.cfg.Remotes.RemoveSender(a); err != nil {
			return err
		}
	}
	if err := errors.Join(m.forgetBeyond(e.number), m.cfg.Remotes.RemovePath(e.number)); err != nil {
		return err
	}
	delete(m.hosts, name)
	return errors.Join(m.tellBeyond(), m.tellDirect(), m.tellNarrow())
}

// Hosts returns all hosts; see [channel.Module].
func (m *Module) Hosts(ctx context.Context) (map[string]channel.Status, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return nil, err
	}
	found := make(map[string]channel.Status, len(m.hosts))
	for name, e := range m.hosts {
		found[name] = channel.Status{Host: copied(e.status.Host), MTU: e.status.MTU}
	}
	return found, nil
}
