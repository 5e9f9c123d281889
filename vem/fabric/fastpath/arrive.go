package fastpath

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric/fastpath/packet"
)

// arrived marks a packet that arrive has let in, on its way to the fabric's end of the host's
// device, where its source needs no other look. bpf_redirect_peer leaves the mark alone (since
// Linux 6.16 it scrubs the packet as if within one namespace: net/core/filter.c,
// skb_do_redirect), and what the host sends there by itself has none (net/core/dev.c,
// __dev_forward_skb).
const arrived = 1

// arrive assembles what an underlay device does with a packet that another host sends to
// an endpoint of the network: it takes the outer header off, if there is one, and gives the
// packet to the fabric, as if it came from the host's device of the network. All else is
// the kernel's, and costs a few instructions.
//
// Whose packet is it?
//   - Without an outer header its source has to be an address of the network: that of an
//     endpoint of a host that may send so, or, as long as any host may, one that this host knows
//     nothing of yet: a host that has a way to this one does not say who else begins to use it.
//     (The fabric refuses an address of its own endpoints.)
//     Whoever can send on the link can send as such an endpoint: nothing on the way says
//     who sent a packet. What comes from any other source (a machine that routes the prefix
//     to this host) takes the host's routes, through its firewall.
//   - With one, the outer source has to be an address of a known host, or the packet is
//     dropped. That keeps out all who can't send with a foreign source address: a network
//     that lets these pass (RFC 2827) lets them send into this one too.
//
// A tunnelled packet for anybody else, another network, or another tunnel of this host is
// not touched.
func (r *Remotes) arrive(device int, prefix4, prefix6 netip.Prefix) asm.Instructions {
	return slices.Concat(
		visible(),
		asm.Instructions{
			asm.StoreImm(asm.RFP, stackBeyond, 0, asm.Word),
			asm.JEq.Imm(asm.R9, packet.Network16(unix.ETH_P_IPV6), "six"),
		},
		r.arrive4(prefix4), packet.Label("six", r.arrive6(prefix6)),
		r.inner(prefix4, prefix6), r.decapsulate(prefix4, prefix6), r.arriveDirect(prefix4, prefix6),
		asm.Instructions{
			asm.LoadMem(asm.R7, asm.R6, skbLen, asm.Word).WithSymbol("in"),
			asm.Sub.Imm(asm.R7, packet.EthLen),
		},
		r.count(stackHost, tallyReceived, "counted"),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.RFP, stackBeyond, asm.Word),
			asm.JNE.Imm(asm.R1, 0, "to machine"),
			asm.Mov.Imm(asm.R1, arrived),
			asm.StoreMem(asm.R6, skbMark, asm.R1, asm.Word),
			asm.Mov.Imm(asm.R1, int32(device)),
			asm.Mov.Imm(asm.R2, 0),
			asm.FnRedirectPeer.Call(),
			asm.Return(),
		},
		toMachine(device),
		r.dropping(dropStranger, dropRefused, dropCongested, dropFailed),
		verdicts(),
	)
}

// visible sets r6, r9, and r2 to a packet whose IP header can be read directly. Unlike on a
// veth it may be in a part of the buffer where it can't, after a network card.
func visible() asm.Instructions {
	start := asm.Instructions{
		asm.LoadMem(asm.R2, asm.R6, skbData, asm.Word),
		asm.LoadMem(asm.R3, asm.R6, skbDataEnd, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R2),
	}
	return slices.Concat(
		asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1),
			asm.LoadMem(asm.R9, asm.R6, skbProtocol, asm.Word),
			asm.Mov.Imm(asm.R8, packet.EthLen+packet.V6Len),
			asm.JEq.Imm(asm.R9, packet.Network16(unix.ETH_P_IPV6), "look"),
			asm.Mov.Imm(asm.R8, packet.EthLen+packet.V4Len),
			asm.JNE.Imm(asm.R9, packet.Network16(unix.ETH_P_IP), "kernel"),
		},
		packet.Label("look", start),
		asm.Instructions{
			asm.Add.Reg(asm.R1, asm.R8),
			asm.JLE.Reg(asm.R1, asm.R3, "visible"),
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.Mov.Reg(asm.R2, asm.R8),
			asm.FnSkbPullData.Call(),
			asm.JNE.Imm(asm.R0, 0, "kernel"),
			asm.Mov.Reg(asm.R6, asm.R6).WithSymbol("visible"),
		},
	)
}

// bounds loads r2 with the packet's start, once more for the verifier, which wants to see
// the length as a constant.
func bounds(length int32) asm.Instructions {
	return asm.Instructions{
		asm.LoadMem(asm.R2, asm.R6, skbData, asm.Word),
		asm.LoadMem(asm.R3, asm.R6, skbDataEnd, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R2),
		asm.Add.Imm(asm.R1, length),
		asm.JGT.Reg(asm.R1, asm.R3, "kernel"),
	}
}

// arrive4 looks at an IPv4 packet. It goes to "direct", or on to "inner" with r7 the bytes
// of the outer header, r8 the protocol inside, the outer addresses as keys and the outer
// header's congestion bits on the stack.
func (r *Remotes) arrive4(prefix netip.Prefix) asm.Instructions {
	a := prefix.Masked().Addr().As4()
	mask := netip.PrefixFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), prefix.Bits()).Masked().Addr().As4()
	return slices.Concat(
		bounds(packet.EthLen+packet.V4Len),
		asm.Instructions{
			asm.StoreImm(asm.RFP, keySrc, 0, asm.DWord),
			asm.StoreImm(asm.RFP, keySrc+8, int64(packet.Network32(0xffff)), asm.Word),
			asm.LoadMem(asm.R1, asm.R2, packet.EthLen+packet.V4Src, asm.Word),
			asm.StoreMem(asm.RFP, keySrc+12, asm.R1, asm.Word),
			asm.LoadMem(asm.R1, asm.R2, packet.EthLen+packet.V4Dst, asm.Word),
			asm.Mov.Reg(asm.R4, asm.R1),
			asm.And.Imm(asm.R4, packet.Network32(binary.BigEndian.Uint32(mask[:]))),
			asm.LoadImm(asm.R5, int64(uint32(packet.Network32(binary.BigEndian.Uint32(a[:])))), asm.DWord),
			asm.JEq.Reg(asm.R4, asm.R5, "direct"),
			asm.LoadMem(asm.R8, asm.R2, packet.EthLen+packet.V4Proto, asm.Byte),
			asm.JEq.Imm(asm.R8, unix.IPPROTO_IPIP, "tunnel4"),
			asm.JNE.Imm(asm.R8, unix.IPPROTO_IPV6, "kernel"),

			asm.StoreImm(asm.RFP, keyDst, 0, asm.DWord).WithSymbol("tunnel4"),
			asm.StoreImm(asm.RFP, keyDst+8, int64(packet.Network32(0xffff)), asm.Word),
			asm.StoreMem(asm.RFP, keyDst+12, asm.R1, asm.Word),
			// Neither options nor fragments: no host of ours sends those.
			asm.LoadMem(asm.R1, asm.R2, packet.EthLen, asm.Byte),
			asm.JNE.Imm(asm.R1, 0x45, "kernel"),
			asm.LoadMem(asm.R1, asm.R2, packet.EthLen+packet.V4Frag, asm.Half),
			asm.And.Imm(asm.R1, packet.Network16(0x3fff)),
			asm.JNE.Imm(asm.R1, 0, "kernel"),
			asm.LoadMem(asm.R1, asm.R2, packet.EthLen+1, asm.Byte),
			asm.And.Imm(asm.R1, 3),
			asm.StoreMem(asm.RFP, stackECN, asm.R1, asm.Word),
			asm.Mov.Imm(asm.R7, packet.V4Len),
			asm.Ja.Label("inner"),
		},
	)
}

// arrive6 looks at an IPv6 packet, as arrive4.
func (r *Remotes) arrive6(prefix netip.Prefix) asm.Instructions {
	list := bounds(packet.EthLen + packet.V6Len)
	for i := range int16(4) { // both addresses, which follow each other
		list = append(list,
			asm.LoadMem(asm.R1, asm.R2, packet.EthLen+packet.V6Src+8*i, asm.DWord),
			asm.StoreMem(asm.RFP, keySrc+8*i, asm.R1, asm.DWord),
		)
	}
	list = append(list, asm.LoadMem(asm.R8, asm.R2, packet.EthLen+packet.V6Next, asm.Byte),
		asm.LoadMem(asm.R3, asm.R2, packet.EthLen+1, asm.Byte))
	if prefix.IsValid() {
		list = slices.Concat(list, within6(prefix, keyDst, "other6"), asm.Instructions{asm.Ja.Label("direct")})
	}
	return append(list,
		asm.JEq.Imm(asm.R8, unix.IPPROTO_IPIP, "tunnel6").WithSymbol("other6"),
		asm.JNE.Imm(asm.R8, unix.IPPROTO_IPV6, "kernel"),
		asm.RSh.Imm(asm.R3, 4).WithSymbol("tunnel6"),
		asm.And.Imm(asm.R3, 3),
		asm.StoreMem(asm.RFP, stackECN, asm.R3, asm.Word),
		asm.Mov.Imm(asm.R7, packet.V6Len),
		asm.Ja.Label("inner"),
	)
}

// within6 goes to the label other unless the address on the stack is in the prefix.
func within6(prefix netip.Prefix, at int16, other string) (list asm.Instructions) {
	want := prefix.Masked().Addr().As16()
	all := netip.AddrFrom16([16]byte(slices.Repeat([]byte{0xff}, 16)))
	mask := netip.PrefixFrom(all, prefix.Bits()).Masked().Addr().As16()
	for i := 0; i < 16; i += 8 {
		bits := binary.NativeEndian.Uint64(mask[i:])
		if bits == 0 {
			break
		}
		list = append(list,
			asm.LoadMem(asm.R1, asm.RFP, at+int16(i), asm.DWord),
			asm.LoadImm(asm.R4, int64(bits), asm.DWord),
			asm.And.Reg(asm.R1, asm.R4),
			asm.LoadImm(asm.R4, int64(binary.NativeEndian.Uint64(want[i:])), asm.DWord),
			asm.JNE.Reg(asm.R1, asm.R4, other),
		)
	}
	return list
}

// inner looks at the header inside of a tunnelled packet: is it for the network? It leaves
// r9 the kind of packet inside, and its congestion bits in stackBytes.
func (r *Remotes) inner(prefix4, prefix6 netip.Prefix) asm.Instructions {
	offset := asm.Instructions{
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.Add.Imm(asm.R2, packet.EthLen),
	}
	version := func(v int32) asm.Instructions {
		return asm.Instructions{
			asm.LoadMem(asm.R1, asm.RFP, stackHeader, asm.Byte),
			asm.RSh.Imm(asm.R1, 4),
			asm.JNE.Imm(asm.R1, v, "kernel"),
		}
	}
	// The addresses, which are 16 bytes in both, are made at the same place: that of IPv6.
	const src, dst = stackHeader + packet.V6Src, stackHeader + packet.V6Dst
	// What is from an endpoint to a machine behind this host is for the network, too.
	machine := func(prefix netip.Prefix, name string) asm.Instructions {
		return slices.Concat(
			asm.Instructions{asm.Ja.Label(name + " done")},
			packet.Label(name, within6(prefix, src, "kernel")),
			r.find(0, dst, "kernel"),
			asm.Instructions{
				asm.LoadMem(asm.R1, asm.R0, 0, asm.Word),
				asm.JNE.Imm(asm.R1, Here, "kernel"),
				asm.StoreImm(asm.RFP, stackBeyond, 1, asm.Word),
				asm.Mov.Reg(asm.R6, asm.R6).WithSymbol(name + " done"),
			},
		)
	}
	list := slices.Concat(
		packet.Label("inner", asm.Instructions{asm.JEq.Imm(asm.R8, unix.IPPROTO_IPV6, "inner6")}),
		offset, packet.Load(stackHeader, packet.V4Len, "kernel"), version(4),
		asm.Instructions{
			asm.LoadMem(asm.R2, asm.RFP, stackHeader+packet.V4Src, asm.Word),
			asm.LoadMem(asm.R1, asm.RFP, stackHeader+packet.V4Dst, asm.Word),
			asm.StoreMem(asm.RFP, src+12, asm.R2, asm.Word),
			asm.StoreMem(asm.RFP, dst+12, asm.R1, asm.Word),
			asm.StoreImm(asm.RFP, src, 0, asm.DWord),
			asm.StoreImm(asm.RFP, dst, 0, asm.DWord),
			asm.StoreImm(asm.RFP, src+8, int64(packet.Network32(0xffff)), asm.Word),
			asm.StoreImm(asm.RFP, dst+8, int64(packet.Network32(0xffff)), asm.Word),
		},
		within6(mapped(prefix4), dst, "machine4"),
		machine(mapped(prefix4), "machine4"),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.RFP, stackHeader+1, asm.Byte),
			asm.And.Imm(asm.R1, 3),
			asm.StoreMem(asm.RFP, stackBytes, asm.R1, asm.Word),
			asm.Mov.Imm(asm.R8, packet.Network16(unix.ETH_P_IP)),
			asm.Ja.Label("ours"),
		},
	)
	if !prefix6.IsValid() {
		return append(list, asm.Ja.Label("kernel").WithSymbol("inner6"))
	}
	return slices.Concat(list,
		packet.Label("inner6", offset), packet.Load(stackHeader, packet.V6Len, "kernel"), version(6),
		within6(prefix6, dst, "machine6"),
		machine(prefix6, "machine6"),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.RFP, stackHeader+1, asm.Byte),
			asm.RSh.Imm(asm.R1, 4),
			asm.And.Imm(asm.R1, 3),
			asm.StoreMem(asm.RFP, stackBytes, asm.R1, asm.Word),
			asm.Mov.Imm(asm.R8, packet.Network16(unix.ETH_P_IPV6)),
		},
	)
}

// accepted looks up a host's way in and drops the packet unless the host may send it in one
// of some modules. The host's number is at r0.
func (r *Remotes) accepted(numberAt int16, one Modules, unknown string) asm.Instructions {
	return slices.Concat(
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.R0, numberAt, asm.Word),
			asm.StoreMem(asm.RFP, stackHost, asm.R1, asm.Word),
			asm.StoreMem(asm.RFP, stackHash, asm.R8, asm.Word), // free here, and way needs r8
		},
		r.way(unknown),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.R8, pathAccept, asm.Word),
			asm.LoadMem(asm.R8, asm.RFP, stackHash, asm.Word),
			asm.And.Imm(asm.R1, int32(one)),
			asm.JEq.Imm(asm.R1, 0, dropRefused.label()),
		},
	)
}

// decapsulate takes the outer header off. r7 has its bytes, r9 the protocol outside, and
// r8 the one inside.
func (r *Remotes) decapsulate(prefix4, prefix6 netip.Prefix) asm.Instructions {
	const (
		congested = 3 // RFC 3168
		ethType   = 12
	)
	return slices.Concat(
		packet.Label("ours", lookup(r.here, keyDst, "kernel")),
		lookup(r.senders, keySrc, dropStranger.label()),
		r.accepted(0, Set(Tunnel)|OtherFamily, dropStranger.label()),
		r.source(prefix4, prefix6),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.RFP, stackECN, asm.Word),
			asm.JNE.Imm(asm.R1, congested, "untold"),
			asm.LoadMem(asm.R1, asm.RFP, stackBytes, asm.Word),
			asm.JEq.Imm(asm.R1, 0, dropCongested.label()),

			asm.Mov.Imm(asm.R4, roomFixedGSO|roomKeepSum).WithSymbol("untold"),
			asm.JEq.Reg(asm.R8, asm.R9, "take off"),
			asm.Or.Imm(asm.R4, roomDecap4),
			asm.JEq.Imm(asm.R8, packet.Network16(unix.ETH_P_IP), "take off"),
			asm.Mov.Imm(asm.R4, roomFixedGSO|roomKeepSum|roomDecap6),

			asm.Mov.Reg(asm.R1, asm.R6).WithSymbol("take off"),
			asm.Mov.Imm(asm.R2, 0),
			asm.Sub.Reg(asm.R2, asm.R7),
			asm.Mov.Imm(asm.R3, roomMAC),
			asm.FnSkbAdjustRoom.Call(),
			asm.JNE.Imm(asm.R0, 0, dropFailed.label()),

			asm.LoadMem(asm.R1, asm.RFP, stackECN, asm.Word),
			asm.JNE.Imm(asm.R1, congested, "told"),
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.FnSkbEcnSetCe.Call(),

			asm.JEq.Reg(asm.R8, asm.R9, "in").WithSymbol("told"),
			asm.StoreMem(asm.RFP, stackBytes, asm.R8, asm.Half),
			asm.Mov.Imm(asm.R2, ethType),
		},
		packet.Store(stackBytes, 2, dropFailed.label()),
		asm.Instructions{asm.Ja.Label("in")},
	)
}

// arriveDirect lets a packet without outer header in. One from an endpoint that this host does not
// know is not counted.
func (r *Remotes) arriveDirect(prefix4, prefix6 netip.Prefix) asm.Instructions {
	list := slices.Concat(
		packet.Label("direct", lookup(r.routes, keySrc, "unknown")),
		r.accepted(routeHost, Set(Direct), "kernel"),
		asm.Instructions{asm.Ja.Label("in")},
		packet.Label("unknown", r.flag(selfDirect, stackBytes, "kernel")),
		asm.Instructions{asm.JEq.Imm(asm.R9, packet.Network16(unix.ETH_P_IPV6), "unknown6")},
		within6(mapped(prefix4), keySrc, "kernel"),
		asm.Instructions{asm.Ja.Label("counted")},
	)
	if !prefix6.IsValid() {
		return append(list, asm.Ja.Label("kernel").WithSymbol("unknown6"))
	}
	return append(append(list, packet.Label("unknown6", within6(prefix6, keySrc, "kernel"))...), asm.Ja.Label("counted"))
}
