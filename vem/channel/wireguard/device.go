package wireguard

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	mdnetlink "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/snapctl/snapctl/vem/channel/guard"
	"github.com/snapctl/snapctl/vem/channel/routes"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/pause"
)

// What the routes of these channels have, which no other kind's have. The metric is that of VXLAN's
// routes and one.
const (
	protocol     = 78
	metric       = 2049
	openingTable = 7078
)

// The nexthop objects of the device, one for each family, and numbers of
// include/uapi/linux/nexthop.h that package unix does not have.
const (
	nexthop4 = 2004
	nexthop6 = 2006

	rtmNewNexthop = 104
	nhaID         = 1
	nhaOIF        = 5
)

// device is the network's device.
type device struct {
	index   int      // in the fabric; 0: there is none
	process *process // nil: it is the kernel's, or there is none
	port    uint16   // that it has, or will be given

	reserved net.PacketConn // has the port until there is a device; nil: it is offered to nobody
}

// find returns the index of the network's device; 0 if there is none.
func (m *Module) find() (int, error) {
	link, err := m.fabric.nl.LinkByName(fabric.WireGuardDevice)
	if _, none := errors.AsType[netlink.LinkNotFoundError](err); none {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("find device %s: %w", fabric.WireGuardDevice, err)
	}
	return link.Attrs().Index, nil
}

// bringUp makes what all channels of the network share, with all hosts and routes that there are,
// or finishes what an earlier run began. The fabric's firewall comes before the device, and the
// host's, which lets packets in, after it.
func (m *Module) bringUp(ctx context.Context) (err error) {
	if m.device.index != 0 {
		return nil
	}
	if err := m.inside.Close(guard.Machines{}); err != nil {
		return err
	}
	index, err := m.find()
	if err != nil {
		return err
	}
	if index == 0 {
		if err := m.makeDevice(ctx); err != nil {
			return err
		}
		if index, err = m.find(); err != nil {
			return err
		}
	}
	if err := m.meet(ctx); err != nil {
		return err
	}
	if err := m.setUp(index); err != nil {
		return err
	}
	if err := m.configure(ctx); err != nil {
		return err
	}
	if err := m.table.Set(m.asSet(m.routes), nil); err != nil {
		return err
	}
	if err := m.install(); err != nil {
		return err
	}
	m.device.index = index
	m.tryMachines(ctx, m.tellMachines(ctx))
	return nil
}

// makeDevice makes the device in the fabric, with its UDP socket in the host's namespace.
func (m *Module) makeDevice(ctx context.Context) error {
	if !m.wg.kernel {
		return m.spawn(ctx)
	}
	// A link that is made for another namespace keeps the one it was asked for in
	// (rtnl_newlink, drivers/net/wireguard/device.c: wg_newlink's creating_net).
	attrs := mdnetlink.NewAttributeEncoder()
	attrs.String(unix.IFLA_IFNAME, fabric.WireGuardDevice)
	attrs.Uint32(unix.IFLA_NET_NS_FD, uint32(m.fabric.ns.File().Fd()))
	attrs.Nested(unix.IFLA_LINKINFO, func(info *mdnetlink.AttributeEncoder) error {
		info.String(unix.IFLA_INFO_KIND, "wireguard")
		return nil
	})
	err := routes.Request(m.host.ns, unix.RTM_NEWLINK, mdnetlink.Create|mdnetlink.Excl, make([]byte, unix.SizeofIfInfomsg), attrs)
	if err != nil {
		return fmt.Errorf("make device %s (is the kernel's module wireguard there?): %w", fabric.WireGuardDevice, err)
	}
	return nil
}

// meet finds the process of a device in user space, and follows it.
func (m *Module) meet(ctx context.Context) error {
	if m.wg.kernel || m.device.process != nil {
		return nil
	}
	p, err := meet(ctx, m.wg.socketPath())
	if err != nil {
		return fmt.Errorf("%w (its log is %s)", err, m.cfg.Local.LogPath)
	}
	m.device.process = p
	m.follow(p)
	return nil
}

// setUp gives the device all that it needs before there are routes to it.
func (m *Module) setUp(index int) error {
	link := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: index}}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"settings", func() error { return m.fabric.ns.Do(writeSysctls) }},
		{"MTU", func() error { return m.fabric.nl.LinkSetMTU(link, m.cfg.MTU) }},
		{"state", func() error { return m.fabric.nl.LinkSetUp(link) }},
		{"address", func() error { return m.nameDevice(index) }},
		{"nexthops", func() error { return m.putNexthops(index) }},
		{"rules", func() error { return m.table.AddRules(m.fabric.nl) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("set %s of %s: %w", step.what, fabric.WireGuardDevice, err)
		}
	}
	return nil
}

// writeSysctls runs inside the fabric.
//
//   - nexthop_compat_mode 0: a list of routes does not show the device, so that nobody takes them
//     for local ones.
//   - rp_filter 0: what a host sends in this kind is let in while this one still sends in another
//     kind, and has no route here. WireGuard looks at sources.
//   - the others: no traffic of the kernel's own.
func writeSysctls() error {
	dir := "ipv6/conf/" + fabric.WireGuardDevice + "/"
	for _, s := range [][2]string{
		{"ipv4/nexthop_compat_mode", "0"},
		{"ipv4/conf/" + fabric.WireGuardDevice + "/rp_filter", "0"},
		{dir + "disable_ipv6", "0"},
		{dir + "addr_gen_mode", "1"},
		{dir + "accept_dad", "0"},
		{dir + "accept_ra", "0"},
	} {
		if err := os.WriteFile("/proc/sys/net/"+s[0], []byte(s[1]), 0); err != nil {
			return err
		}
	}
	return nil
}

// putNexthops makes what all routes name: the device.
func (m *Module) putNexthops(index int) error {
	for id, family := range map[uint32]byte{nexthop4: unix.AF_INET, nexthop6: unix.AF_INET6} {
		attrs := mdnetlink.NewAttributeEncoder()
		attrs.Uint32(nhaID, id)
		attrs.Uint32(nhaOIF, uint32(index))
		header := binary.NativeEndian.AppendUint32([]byte{family, 0, protocol, 0}, 0) // struct nhmsg
		if err := routes.Request(m.fabric.ns, rtmNewNexthop, mdnetlink.Create|mdnetlink.Replace, header, attrs); err != nil {
			return fmt.Errorf("set nexthop object %d: %w", id, err)
		}
	}
	return nil
}

// configure gives the device its key and port, and all hosts with their routes. Traffic of hosts
// that it has already goes on.
func (m *Module) configure(ctx context.Context) error {
	m.giveUpPort()
	port := int(m.device.port)
	cfg := wgtypes.Config{PrivateKey: &m.keys.private, ListenPort: &port}
	for _, e := range m.hosts {
		cfg.Peers = append(cfg.Peers, e.peer(m.addresses(e.status.Host.Name)))
	}
	return m.wg.set(ctx, cfg)
}

// replace has another process do what one did that has ended. Its device and routes are gone.
func (m *Module) replace(ctx context.Context, gone *process) {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, time.Minute) {
		done, err := m.tryReplace(ctx, gone)
		if done || ctx.Err() != nil {
			return
		}
		m.cfg.Log.ErrorContext(ctx, "start another process that does WireGuard", slog.String("network", m.cfg.Network), slog.Any("error", err))
		if !pause.For(ctx, wait, nil) {
			return
		}
	}
}

func (m *Module) tryReplace(ctx context.Context, gone *process) (done bool, err error) {
	release, err := m.take(ctx)
	if err != nil {
		return true, err // closed
	}
	defer release()
	if m.device.process != gone && m.device.process != nil {
		return true, nil
	}
	if m.device.process == gone {
		m.cfg.Log.ErrorContext(ctx, "the process that does WireGuard has ended: another one is started",
			slog.String("network", m.cfg.Network), slog.String("log", m.cfg.Local.LogPath))
		gone.leave()
		m.device.process, m.device.index = nil, 0
	}
	if len(m.hosts) == 0 {
		return true, nil
	}
	if err = m.bringUp(ctx); err == nil {
		err = m.greet(ctx, slices.Collect(maps.Values(m.hosts))...) // they use sessions of the old process
	}
	return err == nil, err
}

// takeDown removes everything. With the device go its nexthop objects, and with these all routes;
// and its process, if it has one.
func (m *Module) takeDown(ctx context.Context) error {
	index, err := m.find()
	if err != nil {
		return err
	}
	if err := m.dropMachines(ctx); err != nil {
		return err
	}
	p := m.device.process
	m.device.process, m.device.index = nil, 0
	var killed error
	if p != nil {
		killed = kill(ctx, m.wg.socketPath()) // one that hangs would not see that its device is gone
	}
	if index != 0 {
		err := m.fabric.nl.LinkDel(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: index}})
		if err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("delete device %s: %w", fabric.WireGuardDevice, err)
		}
	}
	if p != nil {
		select {
		case <-p.ended:
		case <-ctx.Done():
		case <-time.After(answerTime):
			m.cfg.Log.WarnContext(ctx, "the process that does WireGuard does not end", slog.String("network", m.cfg.Network), slog.Any("error", killed))
		}
		p.leave()
	}
	if !m.wg.kernel {
		if err := os.Remove(m.wg.socketPath()); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := m.table.RemoveRules(m.fabric.nl); err != nil {
		return err
	}
	if err := m.guard.Remove(); err != nil {
		return err
	}
	if err := m.inside.Remove(); err != nil {
		return err
	}
	clear(m.hosts)
	clear(m.routes)
	return nil
}

// addresses are those of the routes to a host.
func (m *Module) addresses(host string) (list []netip.Addr) {
	for a, r := range m.routes {
		if r.host == host {
			list = append(list, a)
		}
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return list
}
