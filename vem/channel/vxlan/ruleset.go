package vxlan

import (
	"encoding/binary"
	"slices"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/channel/guard"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/fabric/rule"
	"github.com/snapctl/snapctl/vem/netns"
)

// passed is the priority of packets that were let in: "sn", and the number of the host that has sent
// it in the lower half. The kernel keeps a packet's priority when it takes the outer header off
// (skb_scrub_packet), unlike its mark. Before routing nothing else has set it.
const (
	passed = 0x736e0000
	ofAll  = 0xffff0000
)

// newGuard is the host's table: it marks what it lets in.
func newGuard(cfg *Config, host *netns.NS) guard.Guard {
	return guard.Guard{
		Table: cfg.tables() + "-" + cfg.Network, NS: host, In: cfg.ours(), Out: cfg.ours(),
		Mark: func(number int) []expr.Any {
			return []expr.Any{
				&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(passed | uint32(number))},
				&expr.Meta{Key: expr.MetaKeyPRIORITY, SourceRegister: true, Register: 1},
			}
		},
	}
}

// tables is how the names of firewall tables begin.
func (c *Config) tables() string {
	if c.Machines {
		return "snapctl-machines"
	}
	return "snapctl-vxlan"
}

// from matches what a host has sent that was let in: meta priority NUMBER
func from(number int) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyPRIORITY, Register: 1},
		&expr.Cmp{Register: 1, Data: binaryutil.NativeEndian.PutUint32(passed | uint32(number))},
	}
}

// newInside is the fabric's table: it drops what has no mark as well.
func newInside(cfg *Config, ns *netns.NS) guard.Inside {
	return guard.Inside{
		Table: cfg.tables(), NS: ns, Device: cfg.device(), Prefix4: cfg.Prefix4, Prefix6: cfg.Prefix6,
		Refuse: []expr.Any{ // meta priority & 0xffff0000 != 0x736e0000
			&expr.Meta{Key: expr.MetaKeyPRIORITY, Register: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(ofAll), Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(passed)},
		},
	}
}

// device is the name of the network's device.
func (c *Config) device() string {
	if c.Machines {
		return fabric.MachinesDevice
	}
	return fabric.VXLANDevice
}

// ours matches what is in VXLAN with the network's number: udp dport 7077 @th,96,24 NUMBER
func (c *Config) ours() []expr.Any {
	number := binary.BigEndian.AppendUint32(nil, c.vni())[1:]
	return slices.Concat(rule.Port(unix.IPPROTO_UDP, Port), []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 12, Len: 3},
		&expr.Cmp{Register: 1, Data: number},
	})
}
