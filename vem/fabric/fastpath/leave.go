package fastpath

import (
	"slices"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// More of the stack, below the keys.
const (
	stackHost   = -40 // a host's number
	stackPlace  = -44 // its index in paths
	stackECN    = -48 // the two bits of congestion notification
	stackHash   = -52
	stackBytes  = -56 // a few bytes of a packet
	stackNow    = -64
	stackHeader = -112 // an IP header
)

// Flags of bpf_skb_adjust_room (include/uapi/linux/bpf.h).
const (
	roomMAC      = 1 // the mode: between Ethernet and IP header
	roomFixedGSO = 1 << 0
	roomEncap4   = 1 << 1
	roomEncap6   = 1 << 2
	roomKeepSum  = 1 << 5
	roomDecap4   = 1 << 7 // what is inside is IPv4, Linux 6.3
	roomDecap6   = 1 << 8
)

const (
	outerTTL = 64
	// gsoByFragments is the segment size of a packet that is a list of packets, as SCTP
	// makes them (include/linux/skbuff.h, GSO_BY_FRAGS).
	gsoByFragments = 0xffff
)

// way fills r8 with the path to the host whose number is on the stack, or goes to none.
func (r *Remotes) way(none string) asm.Instructions {
	return slices.Concat(
		lookup(r.hosts, stackHost, none),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
			asm.JEq.Imm(asm.R1, 0, none),
			asm.StoreMem(asm.RFP, stackPlace, asm.R1, asm.Word),
		},
		lookup(r.paths, stackPlace, none),
		asm.Instructions{asm.Mov.Reg(asm.R8, asm.R0)},
	)
}

// leaving assembles what a device of the fabric does with a packet for none of its
// endpoints: if there is a route, the packet goes into the host's namespace.
//
// A packet that does not fit goes to the kernel, marked with the size that would: the
// fabric has routes for such marks, by which the kernel answers "too big", or cuts what
// may be cut (IPv4 without "don't fragment"). So does what a program can't put an outer
// header on.
func (t *Table) leaving(kind Kind) asm.Instructions {
	use := Open
	if kind == Waiting {
		use = Opening
	}
	return slices.Concat(
		label("leave", lookup(t.remotes.routes, keyDst, "kernel")),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.R0, routeUse, asm.Word),
			asm.JLT.Imm(asm.R1, int32(use), "kernel"),
			asm.LoadMem(asm.R1, asm.R0, routeHost, asm.Word),
			asm.StoreMem(asm.RFP, stackHost, asm.R1, asm.Word),
		},
		t.remotes.way("kernel"),
		asm.Instructions{asm.LoadMem(asm.R8, asm.R8, pathMTU, asm.Word)},
		fits("large"),
		asm.Instructions{
			asm.Mov.Imm(asm.R1, int32(t.uplink)),
			asm.Mov.Imm(asm.R2, 0),
			asm.FnRedirectPeer.Call(),
			asm.Return(),
			asm.StoreMem(asm.R6, skbMark, asm.R8, asm.Word).WithSymbol("large"),
			asm.Ja.Label("kernel"),
		},
	)
}

// fits goes to the label large unless the packet, or every segment that it will be split
// into, has at most r8 bytes. It changes r7.
func fits(large string) asm.Instructions {
	return slices.Concat(
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.R6, skbGSOSize, asm.Word),
			asm.LoadMem(asm.R7, asm.R6, skbLen, asm.Word),
			asm.JEq.Imm(asm.R1, 0, "compare"),
			asm.JEq.Imm(asm.R1, gsoByFragments, large),
			asm.JEq.Imm(asm.R9, network16(unix.ETH_P_IPV6), "segments6"),
			asm.Mov.Imm(asm.R2, ethLen),
		},
		load(stackHeader, v4Proto+1, large),
		asm.Instructions{
			asm.LoadMem(asm.R7, asm.RFP, stackHeader, asm.Byte),
			asm.And.Imm(asm.R7, 0xf),
			asm.LSh.Imm(asm.R7, 2),
			asm.Add.Imm(asm.R7, ethLen),
			asm.LoadMem(asm.R1, asm.RFP, stackHeader+v4Proto, asm.Byte),
			asm.Ja.Label("segments"),
			asm.Mov.Imm(asm.R2, ethLen).WithSymbol("segments6"),
		},
		load(stackHeader, v6Next+1, large),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.RFP, stackHeader+v6Next, asm.Byte),
			asm.Mov.Imm(asm.R7, ethLen+v6Len),

			asm.Mov.Reg(asm.R2, asm.R7).WithSymbol("segments"),
			asm.JEq.Imm(asm.R1, unix.IPPROTO_UDP, "datagrams"),
			asm.JNE.Imm(asm.R1, unix.IPPROTO_TCP, large),
			asm.Add.Imm(asm.R2, tcpOff),
		},
		load(stackHeader, 1, large),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.RFP, stackHeader, asm.Byte),
			asm.And.Imm(asm.R1, 0xf0),
			asm.RSh.Imm(asm.R1, 2), // in words of 4 bytes, in the upper half
			asm.Add.Reg(asm.R7, asm.R1),
			asm.Ja.Label("segment"),
			asm.Add.Imm(asm.R7, udpLen).WithSymbol("datagrams"),
			asm.LoadMem(asm.R1, asm.R6, skbGSOSize, asm.Word).WithSymbol("segment"),
			asm.Add.Reg(asm.R7, asm.R1),

			asm.Sub.Imm(asm.R7, ethLen).WithSymbol("compare"),
			asm.JGT.Reg(asm.R7, asm.R8, large),
		},
	)
}

// leave assembles what the host's device of a network does with a packet that the fabric
// (or the host) sends to an endpoint of another host: it puts an outer header on, if one is
// needed, and sends the packet, without the host's routes and firewall.
func (r *Remotes) leave() asm.Instructions {
	return slices.Concat(
		parse("kernel"),
		lookup(r.routes, keyDst, "kernel"),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.R0, routeHost, asm.Word),
			asm.StoreMem(asm.RFP, stackHost, asm.R1, asm.Word),
		},
		r.way("kernel"),
		asm.Instructions{
			asm.LoadMem(asm.R7, asm.R6, skbLen, asm.Word),
			asm.Sub.Imm(asm.R7, ethLen),
		},
		r.count(stackHost, tallySent, "counted"),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.R8, pathModule, asm.Word),
			asm.JNE.Imm(asm.R1, int32(Direct), "encapsulate"),
			asm.LoadMem(asm.R1, asm.R8, pathFamily, asm.Word),
			asm.JEq.Imm(asm.R1, unix.AF_INET6, "direct"),
			asm.JEq.Imm(asm.R9, network16(unix.ETH_P_IPV6), "encapsulate"),
		},
		sendDirect(),
		encapsulate(),
		r.dropping(dropFailed),
		verdicts(),
	)
}

// sendDirect sends the packet to the path's remote address as the next hop. r1 is the
// path's address family.
func sendDirect() asm.Instructions {
	// struct bpf_redir_neigh (include/uapi/linux/bpf.h)
	const (
		family  = -24
		nexthop = -20
		size    = 20
	)
	list := asm.Instructions{
		asm.StoreMem(asm.RFP, family, asm.R1, asm.Word).WithSymbol("direct"),
		asm.JEq.Imm(asm.R1, unix.AF_INET6, "direct6"),
		asm.LoadMem(asm.R2, asm.R8, pathRemote+12, asm.Word),
		asm.StoreMem(asm.RFP, nexthop, asm.R2, asm.Word),
	}
	for i := int16(4); i < 16; i += 4 {
		list = append(list, asm.StoreImm(asm.RFP, nexthop+i, 0, asm.Word))
	}
	list = append(list, asm.Ja.Label("direct send"))
	var six asm.Instructions
	for i := int16(0); i < 16; i += 4 {
		six = append(six,
			asm.LoadMem(asm.R2, asm.R8, pathRemote+i, asm.Word),
			asm.StoreMem(asm.RFP, nexthop+i, asm.R2, asm.Word),
		)
	}
	return append(append(list, label("direct6", six)...),
		asm.LoadMem(asm.R1, asm.R8, pathDevice, asm.Word).WithSymbol("direct send"),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, family),
		asm.Mov.Imm(asm.R3, size),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnRedirectNeigh.Call(),
		asm.Return(),
	)
}

// encapsulate puts the outer header on and sends the packet to where the host's routes
// lead on the path's device. r7 is the length of the packet.
//
// The outer header has the inner one's two bits of congestion notification (RFC 6040,
// normal mode), and no class of service: apps do not choose the underlay's. It may not be
// fragmented, so that its identification says nothing (RFC 6864). Over IPv6 the flow label
// is made from the connection, for routers with several ways (RFC 6438).
func encapsulate() asm.Instructions {
	return slices.Concat(
		asm.Instructions{
			asm.Mov.Reg(asm.R1, asm.R6).WithSymbol("encapsulate"),
			asm.FnGetHashRecalc.Call(),
			asm.StoreMem(asm.RFP, stackHash, asm.R0, asm.Word),
			asm.Mov.Imm(asm.R2, ethLen),
		},
		load(stackBytes, 2, dropFailed.label()),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.RFP, stackBytes+1, asm.Byte),
			asm.JNE.Imm(asm.R9, network16(unix.ETH_P_IPV6), "ecn"),
			asm.RSh.Imm(asm.R1, 4),
			asm.And.Imm(asm.R1, 3).WithSymbol("ecn"),
			asm.StoreMem(asm.RFP, stackECN, asm.R1, asm.Word),
			asm.LoadMem(asm.R1, asm.R8, pathFamily, asm.Word),
			asm.JEq.Imm(asm.R1, unix.AF_INET6, "outer6"),
		},
		outer4(), label("outer6", outer6()),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.R8, pathDevice, asm.Word).WithSymbol("send"),
			asm.Mov.Imm(asm.R2, 0),
			asm.Mov.Imm(asm.R3, 0),
			asm.Mov.Imm(asm.R4, 0),
			asm.FnRedirectNeigh.Call(),
			asm.Return(),
		},
	)
}

// room changes the space between Ethernet and IP header.
func room(bytes, flags int32) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R2, bytes),
		asm.Mov.Imm(asm.R3, roomMAC),
		asm.Mov.Imm(asm.R4, flags),
		asm.FnSkbAdjustRoom.Call(),
		asm.JNE.Imm(asm.R0, 0, dropFailed.label()),
	}
}

// inside sets a register to the protocol number of what is inside.
func inside(reg asm.Register, name string) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Imm(reg, unix.IPPROTO_IPIP),
		asm.JNE.Imm(asm.R9, network16(unix.ETH_P_IPV6), name),
		asm.Mov.Imm(reg, unix.IPPROTO_IPV6),
	}
}

// outer4 puts an IPv4 header on (RFC 791).
func outer4() asm.Instructions {
	fold := asm.Instructions{
		asm.Mov.Reg(asm.R2, asm.R1),
		asm.RSh.Imm(asm.R2, 16),
		asm.And.Imm(asm.R1, 0xffff),
		asm.Add.Reg(asm.R1, asm.R2),
	}
	return slices.Concat(
		room(v4Len, roomFixedGSO|roomEncap4|roomKeepSum),
		inside(asm.R5, "outer4 protocol"),
		asm.Instructions{
			asm.LoadMem(asm.R3, asm.RFP, stackECN, asm.Word).WithSymbol("outer4 protocol"),
			// The length is that of all segments together, and each gets its own.
			asm.Add.Imm(asm.R7, v4Len),
			asm.And.Imm(asm.R7, 0xffff),
			asm.LoadMem(asm.R1, asm.R8, pathSum, asm.Word),
			asm.Add.Reg(asm.R1, asm.R3),
			asm.Add.Reg(asm.R1, asm.R5),
			asm.Add.Reg(asm.R1, asm.R7),
		},
		fold, fold,
		asm.Instructions{
			asm.Xor.Imm(asm.R1, 0xffff),
			asm.HostTo(asm.BE, asm.R1, asm.Half),
			asm.HostTo(asm.BE, asm.R7, asm.Half),
			asm.StoreImm(asm.RFP, stackHeader, 0x45, asm.Byte),
			asm.StoreMem(asm.RFP, stackHeader+1, asm.R3, asm.Byte),
			asm.StoreMem(asm.RFP, stackHeader+2, asm.R7, asm.Half),
			asm.StoreImm(asm.RFP, stackHeader+4, int64(network32(0x00004000)), asm.Word),
			asm.StoreImm(asm.RFP, stackHeader+8, outerTTL, asm.Byte),
			asm.StoreMem(asm.RFP, stackHeader+v4Proto, asm.R5, asm.Byte),
			asm.StoreMem(asm.RFP, stackHeader+v4Sum, asm.R1, asm.Half),
			asm.LoadMem(asm.R1, asm.R8, pathLocal+12, asm.Word),
			asm.StoreMem(asm.RFP, stackHeader+v4Src, asm.R1, asm.Word),
			asm.LoadMem(asm.R1, asm.R8, pathRemote+12, asm.Word),
			asm.StoreMem(asm.RFP, stackHeader+v4Dst, asm.R1, asm.Word),
			asm.Mov.Imm(asm.R2, ethLen),
		},
		store(stackHeader, v4Len, dropFailed.label()),
		asm.Instructions{asm.Ja.Label("send")},
	)
}

// outer6 puts an IPv6 header on (RFC 8200).
func outer6() asm.Instructions {
	list := slices.Concat(
		room(v6Len, roomFixedGSO|roomEncap6|roomKeepSum),
		inside(asm.R5, "outer6 protocol"),
		asm.Instructions{
			asm.LoadMem(asm.R3, asm.RFP, stackECN, asm.Word).WithSymbol("outer6 protocol"),
			asm.LSh.Imm(asm.R3, 20),
			asm.LoadMem(asm.R1, asm.RFP, stackHash, asm.Word),
			asm.And.Imm(asm.R1, 0xfffff),
			asm.Or.Reg(asm.R1, asm.R3),
			asm.Or.Imm(asm.R1, 6<<28),
			asm.HostTo(asm.BE, asm.R1, asm.Word),
			asm.StoreMem(asm.RFP, stackHeader, asm.R1, asm.Word),
			asm.And.Imm(asm.R7, 0xffff),
			asm.HostTo(asm.BE, asm.R7, asm.Half),
			asm.StoreMem(asm.RFP, stackHeader+4, asm.R7, asm.Half),
			asm.StoreMem(asm.RFP, stackHeader+v6Next, asm.R5, asm.Byte),
			asm.StoreImm(asm.RFP, stackHeader+7, outerTTL, asm.Byte),
		},
	)
	for _, a := range []struct{ from, to int16 }{{pathLocal, v6Src}, {pathRemote, v6Dst}} {
		for i := int16(0); i < 16; i += 8 {
			list = append(list,
				asm.LoadMem(asm.R1, asm.R8, a.from+i, asm.DWord),
				asm.StoreMem(asm.RFP, stackHeader+a.to+i, asm.R1, asm.DWord),
			)
		}
	}
	list = append(list, asm.Mov.Imm(asm.R2, ethLen))
	return append(list, store(stackHeader, v6Len, dropFailed.label())...)
}
