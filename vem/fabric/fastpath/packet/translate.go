package packet

import (
	"slices"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// Flags of bpf_l4_csum_replace and bpf_skb_store_bytes (include/uapi/linux/bpf.h).
const (
	sumPseudo  = 1 << 4 // the address is in the pseudo header
	sumMangled = 1 << 5 // 0 means no checksum
	sumWord    = 4      // from and to are addresses of 4 bytes; 0: to is a difference
)

// maxHeaders bounds the extension headers that translate6 looks behind.
const maxHeaders = 4

// Translate calls the function that replaces one address of the packet: the one of
// the key on the stack by the one that r0 + at points to. The packet is dropped if
// that fails, which takes a packet that is broken.
func Translate(what string, key, at int32, v4, v6 int16) asm.Instructions {
	// An error quotes a packet that went the other way.
	quoted := func(at, src, dst int16) int32 { return int32(src + dst - at) }
	return asm.Instructions{
		asm.Mov.Reg(asm.R3, asm.R0),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.JEq.Imm(asm.R9, Network16(unix.ETH_P_IPV6), what+"6"),
		asm.LoadMem(asm.R2, asm.RFP, int16(key)+12, asm.Word),
		asm.LoadMem(asm.R3, asm.R3, int16(at)+12, asm.Word),
		asm.Mov.Imm(asm.R4, int32(v4)),
		asm.Mov.Imm(asm.R5, quoted(v4, V4Src, V4Dst)),
		asm.Call.Label("translate4"),
		asm.Ja.Label(what + " done"),
		asm.Mov.Reg(asm.R2, asm.RFP).WithSymbol(what + "6"),
		asm.Add.Imm(asm.R2, key),
		asm.Add.Imm(asm.R3, at),
		asm.Mov.Imm(asm.R4, int32(v6)),
		asm.Mov.Imm(asm.R5, quoted(v6, V6Src, V6Dst)),
		asm.Call.Label("translate6"),
		asm.JNE.Imm(asm.R0, 0, "drop").WithSymbol(what + " done"),
	}
}

// Translate4 assembles the function
//
//	translate4(packet, old, new address, offset in the header, offset in a quoted one)
//
// which returns 0, or not 0 if the packet is broken.
//
// The helpers know the three states of a checksum: complete, absent (UDP), and left
// to the device (CHECKSUM_PARTIAL), where the field holds the sum of the pseudo
// header only. The checksum of an ICMP error stays right by itself, because a
// change of the quoted address and that of the quoted header's checksum cancel each
// other out. A quoted transport checksum stays as it is: nobody looks at it.
//
// Only a packet's first fragment has a transport header. Its checksum is over the
// whole packet, so to correct it there is enough.
func Translate4() asm.Instructions {
	const (
		header    = -16 // the first bytes of a header
		quotedOff = -24
		quoted    = -28
		replace   = -32 // the new address
	)
	// ipSum corrects the checksum at r2 in an IP header.
	ipSum := asm.Instructions{
		asm.Add.Imm(asm.R2, V4Sum),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R3, asm.R7),
		asm.Mov.Reg(asm.R4, asm.R8),
		asm.Mov.Imm(asm.R5, sumWord),
		asm.FnL3CsumReplace.Call(),
		asm.JNE.Imm(asm.R0, 0, "failed4"),
	}
	return slices.Concat(
		asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1).WithSymbol("translate4"),
			asm.Mov.Reg(asm.R7, asm.R2),
			asm.Mov.Reg(asm.R8, asm.R3),
			asm.StoreMem(asm.RFP, replace, asm.R3, asm.Word),
			asm.StoreMem(asm.RFP, quotedOff, asm.R5, asm.DWord),
			asm.Mov.Reg(asm.R2, asm.R4),
			asm.Add.Imm(asm.R2, EthLen),
		},
		Store(replace, 4, "failed4"),
		asm.Instructions{asm.Mov.Imm(asm.R2, EthLen)}, ipSum,
		asm.Instructions{asm.Mov.Imm(asm.R2, EthLen)}, Load(header, 10, "failed4"),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.RFP, header+V4Frag, asm.Half),
			asm.And.Imm(asm.R1, Network16(0x1fff)),
			asm.JNE.Imm(asm.R1, 0, "done4"),
			asm.LoadMem(asm.R9, asm.RFP, header, asm.Byte),
			asm.And.Imm(asm.R9, 0xf),
			asm.LSh.Imm(asm.R9, 2),
			asm.Add.Imm(asm.R9, EthLen),

			asm.LoadMem(asm.R1, asm.RFP, header+V4Proto, asm.Byte),
			asm.Mov.Reg(asm.R2, asm.R9),
			asm.Add.Imm(asm.R2, tcpSum),
			asm.Mov.Imm(asm.R5, sumPseudo|sumWord),
			asm.JEq.Imm(asm.R1, unix.IPPROTO_TCP, "sum4"),
			asm.Mov.Reg(asm.R2, asm.R9),
			asm.JEq.Imm(asm.R1, unix.IPPROTO_ICMP, "icmp4"),
			asm.Add.Imm(asm.R2, udpSum),
			asm.Mov.Imm(asm.R5, sumPseudo|sumMangled|sumWord),
			asm.JNE.Imm(asm.R1, unix.IPPROTO_UDP, "done4"),

			asm.Mov.Reg(asm.R1, asm.R6).WithSymbol("sum4"),
			asm.Mov.Reg(asm.R3, asm.R7),
			asm.Mov.Reg(asm.R4, asm.R8),
			asm.FnL4CsumReplace.Call(),
			asm.Return(),
		},
		Label("icmp4", Load(header, 1, "done4")),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.RFP, header, asm.Byte),
			// Unreachable, source quench, redirect; time exceeded, parameter problem.
			asm.JLT.Imm(asm.R1, 3, "done4"),
			asm.JLE.Imm(asm.R1, 5, "error4"),
			asm.JLT.Imm(asm.R1, 11, "done4"),
			asm.JGT.Imm(asm.R1, 12, "done4"),

			asm.Add.Imm(asm.R9, icmpLen).WithSymbol("error4"),
			asm.LoadMem(asm.R2, asm.RFP, quotedOff, asm.DWord),
			asm.Add.Reg(asm.R2, asm.R9),
		},
		Load(quoted, 4, "done4"),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.RFP, quoted, asm.Word),
			asm.JNE.Reg(asm.R1, asm.R7, "done4"),
			asm.LoadMem(asm.R2, asm.RFP, quotedOff, asm.DWord),
			asm.Add.Reg(asm.R2, asm.R9),
		},
		Store(replace, 4, "failed4"),
		asm.Instructions{asm.Mov.Reg(asm.R2, asm.R9)}, ipSum,
		ends("4"),
	)
}

// Translate6 assembles the same for IPv6, with pointers to the addresses.
//
// An IPv6 header has no checksum, but ICMPv6's includes the pseudo header, and the
// quoted packet.
//
// The kernel's sum of a whole IPv6 packet (CHECKSUM_COMPLETE) would come out wrong
// here without BPF_F_IPV6 (Linux 6.16). No packet here has one: only a network card
// makes it, and forwarding ends it (ip6_forward, skb_forward_csum).
func Translate6() asm.Instructions {
	const (
		difference = -8
		replace    = -16 // a pointer to the new address
		quotedOff  = -24
		header     = -32
		quoted     = -48
	)
	// sum corrects the transport checksum at r2.
	sum := func(flags int32) asm.Instructions {
		return asm.Instructions{
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.Mov.Imm(asm.R3, 0),
			asm.LoadMem(asm.R4, asm.RFP, difference, asm.DWord),
			asm.Mov.Imm(asm.R5, flags),
			asm.FnL4CsumReplace.Call(),
		}
	}
	put := append(asm.Instructions{
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.LoadMem(asm.R3, asm.RFP, replace, asm.DWord),
		asm.Mov.Imm(asm.R4, 16),
		asm.Mov.Imm(asm.R5, 0),
		asm.FnSkbStoreBytes.Call(),
	}, asm.JNE.Imm(asm.R0, 0, "failed6"))
	return slices.Concat(
		asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1).WithSymbol("translate6"),
			asm.Mov.Reg(asm.R7, asm.R2),
			asm.StoreMem(asm.RFP, replace, asm.R3, asm.DWord),
			asm.StoreMem(asm.RFP, quotedOff, asm.R5, asm.DWord),
			asm.Mov.Reg(asm.R2, asm.R4),
			asm.Add.Imm(asm.R2, EthLen),
		},
		put,
		asm.Instructions{
			asm.Mov.Reg(asm.R1, asm.R7),
			asm.Mov.Imm(asm.R2, 16),
			asm.LoadMem(asm.R3, asm.RFP, replace, asm.DWord),
			asm.Mov.Imm(asm.R4, 16),
			asm.Mov.Imm(asm.R5, 0),
			asm.FnCsumDiff.Call(),
			asm.StoreMem(asm.RFP, difference, asm.R0, asm.DWord),
			asm.Mov.Imm(asm.R2, EthLen+V6Next),
		},
		Load(header, 1, "failed6"),
		asm.Instructions{
			asm.LoadMem(asm.R8, asm.RFP, header, asm.Byte),
			asm.Mov.Imm(asm.R9, EthLen+V6Len),
		},
		skipHeaders(header),
		asm.Instructions{
			asm.Mov.Reg(asm.R2, asm.R9).WithSymbol("transport6"),
			asm.JEq.Imm(asm.R8, unix.IPPROTO_ICMPV6, "icmp6"),
			asm.JEq.Imm(asm.R8, unix.IPPROTO_UDP, "udp6"),
			asm.JNE.Imm(asm.R8, unix.IPPROTO_TCP, "done6"),
			asm.Add.Imm(asm.R2, tcpSum),
		},
		sum(sumPseudo),
		asm.Instructions{
			asm.Return(),
			asm.Add.Imm(asm.R2, udpSum).WithSymbol("udp6"),
		},
		sum(sumPseudo|sumMangled),
		asm.Instructions{
			asm.Return(),
			asm.Add.Imm(asm.R2, icmpSum).WithSymbol("icmp6"),
		},
		sum(sumPseudo),
		asm.Instructions{
			asm.JNE.Imm(asm.R0, 0, "failed6"),
			asm.Mov.Reg(asm.R2, asm.R9),
		},
		Load(header, 1, "done6"),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.RFP, header, asm.Byte),
			asm.JGT.Imm(asm.R1, 127, "done6"), // informational (RFC 4443)
			asm.LoadMem(asm.R8, asm.RFP, quotedOff, asm.DWord),
			asm.Add.Reg(asm.R8, asm.R9),
			asm.Add.Imm(asm.R8, icmpLen),
			asm.Mov.Reg(asm.R2, asm.R8),
		},
		Load(quoted, 16, "done6"),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.RFP, quoted, asm.DWord),
			asm.LoadMem(asm.R2, asm.R7, 0, asm.DWord),
			asm.JNE.Reg(asm.R1, asm.R2, "done6"),
			asm.LoadMem(asm.R1, asm.RFP, quoted+8, asm.DWord),
			asm.LoadMem(asm.R2, asm.R7, 8, asm.DWord),
			asm.JNE.Reg(asm.R1, asm.R2, "done6"),
			asm.Mov.Reg(asm.R2, asm.R8),
		},
		put,
		asm.Instructions{
			asm.Mov.Reg(asm.R2, asm.R9),
			asm.Add.Imm(asm.R2, icmpSum),
		},
		sum(0),
		asm.Instructions{asm.Return()},
		ends("6"),
	)
}

// skipHeaders moves r8 and r9, the type and offset of a header, past extension
// headers. It goes to done6 with a fragment that is not the first.
func skipHeaders(header int16) asm.Instructions {
	var list asm.Instructions
	for n := range maxHeaders {
		fragment, next := "fragment6 "+string(rune('a'+n)), "next6 "+string(rune('a'+n))
		list = slices.Concat(list,
			asm.Instructions{
				asm.Mov.Reg(asm.R2, asm.R9),
				asm.JEq.Imm(asm.R8, unix.IPPROTO_FRAGMENT, fragment),
				asm.JEq.Imm(asm.R8, unix.IPPROTO_HOPOPTS, fragment),
				asm.JEq.Imm(asm.R8, unix.IPPROTO_ROUTING, fragment),
				asm.JNE.Imm(asm.R8, unix.IPPROTO_DSTOPTS, "transport6"),
			},
			Label(fragment, Load(int32(header), 4, "failed6")),
			asm.Instructions{
				asm.Mov.Imm(asm.R1, 0),
				asm.JEq.Imm(asm.R8, unix.IPPROTO_FRAGMENT, next),
				asm.LoadMem(asm.R1, asm.RFP, header+1, asm.Byte),
				// A length in units of 8 bytes after the first 8, which in a fragment
				// header is reserved and not to be looked at.
				asm.LSh.Imm(asm.R1, 3),
				asm.Ja.Label(next + " length"),

				asm.LoadMem(asm.R2, asm.RFP, header+2, asm.Half).WithSymbol(next),
				asm.And.Imm(asm.R2, Network16(0xfff8)),
				asm.JNE.Imm(asm.R2, 0, "done6"),

				asm.Add.Reg(asm.R9, asm.R1).WithSymbol(next + " length"),
				asm.Add.Imm(asm.R9, 8),
				asm.LoadMem(asm.R8, asm.RFP, header, asm.Byte),
			},
		)
	}
	return list
}

// ends are the ends of a function.
func ends(family string) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Imm(asm.R0, 0).WithSymbol("done" + family),
		asm.Return(),
		asm.Mov.Imm(asm.R0, -1).WithSymbol("failed" + family),
		asm.Return(),
	}
}
