package vxlan

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	mdnetlink "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/channel/routes"
)

// Numbers of include/uapi/linux/if_link.h and rtnetlink.h that package unix does not have.
const (
	vxlanLearning        = 7
	vxlanPort            = 15
	vxlanCollectMetadata = 25
	vxlanVNIFilter       = 30
	rtmNewTunnel         = 120
	vnifilterEntry       = 1
	vnifilterEntryStart  = 1
)

// vni is the network's number in outer headers. Networks of one host do not overlap, so those of
// at least 256 addresses have different ones, and so has each network on all hosts the same.
func (c *Config) vni() uint32 {
	a := c.Prefix4.Masked().Addr().As4()
	return binary.BigEndian.Uint32(a[:]) >> 8
}

// hardware is the address of a host's device: the kernel takes no packet that has the receiver's
// own as its source (vxlan_set_mac), so hosts have different ones. It is locally administered.
func hardware(host string) net.HardwareAddr {
	sum := sha256.Sum256([]byte(host))
	return append(net.HardwareAddr{0x02, 0x73}, sum[:4]...)
}

// gateway is the next hop to a host, on the link that the device pretends to be.
func gateway(host string) netip.Addr {
	a := [16]byte{0xfe, 0x80}
	copy(a[10:], hardware(host))
	return netip.AddrFrom16(a)
}

// find returns the index of the network's device; 0 if there is none.
func (m *Module) find() (int, error) {
	link, err := m.fabric.nl.LinkByName(m.cfg.device())
	if _, none := errors.AsType[netlink.LinkNotFoundError](err); none {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("find device %s: %w", m.cfg.device(), err)
	}
	return link.Attrs().Index, nil
}

// bringUp makes what all channels of the network share, or finishes what an earlier run began. The
// fabric's firewall comes before the device, and the host's, which lets packets in, after it.
func (m *Module) bringUp() (err error) {
	if m.device != 0 {
		return nil
	}
	if err := m.closeInside(m.machines()); err != nil {
		return err
	}
	index, err := m.find()
	if err != nil {
		return err
	}
	if index == 0 {
		if err := m.makeDevice(); err != nil {
			return err
		}
		if index, err = m.find(); err != nil {
			return err
		}
	}
	if err := m.setUp(index); err != nil {
		return err
	}
	if err := m.install(); err != nil {
		return err
	}
	m.device = index
	return nil
}

// makeDevice makes the device in the fabric by one request from the host's namespace, where its
// socket will be: a link that is made for another namespace keeps the one it was asked for in
// (rtnl_newlink, drivers/net/vxlan: vxlan_newlink's link_net).
func (m *Module) makeDevice() error {
	attrs := mdnetlink.NewAttributeEncoder()
	attrs.String(unix.IFLA_IFNAME, m.cfg.device())
	attrs.Bytes(unix.IFLA_ADDRESS, hardware(m.cfg.Self))
	attrs.Uint32(unix.IFLA_MTU, uint32(m.cfg.MTU))
	attrs.Uint32(unix.IFLA_NET_NS_FD, uint32(m.fabric.ns.File().Fd()))
	attrs.Nested(unix.IFLA_LINKINFO, func(info *mdnetlink.AttributeEncoder) error {
		info.String(unix.IFLA_INFO_KIND, "vxlan")
		info.Nested(unix.IFLA_INFO_DATA, func(data *mdnetlink.AttributeEncoder) error {
			data.Uint8(vxlanCollectMetadata, 1)
			data.Uint8(vxlanVNIFilter, 1) // not known before Linux 5.18, which takes all then
			data.Uint8(vxlanLearning, 0)
			data.Bytes(vxlanPort, binary.BigEndian.AppendUint16(nil, Port))
			return nil
		})
		return nil
	})
	err := routes.Request(m.host.ns, unix.RTM_NEWLINK, mdnetlink.Create|mdnetlink.Excl, make([]byte, unix.SizeofIfInfomsg), attrs)
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make device %s: UDP port %d is another VXLAN device's on this host, which takes network number %d: %w", m.cfg.device(), Port, m.cfg.vni(), err)
	}
	if err != nil {
		return fmt.Errorf("make device %s (is the kernel's module vxlan there?): %w", m.cfg.device(), err)
	}
	return nil
}

// setUp gives the device all that it needs before there are routes to it.
func (m *Module) setUp(index int) error {
	link := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: index}}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"settings", func() error { return m.fabric.ns.Do(func() error { return writeSysctls(m.cfg.device()) }) }},
		{"network number", func() error { return m.addVNI(index) }},
		{"state", func() error { return m.fabric.nl.LinkSetUp(link) }},
		{"rules", func() error { return m.table.AddRules(m.fabric.nl) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("set %s of %s: %w", step.what, m.cfg.device(), err)
		}
	}
	return nil
}

// writeSysctls runs inside the fabric, for a device.
//
//   - nexthop_compat_mode 0: a nexthop object that changes sends no message for each of its routes
//     (10,000 change in a fraction of a millisecond and not in 20), and a list of routes does not
//     show the device, so that nobody takes them for local ones.
//   - rp_filter 0: what a host sends in this kind is let in while this one still sends in another
//     kind, and has no route here. The firewall looks at sources.
//   - the others: no traffic of the kernel's own.
func writeSysctls(device string) error {
	dir := "ipv6/conf/" + device + "/"
	for _, s := range [][2]string{
		{"ipv4/nexthop_compat_mode", "0"},
		{"ipv4/conf/" + device + "/rp_filter", "0"},
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

// addVNI has the device take packets of the network, and no others. A kernel without VNI filters
// (before 5.18) does not know the message, and takes all.
func (m *Module) addVNI(index int) error {
	header := binary.NativeEndian.AppendUint32([]byte{unix.AF_BRIDGE, 0, 0, 0}, uint32(index)) // struct tunnel_msg
	attrs := mdnetlink.NewAttributeEncoder()
	attrs.Nested(vnifilterEntry, func(e *mdnetlink.AttributeEncoder) error {
		e.Uint32(vnifilterEntryStart, m.cfg.vni())
		return nil
	})
	err := routes.Request(m.fabric.ns, rtmNewTunnel, mdnetlink.Create, header, attrs)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// takeDown removes everything. With the device go its nexthop objects, and with these all routes to
// hosts.
func (m *Module) takeDown() error {
	index, err := m.find()
	if err != nil {
		return err
	}
	if index != 0 {
		err := m.fabric.nl.LinkDel(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: index}})
		if err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("delete device %s: %w", m.cfg.device(), err)
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
	m.device, m.beyond.let = 0, nil
	clear(m.hosts)
	clear(m.routes)
	return m.tellBeyond()
}
