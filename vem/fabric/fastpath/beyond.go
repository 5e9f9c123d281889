package fastpath

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric/fastpath/bpfmap"
	"github.com/snapctl/snapctl/vem/fabric/fastpath/packet"
)

const (
	stackPrefix = -136 // a key of beyond
	stackBeyond = -140 // not 0: the packet is for a machine behind this gateway

	redirectIngress = 1 // BPF_F_INGRESS
)

// Here and Routed are where packets for a machine go to, if to no host, see [Remotes.SetBeyond].
const (
	Here   = 0
	Routed = MaxHosts + 1
)

// HostMAC is the hardware address of the host's device of each network.
var HostMAC = net.HardwareAddr{0x02, 0x73, 0, 0, 0, 2}

// SetBeyond says which machines are no endpoints, and yet send to endpoints, and get what these
// send, at their own addresses. Of class 0 is where packets for a prefix go: to a host, by this
// host's own routes ([Here]), or by the fabric's routes ([Routed]). What is of the class of a host's number may come
// from that host. Such packets have an outer header on every way, since nothing else says which host
// sent them.
func (r *Remotes) SetBeyond(all map[bpfmap.Prefix]int) error { return bpfmap.Set(r.beyond, all) }

// Beyond returns what SetBeyond has set, also of an earlier run.
func (r *Remotes) Beyond() (map[bpfmap.Prefix]int, error) { return bpfmap.List(r.beyond) }

// find leaves a pointer to the number of the prefix that has an address in r0, or goes to none.
func (r *Remotes) find(class, addr int16, none string) asm.Instructions {
	return bpfmap.Find(r.beyond, stackPrefix, class, addr, none)
}

// away fills r8 with the way to the host that packets for a machine go to, its number on the stack.
func (r *Remotes) away(none string) asm.Instructions {
	return slices.Concat(
		r.find(0, keyDst, none),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.R0, 0, asm.Word),
			asm.JEq.Imm(asm.R1, Here, none),
			asm.JEq.Imm(asm.R1, Routed, none),
			asm.StoreMem(asm.RFP, stackHost, asm.R1, asm.Word),
		},
		r.way("drop"),
	)
}

// source drops a packet whose inner source is none of the network's, nor one that the host may send
// from whose number is on the stack. r8 is the protocol inside.
func (r *Remotes) source(prefix4, prefix6 netip.Prefix) asm.Instructions {
	const src = stackHeader + packet.V6Src
	list := append(asm.Instructions{asm.JEq.Imm(asm.R8, packet.Network16(unix.ETH_P_IPV6), "source6")}, within6(mapped(prefix4), src, "machine's")...)
	list = append(list, asm.Ja.Label("endpoint's"), asm.Mov.Reg(asm.R6, asm.R6).WithSymbol("source6"))
	if prefix6.IsValid() {
		list = append(append(list, within6(prefix6, src, "machine's")...), asm.Ja.Label("endpoint's"))
	}
	list = append(list, packet.Label("machine's", r.find(stackHost, src, dropRefused.label()))...)
	return append(list, asm.Mov.Reg(asm.R6, asm.R6).WithSymbol("endpoint's"))
}

// toMachine gives a packet for a machine behind this gateway to the host, as if it came from the
// fabric: so the host forwards it. Its frame has to be for the host's device (eth_type_trans in
// net/ethernet/eth.c, which bpf_redirect calls by dev_forward_skb).
func toMachine(device int) asm.Instructions {
	return slices.Concat(
		asm.Instructions{
			asm.StoreImm(asm.RFP, stackHeader, int64(int32(binary.NativeEndian.Uint32(HostMAC[:4]))), asm.Word).WithSymbol("to machine"),
			asm.StoreImm(asm.RFP, stackHeader+4, int64(binary.NativeEndian.Uint16(HostMAC[4:])), asm.Half),
			asm.Mov.Imm(asm.R2, 0),
		},
		packet.Store(stackHeader, int32(len(HostMAC)), dropFailed.label()),
		asm.Instructions{
			asm.Mov.Imm(asm.R1, int32(device)),
			asm.Mov.Imm(asm.R2, redirectIngress),
			asm.FnRedirect.Call(),
			asm.Return(),
		},
	)
}

// foreign goes to the label other unless addresses on the stack are the network's.
func foreign(prefix4, prefix6 netip.Prefix, other string, at ...int16) (list asm.Instructions) {
	six := "inside6 " + other
	list = asm.Instructions{asm.JEq.Imm(asm.R9, packet.Network16(unix.ETH_P_IPV6), six)}
	for _, a := range at {
		list = append(list, within6(mapped(prefix4), a, other)...)
	}
	list = append(list, asm.Ja.Label("inside "+other), asm.Mov.Reg(asm.R9, asm.R9).WithSymbol(six))
	for _, a := range at {
		if prefix6.IsValid() {
			list = append(list, within6(prefix6, a, other)...)
		}
	}
	return append(list, asm.Mov.Reg(asm.R9, asm.R9).WithSymbol("inside "+other))
}
