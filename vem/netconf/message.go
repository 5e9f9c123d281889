package netconf

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/netlist"
)

// messageKind is a kind of rtnetlink messages.
type messageKind struct {
	get, made uint16 // RTM_GET... and RTM_NEW...
	header    int    // size of the struct before the attributes
	// index is where in the header the number of a device is, or -1.
	index int
	// devices are the attributes that are numbers of devices.
	devices []uint16
	// own tells whether a message is of the program's own making, and what it says.
	own func(r *reading, data []byte, a attrs) (text string, ok bool)
}

// Attributes that golang.org/x/sys/unix has no name for.
const (
	ifaProto    = 11 // IFA_PROTO, Linux 5.18
	fraProtocol = 21 // FRA_PROTOCOL
	ndaDst      = 1
	ndaLLAddr   = 2
	typeMask    = 0x3fff // NLA_TYPE_MASK
)

// kinds are in the order in which they are to be told: a route needs its addresses.
var kinds = []messageKind{
	{unix.RTM_GETADDR, unix.RTM_NEWADDR, unix.SizeofIfAddrmsg, 4, nil, (*reading).ownAddress},
	{unix.RTM_GETNEIGH, unix.RTM_NEWNEIGH, unix.SizeofNdMsg, 4, nil, (*reading).ownNeighbour},
	{unix.RTM_GETROUTE, unix.RTM_NEWROUTE, unix.SizeofRtMsg, -1, []uint16{unix.RTA_OIF, unix.RTA_IIF}, (*reading).ownRoute},
	{unix.RTM_GETRULE, unix.RTM_NEWRULE, unix.SizeofRtMsg, -1, nil, (*reading).ownRule},
}

func known(made uint16) *messageKind {
	if i := slices.IndexFunc(kinds, func(k messageKind) bool { return k.made == made }); i >= 0 {
		return &kinds[i]
	}
	return nil
}

// attrs are attributes, by type, of which each is a part of the message.
type attrs map[uint16][]byte

// parse reads the attributes of a message. The kernel's own are sound; others it would
// refuse.
func parse(b []byte) attrs {
	m := make(attrs)
	eachAttr(b, func(kind uint16, value []byte) { m[kind] = value })
	return m
}

func eachAttr(b []byte, visit func(kind uint16, value []byte)) {
	for len(b) >= unix.SizeofRtAttr {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			return
		}
		visit(binary.NativeEndian.Uint16(b[2:])&typeMask, b[unix.SizeofRtAttr:size])
		b = b[min(len(b), (size+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1)):]
	}
}

func (a attrs) number(kind uint16) int {
	if v := a[kind]; len(v) >= 4 {
		return int(binary.NativeEndian.Uint32(v))
	}
	return 0
}

func (a attrs) addr(kinds ...uint16) netip.Addr {
	for _, k := range kinds {
		if addr, ok := netip.AddrFromSlice(a[k]); ok {
			return addr
		}
	}
	return netip.Addr{}
}

// readMessages reads all that is of the program's own making, in the calling thread's
// namespace.
func (r *reading) readMessages() error {
	for _, k := range kinds {
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			list, err := netlist.Whole(func() ([][]byte, error) {
				req := nl.NewNetlinkRequest(int(k.get), unix.NLM_F_DUMP)
				head := make([]byte, max(k.header, unix.SizeofRtMsg))
				head[0] = byte(family)
				req.AddRawData(head)
				return req.Execute(unix.NETLINK_ROUTE, k.made)
			})
			if err != nil {
				return fmt.Errorf("list addresses, neighbours, routes and rules: %w", err)
			}
			for _, data := range list {
				if len(data) < k.header || data[0] != byte(family) {
					continue
				}
				if text, ok := k.own(r, data, parse(data[k.header:])); ok {
					r.settings.Messages = append(r.settings.Messages, Message{Type: k.made, Data: data, Text: text})
				}
			}
		}
	}
	return nil
}

// kept tells whether a copy has the device; others are told of with the device.
func (r *reading) kept(device int) bool { return device == 0 || !r.lost[r.settings.Devices[device]] }

func (r *reading) ownAddress(data []byte, a attrs) (string, bool) {
	device := int(binary.NativeEndian.Uint32(data[4:]))
	name := r.settings.Devices[device]
	addr := a.addr(unix.IFA_LOCAL, unix.IFA_ADDRESS)
	if proto := a[ifaProto]; len(proto) > 0 && proto[0] != 0 || addr.Is6() && addr.IsLinkLocalUnicast() && len(a[ifaProto]) == 0 {
		return "", false // the kernel's own
	}
	if name == "lo" && (addr == netip.AddrFrom4([4]byte{127, 0, 0, 1}) || addr == netip.IPv6Loopback()) ||
		name == r.standard.Device && slices.Contains(r.standard.Addresses, addr) {
		return "", false
	}
	if !r.kept(device) {
		r.addresses[name] = append(r.addresses[name], addr)
		return "", false
	}
	r.settings.Addresses = append(r.settings.Addresses, addr)
	return fmt.Sprintf("address %s/%d dev %s", addr, data[1], name), true
}

func (r *reading) ownNeighbour(data []byte, a attrs) (string, bool) {
	device := int(binary.NativeEndian.Uint32(data[4:]))
	state := binary.NativeEndian.Uint16(data[8:])
	addr := a.addr(ndaDst)
	name := r.settings.Devices[device]
	if state&unix.NUD_PERMANENT == 0 || name == r.standard.Device && slices.Contains(r.standard.Gateways, addr) || !r.kept(device) {
		return "", false
	}
	return fmt.Sprintf("neighbour %s lladdr %x dev %s", addr, a[ndaLLAddr], name), true
}

func (r *reading) ownRoute(data []byte, a attrs) (string, bool) {
	bits, protocol := int(data[1]), data[5]
	flags := binary.NativeEndian.Uint32(data[8:])
	device := a.number(unix.RTA_OIF)
	if protocol == unix.RTPROT_KERNEL || protocol == unix.RTPROT_RA || flags&unix.RTM_F_CLONED != 0 || !r.kept(device) {
		return "", false
	}
	name, gateway := r.settings.Devices[device], a.addr(unix.RTA_GATEWAY)
	if bits == 0 && name == r.standard.Device && slices.Contains(r.standard.Gateways, gateway) && a[unix.RTA_METRICS] == nil {
		r.defaults++
		return "", false
	}
	text := "route default"
	if dst := a.addr(unix.RTA_DST); dst.IsValid() {
		text = fmt.Sprintf("route %s/%d", dst, bits)
	}
	if gateway.IsValid() {
		text += " via " + gateway.String()
	}
	if name != "" {
		text += " dev " + name
	}
	if table := a.number(unix.RTA_TABLE); table != 0 && table != unix.RT_TABLE_MAIN {
		text += " table " + strconv.Itoa(table)
	}
	return text, true
}

func (r *reading) ownRule(_ []byte, a attrs) (string, bool) {
	if p := a[fraProtocol]; len(p) > 0 && p[0] == unix.RTPROT_KERNEL {
		return "", false
	}
	return fmt.Sprintf("rule with priority %d", a.number(unix.FRA_PRIORITY)), true
}

// told is a message for a namespace in which devices have the numbers that numbers has.
func (m *Message) told(devices map[int]string, numbers map[string]int) ([]byte, error) {
	k := known(m.Type)
	b := slices.Clone(m.Data)
	var err error
	change := func(at []byte) {
		old := int(binary.NativeEndian.Uint32(at))
		if old == 0 {
			return
		}
		name := devices[old]
		n := numbers[name]
		if n == 0 {
			err = fmt.Errorf("there is no device %q", name)
			return
		}
		binary.NativeEndian.PutUint32(at, uint32(n))
	}
	if k.index >= 0 {
		change(b[k.index:])
	}
	eachAttr(b[k.header:], func(kind uint16, value []byte) {
		switch {
		case slices.Contains(k.devices, kind) && len(value) >= 4:
			change(value)
		case m.Type == unix.RTM_NEWROUTE && kind == unix.RTA_MULTIPATH:
			// struct rtnexthop: its length, flags, hops, and the device.
			for len(value) >= unix.SizeofRtNexthop {
				size := int(binary.NativeEndian.Uint16(value))
				if size < unix.SizeofRtNexthop || size > len(value) {
					return
				}
				change(value[4:])
				value = value[min(len(value), (size+3)&^3):]
			}
		case m.Type == unix.RTM_NEWADDR && kind == unix.IFA_FLAGS && len(value) >= 4 && b[0] == unix.AF_INET6:
			// It was there, and so it is nobody else's.
			f := binary.NativeEndian.Uint32(value)
			binary.NativeEndian.PutUint32(value, f&^unix.IFA_F_TENTATIVE|unix.IFA_F_NODAD)
		}
	})
	return b, err
}
