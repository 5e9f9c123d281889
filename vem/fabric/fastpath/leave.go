package fastpath

import (
	"net/netip"
	"slices"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric/fastpath/packet"
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
		packet.Label("leave", lookup(t.remotes.routes, keyDst, "beyond")),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.R0, routeUse, asm.Word),
			asm.JLT.Imm(asm.R1, int32(use), "kernel"),
			asm.LoadMem(asm.R1, asm.R0, routeHost, asm.Word),
			asm.StoreMem(asm.RFP, stackHost, asm.R1, asm.Word),
		},
		t.remotes.way("kernel"),
		asm.Instructions{asm.Ja.Label("away")},
		packet.Label("beyond", t.remotes.away("kernel")),
		asm.Instructions{asm.LoadMem(asm.R8, asm.R8, pathMTU, asm.Word).WithSymbol("away")},
		fits("large"), t.waited(kind),
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

// waited assembles what happens to the host's own packets that had to wait for a way, as
// [Remotes.own] does to all others: the gateway's address becomes the one that other hosts know
// this host by.
func (t *Table) waited(kind Kind) asm.Instructions {
	if kind != Waiting {
		return nil
	}
	const family = stackHash // free here
	return slices.Concat(
		lookup(t.endpoints, keySrc, "waited"),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.R0, entryDevice, asm.Word),
			asm.JNE.Imm(asm.R1, int32(t.uplink), "waited"),
			asm.StoreImm(asm.RFP, family, 0, asm.Word),
			asm.JNE.Imm(asm.R9, packet.Network16(unix.ETH_P_IPV6), "own family"),
			asm.StoreImm(asm.RFP, family, 1, asm.Word),
		},
		packet.Label("own family", t.remotes.ownAddress(family)),
		asm.Instructions{asm.Mov.Reg(asm.R6, asm.R6).WithSymbol("waited")},
	)
}

// ownAddress replaces the source by the host's address for other hosts. The number of the
// packet's family is on the stack. Without such an address the packet is the kernel's.
func (r *Remotes) ownAddress(family int32) asm.Instructions {
	return slices.Concat(
		lookup(r.self, family, "kernel"),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.R0, 8, asm.DWord),
			asm.JEq.Imm(asm.R1, 0, "kernel"),
		},
		packet.Translate("own address", keySrc, 0, packet.V4Src, packet.V6Src),
	)
}

// flag goes to the label no unless a flag of self is set. It uses a word of the stack.
func (r *Remotes) flag(which int64, word int16, no string) asm.Instructions {
	return slices.Concat(
		asm.Instructions{asm.StoreImm(asm.RFP, word, which, asm.Word)},
		lookup(r.self, int32(word), no),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.R0, 8, asm.DWord),
			asm.JEq.Imm(asm.R1, 0, no),
		},
	)
}

// mapped is an IPv4 prefix as keys have it.
func mapped(prefix4 netip.Prefix) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16(prefix4.Addr().As16()), 96+prefix4.Bits())
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
			asm.JEq.Imm(asm.R9, packet.Network16(unix.ETH_P_IPV6), "segments6"),
			asm.Mov.Imm(asm.R2, packet.EthLen),
		},
		packet.Load(stackHeader, packet.V4Proto+1, large),
		asm.Instructions{
			asm.LoadMem(asm.R7, asm.RFP, stackHeader, asm.Byte),
			asm.And.Imm(asm.R7, 0xf),
			asm.LSh.Imm(asm.R7, 2),
			asm.Add.Imm(asm.R7, packet.EthLen),
			asm.LoadMem(asm.R1, asm.RFP, stackHeader+packet.V4Proto, asm.Byte),
			asm.Ja.Label("segments"),
			asm.Mov.Imm(asm.R2, packet.EthLen).WithSymbol("segments6"),
		},
		packet.Load(stackHeader, packet.V6Next+1, large),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.RFP, stackHeader+packet.V6Next, asm.Byte),
			asm.Mov.Imm(asm.R7, packet.EthLen+packet.V6Len),

			asm.Mov.Reg(asm.R2, asm.R7).WithSymbol("segments"),
			asm.JEq.Imm(asm.R1, unix.IPPROTO_UDP, "datagrams"),
			asm.JNE.Imm(asm.R1, unix.IPPROTO_TCP, large),
			asm.Add.Imm(asm.R2, packet.TCPOff),
		},
		packet.Load(stackHeader, 1, large),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.RFP, stackHeader, asm.Byte),
			asm.And.Imm(asm.R1, 0xf0),
			asm.RSh.Imm(asm.R1, 2), // in words of 4 bytes, in the upper half
			asm.Add.Reg(asm.R7, asm.R1),
			asm.Ja.Label("segment"),
			asm.Add.Imm(asm.R7, packet.UDPLen).WithSymbol("datagrams"),
			asm.LoadMem(asm.R1, asm.R6, skbGSOSize, asm.Word).WithSymbol("segment"),
			asm.Add.Reg(asm.R7, asm.R1),

			asm.Sub.Imm(asm.R7, packet.EthLen).WithSymbol("compare"),
			asm.JGT.Reg(asm.R7, asm.R8, large),
		},
	)
}

// toHost assembles what the uplink does with a packet for one of its own addresses: one from
// another host, for the address that endpoints there see this host at, gets the gateway's
// address and goes to the host.
func (t *Table) toHost() asm.Instructions {
	return slices.Concat(
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.R0, entryTranslated, asm.Word).WithSymbol("host"),
			asm.JEq.Imm(asm.R1, 0, "kernel"),
		},
		packet.Translate("host address", keyDst, entryInside, packet.V4Dst, packet.V6Dst),
		asm.Instructions{
			asm.Mov.Imm(asm.R1, int32(t.uplink)),
			asm.Mov.Imm(asm.R2, 0),
			asm.Mov.Imm(asm.R3, 0),
			asm.Mov.Imm(asm.R4, 0),
			asm.FnRedirectNeigh.Call(),
			asm.Return(),
		},
	)
}

// leave assembles what the host's device of a network does with a packet that the fabric
// sends to an endpoint of another host, or, if own is given, what it does with one that the
// host sends: it puts an outer header on, if one is needed, and sends the packet, without the
// host's routes and firewall.
func (r *Remotes) leave(prefix4, prefix6 netip.Prefix, own asm.Instructions) asm.Instructions {
	var functions, beyond asm.Instructions
	none := "kernel"
	if own != nil {
		functions = slices.Concat(packet.Translate4(), packet.Translate6())
	} else { // the host has routes of its own to machines that are no endpoints
		none, beyond = "beyond", slices.Concat(
			asm.Instructions{asm.Ja.Label("away")},
			packet.Label("beyond", r.away("kernel")),
			asm.Instructions{asm.Mov.Reg(asm.R6, asm.R6).WithSymbol("away")},
		)
	}
	return slices.Concat(
		parse("kernel"),
		lookup(r.routes, keyDst, none),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.R0, routeHost, asm.Word),
			asm.StoreMem(asm.RFP, stackHost, asm.R1, asm.Word),
		},
		r.way("kernel"), own, beyond,
		asm.Instructions{
			asm.LoadMem(asm.R7, asm.R6, skbLen, asm.Word),
			asm.Sub.Imm(asm.R7, packet.EthLen),
		},
		r.count(stackHost, tallySent, "counted"),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.R8, pathModule, asm.Word),
			asm.JNE.Imm(asm.R1, int32(Direct), "encapsulate"),
		},
		foreign(prefix4, prefix6, "encapsulate", keySrc, keyDst),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.R8, pathFamily, asm.Word),
			asm.JEq.Imm(asm.R1, unix.AF_INET6, "direct"),
			asm.JEq.Imm(asm.R9, packet.Network16(unix.ETH_P_IPV6), "encapsulate"),
		},
		sendDirect(),
		encapsulate(),
		r.dropping(dropFailed),
		verdicts(),
		functions,
	)
}

// own assembles what happens to the host's own packets before they leave. The gateway's
// address, which every host has, becomes the one that other hosts know this host by. A machine
// behind this host keeps its own. What is from another address or does not fit is the kernel's,
// which leads it into the fabric: to the slow path, and from there to an answer.
func (r *Remotes) own(prefix4, prefix6 netip.Prefix) asm.Instructions {
	const stackPath, stackFamily = -72, -76
	gateway4 := prefix4.Masked().Addr().Next()
	list := slices.Concat(
		asm.Instructions{
			asm.StoreMem(asm.RFP, stackPath, asm.R8, asm.DWord),
			asm.LoadMem(asm.R8, asm.R8, pathMTU, asm.Word),
		},
		fits("kernel"),
		asm.Instructions{
			asm.LoadMem(asm.R8, asm.RFP, stackPath, asm.DWord),
			asm.StoreImm(asm.RFP, stackFamily, 0, asm.Word),
			asm.JEq.Imm(asm.R9, packet.Network16(unix.ETH_P_IPV6), "own6"),
		},
		within6(netip.PrefixFrom(netip.AddrFrom16(gateway4.As16()), 128), keySrc, "own kept"),
		asm.Instructions{asm.Ja.Label("own")},
	)
	six := asm.Instructions{asm.Ja.Label("kernel")}
	if prefix6.IsValid() {
		six = append(asm.Instructions{asm.StoreImm(asm.RFP, stackFamily, 1, asm.Word)},
			within6(netip.PrefixFrom(prefix6.Masked().Addr().Next(), 128), keySrc, "own kept")...)
	}
	return slices.Concat(
		list, packet.Label("own6", six), packet.Label("own", r.ownAddress(stackFamily)),
		asm.Instructions{asm.Ja.Label("own done")},
		packet.Label("own kept", r.find(0, keySrc, "kernel")),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.R0, 0, asm.Word),
			asm.JNE.Imm(asm.R1, Here, "kernel"),
			asm.Mov.Reg(asm.R6, asm.R6).WithSymbol("own done"),
		},
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
	return append(append(list, packet.Label("direct6", six)...),
		asm.LoadMem(asm.R1, asm.R8, pathDevice, asm.Word).WithSymbol("direct send"),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, family),
		asm.Mov.Imm(asm.R3, size),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnRedirectNeigh.Call(),
		asm.Return(),
	)
}
