package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/channel/redirect"
	"github.com/snapctl/snapctl/vem/channel/vxlan"
	"github.com/snapctl/snapctl/vem/channel/wireguard"
	"github.com/snapctl/snapctl/vem/control/message"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/fabric/fastpath"
)

// preferred are all kinds of channels, the best first. Of the last one there are channels if one of
// the two hosts was told to have it, and where no other one comes up.
var preferred = []channel.Kind{channel.Direct, channel.Tunnel, channel.VXLAN, channel.WireGuard}

// SetGiven has all channels of this host be of one kind, or of the best one that both hosts make if
// it is zero; or those of a network, which are as all others if it is zero. Channels that are up
// change under traffic. Where the other host does not make the kind, or was told to have one that
// counts for more (see package peering), another one is taken, and the log says so. What it returns
// an error for is left as it is for now.
func (m *Mesh) SetGiven(ctx context.Context, network string, given channel.Kind) error {
	m.mu.Lock()
	if m.given == nil {
		m.given = make(map[string]channel.Kind)
	}
	if m.given[network] = given; network != "" && given == 0 {
		delete(m.given, network)
	}
	hosts := slices.Collect(maps.Keys(m.hosts))
	m.mu.Unlock()
	var errs []error
	for _, host := range hosts {
		if err := m.peering.Reoffer(ctx, host); err != nil {
			errs = append(errs, fmt.Errorf("change the channels to host %s: %w", host, err))
		}
	}
	return errors.Join(errs...)
}

// Met has channels to a host that is there again be as they should, by kind.
func (m *Mesh) Met(ctx context.Context, host string) error {
	err := m.peering.Met(ctx, host)
	return errors.Join(err, m.peering.Reoffer(ctx, host))
}

// Kinds are the kinds of channels that all networks of this host make, the best first.
func (m *Mesh) Kinds() []channel.Kind {
	list := slices.Clone(preferred)
	for _, n := range m.all() {
		list = slices.DeleteFunc(list, func(k channel.Kind) bool { return !n.makes(k.String()) })
	}
	return list
}

// Unencrypted tells why it is a process that encrypts for channels of this host, and not the kernel;
// nil if that does, or no channel is encrypted nor to be.
func (m *Mesh) Unencrypted(ctx context.Context) error {
	m.mu.Lock()
	used := slices.Contains(slices.Collect(maps.Values(m.given)), channel.WireGuard)
	m.mu.Unlock()
	all, _ := m.peering.Channels(ctx) // what fails there is told elsewhere
	for _, c := range all {
		used = used || c.Channel.Module == channel.WireGuard.String()
	}
	if !used {
		return nil
	}
	return wireguard.Kernel()
}

// makes tells whether a network makes channels of a kind.
func (n *Network) makes(kind string) bool {
	return slices.ContainsFunc(n.modules, func(m channel.Module) bool {
		return slices.ContainsFunc(m.Kinds(), func(k channel.Kind) bool { return k.String() == kind })
	})
}

// offers are how another host can reach this network here.
func (n *Network) offers(host string) []message.Offer {
	return slices.DeleteFunc(n.m.offers(n.name, host), func(o message.Offer) bool { return !n.makes(o.Module) })
}

// openModules opens what makes channels of the network on this host.
func (n *Network) openModules(ctx context.Context, f *fabric.Fabric, prefixes []netip.Prefix) error {
	fast, err := openRedirect(ctx, f)
	switch {
	case err == nil:
		n.modules = append(n.modules, fast)
	case errors.Is(err, fastpath.ErrUnsupported):
		n.m.opt.Log.WarnContext(ctx, "this host has no BPF: channels to other hosts are VXLAN, which is slower", slog.String("network", n.name), slog.Any("reason", err))
	default:
		return err
	}
	cfg := vxlan.Config{Self: n.m.opt.Self, Network: n.name, Fabric: f.Namespace(), Host: f.HostNamespace(), MTU: fabric.DefaultMTU}
	for _, p := range prefixes {
		if p.Addr().Is4() {
			cfg.Prefix4 = p
		} else {
			cfg.Prefix6 = p
		}
	}
	routed, err := vxlan.Open(ctx, cfg)
	if err != nil {
		return err
	}
	n.modules = append(n.modules, routed)
	encrypted, err := wireguard.Open(ctx, wireguard.Config{
		Self: n.m.opt.Self, Network: n.name, Fabric: cfg.Fabric, Host: cfg.Host, Prefix4: cfg.Prefix4, Prefix6: cfg.Prefix6, MTU: cfg.MTU,
		Local: n.m.opt.WireGuard, Run: n.m.opt.Run, Log: n.m.opt.Log,
	})
	if err != nil {
		return err
	}
	n.modules = append(n.modules, encrypted)
	return nil
}

func openRedirect(ctx context.Context, f *fabric.Fabric) (*redirect.Module, error) {
	far, err := f.Far()
	if err != nil {
		return nil, err
	}
	return redirect.Open(ctx, redirect.Config(far))
}

func (n *Network) closeModules() error {
	var errs []error
	for _, m := range n.modules {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

func (n *Network) setUnderlay(ctx context.Context, list []channel.Underlay) error {
	var errs []error
	for _, m := range n.modules {
		errs = append(errs, m.SetUnderlay(ctx, list))
	}
	return errors.Join(errs...)
}
