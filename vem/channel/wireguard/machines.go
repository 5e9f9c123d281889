package wireguard

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/channel/vxlan"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/fabric/rule"
)

// machines is what carries packets from and to machines beyond gateways. WireGuard lets an address in from
// one host only, and several gateways may send what comes from one machine. So such packets go from
// fabric to fabric in another outer header, that of VXLAN: from an address that each key has, which
// nobody else can send from.
type machines struct {
	module *vxlan.Module
	list   []channel.Beyond // nil: not told yet
	under  bool             // the module knows the network's device
	failed string           // what was logged last
}

// within has the addresses of all keys.
var within = netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0x73, 0x6e, 0x61}), 32)

// addressOf is the address of a key.
func addressOf(k wgtypes.Key) netip.Addr {
	sum := sha256.Sum256(k[:])
	a := within.Addr().As16()
	copy(a[within.Bits()/8:], sum[:])
	return netip.AddrFrom16(a)
}

// amongHosts matches what hosts send each other by these addresses.
func amongHosts() []expr.Any {
	return slices.Concat(rule.Addr(rule.Source, within), rule.Addr(rule.Target, within))
}

// openMachines opens what an earlier run has left.
func (m *Module) openMachines(ctx context.Context) (err error) {
	m.machines.module, err = vxlan.Open(ctx, vxlan.Config{
		Self: m.cfg.Self, Network: m.cfg.Network, Fabric: m.fabric.ns, Host: m.fabric.ns,
		Prefix4: m.cfg.Prefix4, Prefix6: m.cfg.Prefix6, MTU: m.cfg.MTU - channel.VXLAN.Outer(within.Addr()), Machines: true,
	})
	return err
}

// nameDevice gives the network's device this host's address, and the way to those of others.
func (m *Module) nameDevice(index int) error {
	link := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: index}}
	own := addressOf(m.keys.public)
	if err := m.fabric.nl.AddrReplace(link, &netlink.Addr{IPNet: network(netip.PrefixFrom(own, own.BitLen())), Flags: unix.IFA_F_NODAD}); err != nil {
		return err
	}
	return m.fabric.nl.RouteReplace(&netlink.Route{LinkIndex: index, Dst: network(within), Scope: netlink.SCOPE_LINK})
}

func network(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// SetBeyond says which machines beyond gateways there are; see [channel.Router].
func (m *Module) SetBeyond(ctx context.Context, list []channel.Beyond) error {
	release, err := m.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := m.machines.module.SetBeyond(ctx, list); err != nil {
		return err
	}
	m.machines.list = append([]channel.Beyond{}, list...)
	err = m.tellMachines(ctx)
	m.tryMachines(ctx, err)
	if err != nil {
		return fmt.Errorf("carry packets of machines beyond gateways by WireGuard: %w", err)
	}
	return nil
}

// Via tells where packets for machines beyond gateways go; see [channel.Router].
func (m *Module) Via(ctx context.Context) (map[netip.Prefix]string, error) {
	return m.machines.module.Via(ctx)
}

// tellMachines has the hosts and routes be there also for packets of machines, if there are any machines. The
// caller has the turn.
func (m *Module) tellMachines(ctx context.Context) error {
	if m.machines.list == nil {
		return nil
	}
	mod := m.machines.module
	set, err := mod.Hosts(ctx)
	if err != nil {
		return err
	}
	for name := range set {
		if m.hosts[name] == nil || len(m.machines.list) == 0 {
			if err := mod.RemoveHost(ctx, name); err != nil {
				return err
			}
		}
	}
	if len(m.machines.list) == 0 || m.device.index == 0 {
		return nil
	}
	own := addressOf(m.keys.public)
	if !m.machines.under {
		if err := mod.SetUnderlay(ctx, []channel.Underlay{{Device: fabric.WireGuardDevice, Addr: own}}); err != nil {
			return err
		}
		m.machines.under = true
	}
	var errs []error
	for name, e := range m.hosts {
		h := channel.Host{Name: name, Kind: channel.VXLAN, Local: own, Remote: addressOf(e.key), MTU: e.status.MTU}
		if now, ok := set[name]; !ok || now.Host.Remote != h.Remote || now.Host.MTU != h.MTU {
			errs = append(errs, mod.SetHost(ctx, h))
		}
	}
	there, err := mod.Routes(ctx)
	if err != nil {
		return err
	}
	missing := maps.Clone(m.routes)
	for _, r := range there {
		if missing[r.Addr] == (route{r.Host, r.State}) {
			delete(missing, r.Addr)
		}
	}
	return errors.Join(append(errs, m.routeMachines(ctx, missing))...)
}

// routeMachines has routes be there also for packets that come from machines behind this host.
func (m *Module) routeMachines(ctx context.Context, list map[netip.Addr]route) error {
	if !slices.ContainsFunc(m.machines.list, func(b channel.Beyond) bool { return b.Here }) {
		return nil
	}
	set, err := m.machines.module.Hosts(ctx)
	if err != nil || len(set) == 0 {
		return err
	}
	var all []channel.Route
	for a, r := range list {
		if _, ok := set[r.host]; ok {
			all = append(all, channel.Route{Addr: a, Host: r.host, State: r.state})
		}
	}
	return m.machines.module.SetRoutes(ctx, all)
}

// tryMachines logs what keeps packets of machines back. What endpoints send goes on all the same, and
// the next SetBeyond tries again, and tells.
func (m *Module) tryMachines(ctx context.Context, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != m.machines.failed {
		m.cfg.Log.WarnContext(ctx, "WireGuard carries nothing of machines beyond gateways for now", slog.String("network", m.cfg.Network), slog.Any("error", err))
	}
	m.machines.failed = text
}

// dropMachines removes the channels for packets of machines.
func (m *Module) dropMachines(ctx context.Context) error {
	set, err := m.machines.module.Hosts(ctx)
	if err != nil {
		return fmt.Errorf("list hosts: %w", err)
	}
	for name := range set {
		if err := m.machines.module.RemoveHost(ctx, name); err != nil {
			return err
		}
	}
	return nil
}
