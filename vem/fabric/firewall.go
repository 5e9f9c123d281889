package fabric

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	mdnetlink "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric/forwarding"
	"github.com/snapctl/snapctl/vem/netlist"
)

// Publication makes a port of an app reachable under the host's addresses: from
// other machines, from the host itself and from other apps. It works with the
// host's IPv4 loopback addresses too, but not with ::1 (the kernel has no
// route_localnet for IPv6). Clients on the host that use a loopback address, and
// apps that come through the host, appear to the app as the gateway; all others
// under their own address.
//
// A published port takes precedence over a program of the host that listens on it.
type Publication struct {
	Proto    string     // "tcp" or "udp"
	HostAddr netip.Addr // one of the host's; zero: all of Addr's family
	HostPort uint16
	Addr     netip.Addr // an endpoint's, IPv4 or IPv6
	Port     uint16
	// Far says that the endpoint is on another host: to it all clients appear as this host.
	Far bool
}

// String returns "tcp 0.0.0.0:8080 -> 10.77.0.7:80".
func (p Publication) String() string {
	return fmt.Sprintf("%s %s -> %s", p.Proto, netip.AddrPortFrom(p.listen(), p.HostPort), netip.AddrPortFrom(p.Addr, p.Port))
}

// listen is HostAddr, or the unspecified address in its place.
func (p Publication) listen() netip.Addr {
	switch {
	case p.HostAddr.IsValid():
		return p.HostAddr
	case p.Addr.Is6():
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

func (f *Fabric) checkPublications(list []Publication) error {
	type key struct {
		proto  string
		listen netip.AddrPort
	}
	seen := map[key]bool{}
	for _, p := range list {
		k := key{p.Proto, netip.AddrPortFrom(p.listen(), p.HostPort)}
		switch {
		case p.Proto != "tcp" && p.Proto != "udp":
			return fmt.Errorf("%w: publication %s: protocol is neither tcp nor udp", ErrConfig, p)
		case p.HostPort == 0 || p.Port == 0:
			return fmt.Errorf("%w: publication %s: no port", ErrConfig, p)
		case !f.contains(p.Addr):
			return fmt.Errorf("%w: publication %s: target outside the network", ErrConfig, p)
		case p.HostAddr.IsValid() && p.HostAddr.Is4() != p.Addr.Is4():
			return fmt.Errorf("%w: publication %s: host address and target are of different families", ErrConfig, p)
		case seen[k]:
			return fmt.Errorf("%w: publication %s: listed twice", ErrConfig, p)
		}
		seen[k] = true
	}
	return nil
}

// SetPublications replaces the whole set of published ports in one firewall
// transaction. Open TCP connections go on, also those through ports that are no
// longer published. If it fails, the set before stays in force.
//
// To be reachable from other machines the host has to forward, so the first
// publication that is not for a loopback address turns net.ipv4.ip_forward on, or
// for an app's IPv6 address net.ipv6.conf.all.forwarding, and the last that goes puts it
// back. The host's interfaces go on taking router advertisements, see [forwarding.Host].
//
// It returns an error wrapping [ErrConfig], or [ErrPrefixInUse] if the host cannot
// reach the network.
func (f *Fabric) SetPublications(ctx context.Context, list []Publication) error {
	if err := f.usable(ctx); err != nil {
		return err
	}
	if err := f.publish(list); err != nil {
		return fmt.Errorf("publish ports of network %s: %w", f.cfg.Network, err)
	}
	return nil
}

func (f *Fabric) publish(list []Publication) error {
	if err := f.checkPublications(list); err != nil {
		return err
	}
	if f.isolated() {
		if len(list) > 0 {
			return f.hostPath
		}
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	// More forwarding before the rules, less of it after them.
	need := f.forwarding(list)
	if err := f.forwarder().Raise(need); err != nil {
		return err
	}
	// Lets a packet from 127.0.0.1 leave by this device, and the answer come back.
	// Apps cannot abuse it: the fabric drops what is for 127.0.0.0/8.
	local := sysctl{"ipv4/conf/" + f.HostDevice() + "/route_localnet", "0", required}
	if slices.ContainsFunc(list, Publication.local) {
		local.value = "1"
	}
	if err := f.host.set(local); err != nil {
		return err
	}
	if err := f.host.replaceTable(tableName(f.cfg.Network), f.ruleset(list)); err != nil {
		return err
	}
	if err := f.forgetFlows(f.published, list); err != nil {
		return err
	}
	f.published = slices.Clone(list)
	return f.forwarder().Lower(need)
}

// local tells whether an IPv4 loopback address is published.
func (p Publication) local() bool {
	return p.Addr.Is4() && (!p.HostAddr.IsValid() || p.HostAddr.IsLoopback())
}

// forwarding is what the host has to forward.
func (f *Fabric) forwarding(list []Publication) forwarding.Need {
	need := forwarding.Need{Four: f.cfg.Outside != OutsideNone || f.beyond.On}
	for _, p := range list {
		switch {
		case p.HostAddr.IsLoopback():
		case p.Addr.Is4():
			need.Four = true
		default:
			need.Six = forwarding.Host
		}
	}
	if (f.cfg.Outside == OutsideDual || f.beyond.On) && f.cfg.Prefix6.IsValid() {
		need.Six = forwarding.Router
	}
	return need
}

// forwarder has the host forward.
func (f *Fabric) forwarder() forwarding.Network {
	return forwarding.Network{NS: f.host.ns, Dir: f.cfg.Dir, Name: f.cfg.Network, Device: f.HostDevice()}
}

// forgetFlows drops the tracked UDP flows of ports whose publication changed. A
// TCP connection keeps its translation until it ends, but the "connection" of a UDP
// client that sends all the time never ends, and would miss the change.
func (f *Fabric) forgetFlows(before, after []Publication) error {
	var changed []netlink.CustomConntrackFilter
	add := func(from, without []Publication) error {
		for _, p := range from {
			if p.Proto != "udp" || slices.Contains(without, p) {
				continue
			}
			filter := &netlink.ConntrackFilter{}
			if err := errors.Join(filter.AddProtocol(unix.IPPROTO_UDP), filter.AddPort(netlink.ConntrackOrigDstPort, p.HostPort)); err != nil {
				return fmt.Errorf("make filter for %s: %w", p, err)
			}
			changed = append(changed, filter)
		}
		return nil
	}
	if err := errors.Join(add(before, after), add(after, before)); err != nil || len(changed) == 0 {
		return err
	}
	return f.host.ns.Do(func() error {
		nl, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
		if err != nil {
			return fmt.Errorf("forget UDP flows: %w", err)
		}
		defer nl.Close()
		for _, fam := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
			if _, err := nl.ConntrackDeleteFilters(netlink.ConntrackTable, fam, changed...); err != nil {
				return fmt.Errorf("forget UDP flows: %w", err)
			}
		}
		return nil
	})
}

// setupFirewall makes the host's table if it is missing, and keeps the one of an
// earlier run with its published ports.
func (f *Fabric) setupFirewall() error {
	if f.isolated() {
		return nil
	}
	have, err := f.host.hasTable(tableName(f.cfg.Network))
	if err != nil {
		return err
	}
	if have {
		return f.forwarder().Raise(f.forwarding(nil))
	}
	return f.publish(nil)
}

func (f *Fabric) removeFirewall() error {
	if f.host == nil {
		return nil
	}
	if err := f.host.removeTable(tableName(f.cfg.Network)); err != nil {
		return err
	}
	return f.forwarder().Lower(forwarding.Need{})
}

// nft opens the firewall of the side's namespace.
func (s *side) nft() (*nftables.Conn, error) {
	const buffer = 16 << 20 // a transaction is one message; the default takes some 300 rules
	return nftables.New(nftables.WithNetNSFd(int(s.ns.File().Fd())), nftables.WithSockOptions(
		func(c *mdnetlink.Conn) error { return errors.Join(c.SetWriteBuffer(buffer), c.SetReadBuffer(buffer)) },
	))
}

func (s *side) hasTable(name string) (bool, error) {
	c, err := s.nft()
	if err != nil {
		return false, fmt.Errorf("open firewall: %w", err)
	}
	tables, err := netlist.Firewall(int(s.ns.File().Fd()), func() ([]*nftables.Table, error) {
		return c.ListTablesOfFamily(nftables.TableFamilyINet)
	})
	if err != nil {
		return false, fmt.Errorf("list firewall tables: %w", err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == name }), nil
}

// replaceTable puts a table in the place of the one with that name, if any, in one
// transaction: no packet sees a state in between.
func (s *side) replaceTable(name string, chains []chain) error {
	c, err := s.nft()
	if err != nil {
		return fmt.Errorf("open firewall: %w", err)
	}
	table := &nftables.Table{Name: name, Family: nftables.TableFamilyINet}
	c.AddTable(table) // so that there is one to delete
	c.DelTable(table)
	c.AddTable(table)
	for _, ch := range chains {
		base := c.AddChain(&nftables.Chain{Name: ch.name, Table: table, Type: ch.kind, Hooknum: ch.hook, Priority: ch.priority})
		for _, r := range ch.rules {
			c.AddRule(&nftables.Rule{Table: table, Chain: base, Exprs: r})
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("set firewall table %s: %w", name, err)
	}
	return nil
}

// removeTable deletes a table; nil if there is none.
func (s *side) removeTable(name string) error {
	c, err := s.nft()
	if err != nil {
		return fmt.Errorf("open firewall: %w", err)
	}
	table := &nftables.Table{Name: name, Family: nftables.TableFamilyINet}
	c.AddTable(table)
	c.DelTable(table)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("delete firewall table %s: %w", name, err)
	}
	return nil
}
