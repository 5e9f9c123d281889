package redirect

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/fabric/fastpath"
	"github.com/snapctl/snapctl/vem/fabric/fastpath/bpfmap"
)

// SetBeyond says which machines beyond gateways there are; see [channel.Router].
func (m *Module) SetBeyond(ctx context.Context, list []channel.Beyond) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return err
	}
	for _, b := range list {
		if err := b.Check(m.cfg.Prefix4, m.cfg.Prefix6); err != nil {
			return err
		}
	}
	m.beyond = append([]channel.Beyond{}, list...)
	return m.tellBeyond()
}

// tellBeyond tells the programs what there is beyond gateways, once this process knows that: until
// then what an earlier one has told goes on. m.mu is held.
func (m *Module) tellBeyond() error {
	if m.beyond == nil {
		return nil
	}
	all := make(map[bpfmap.Prefix]int)
	for _, b := range m.beyond {
		to := fastpath.Routed
		for _, name := range slices.Backward(b.Hosts) {
			if e := m.hosts[name]; e != nil {
				to = e.number
				all[bpfmap.Prefix{Class: e.number, Prefix: b.Prefix}] = e.number
			}
		}
		for _, name := range b.Senders {
			if e := m.hosts[name]; e != nil {
				all[bpfmap.Prefix{Class: e.number, Prefix: b.Prefix}] = e.number
			}
		}
		if b.Here {
			to = fastpath.Here
		}
		all[bpfmap.Prefix{Prefix: b.Prefix}] = to
	}
	if err := m.cfg.Remotes.SetBeyond(all); err != nil {
		return fmt.Errorf("set ways to machines beyond gateways: %w", err)
	}
	return nil
}

// forgetBeyond forgets a host, whose number another one may get: packets that went there go by the
// fabric's routes until tellBeyond. m.mu is held.
func (m *Module) forgetBeyond(number int) error {
	all, err := m.cfg.Remotes.Beyond()
	if err != nil {
		return err
	}
	for p, to := range all {
		switch {
		case p.Class == number:
			delete(all, p)
		case p.Class == 0 && to == number:
			all[p] = fastpath.Routed
		}
	}
	return m.cfg.Remotes.SetBeyond(all)
}

// Via tells where packets for machines beyond gateways go; see [channel.Router].
func (m *Module) Via(ctx context.Context) (map[netip.Prefix]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return nil, err
	}
	all, err := m.cfg.Remotes.Beyond()
	if err != nil {
		return nil, err
	}
	names := map[int]string{fastpath.Here: ""}
	for name, e := range m.hosts {
		names[e.number] = name
	}
	via := make(map[netip.Prefix]string)
	for p, to := range all {
		if name, ok := names[to]; ok && p.Class == 0 {
			via[p.Prefix] = name
		}
	}
	return via, nil
}
