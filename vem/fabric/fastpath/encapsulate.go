package fastpath

import (
	"slices"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric/fastpath/packet"
)

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
			asm.Mov.Imm(asm.R2, packet.EthLen).WithSymbol("encapsulate"),
		},
		packet.Load(stackBytes, 2, dropFailed.label()),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.RFP, stackBytes+1, asm.Byte),
			asm.JNE.Imm(asm.R9, packet.Network16(unix.ETH_P_IPV6), "ecn"),
			asm.RSh.Imm(asm.R1, 4),
			asm.And.Imm(asm.R1, 3).WithSymbol("ecn"),
			asm.StoreMem(asm.RFP, stackECN, asm.R1, asm.Word),
			asm.LoadMem(asm.R1, asm.R8, pathFamily, asm.Word),
			asm.JEq.Imm(asm.R1, unix.AF_INET6, "outer6"),
		},
		outer4(), packet.Label("outer6", outer6()),
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
		asm.JNE.Imm(asm.R9, packet.Network16(unix.ETH_P_IPV6), name),
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
		room(packet.V4Len, roomFixedGSO|roomEncap4|roomKeepSum),
		inside(asm.R5, "outer4 protocol"),
		asm.Instructions{
			asm.LoadMem(asm.R3, asm.RFP, stackECN, asm.Word).WithSymbol("outer4 protocol"),
			// The length is that of all segments together, and each gets its own.
			asm.Add.Imm(asm.R7, packet.V4Len),
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
			asm.StoreImm(asm.RFP, stackHeader+4, int64(packet.Network32(0x00004000)), asm.Word),
			asm.StoreImm(asm.RFP, stackHeader+8, outerTTL, asm.Byte),
			asm.StoreMem(asm.RFP, stackHeader+packet.V4Proto, asm.R5, asm.Byte),
			asm.StoreMem(asm.RFP, stackHeader+packet.V4Sum, asm.R1, asm.Half),
			asm.LoadMem(asm.R1, asm.R8, pathLocal+12, asm.Word),
			asm.StoreMem(asm.RFP, stackHeader+packet.V4Src, asm.R1, asm.Word),
			asm.LoadMem(asm.R1, asm.R8, pathRemote+12, asm.Word),
			asm.StoreMem(asm.RFP, stackHeader+packet.V4Dst, asm.R1, asm.Word),
			asm.Mov.Imm(asm.R2, packet.EthLen),
		},
		packet.Store(stackHeader, packet.V4Len, dropFailed.label()),
		asm.Instructions{asm.Ja.Label("send")},
	)
}

// outer6 puts an IPv6 header on (RFC 8200).
func outer6() asm.Instructions {
	list := slices.Concat(
		asm.Instructions{ // before the header changes what it is made from
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.FnGetHashRecalc.Call(),
			asm.StoreMem(asm.RFP, stackHash, asm.R0, asm.Word),
		},
		room(packet.V6Len, roomFixedGSO|roomEncap6|roomKeepSum),
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
			asm.StoreMem(asm.RFP, stackHeader+packet.V6Next, asm.R5, asm.Byte),
			asm.StoreImm(asm.RFP, stackHeader+7, outerTTL, asm.Byte),
		},
	)
	for _, a := range []struct{ from, to int16 }{{pathLocal, packet.V6Src}, {pathRemote, packet.V6Dst}} {
		for i := int16(0); i < 16; i += 8 {
			list = append(list,
				asm.LoadMem(asm.R1, asm.R8, a.from+i, asm.DWord),
				asm.StoreMem(asm.RFP, stackHeader+a.to+i, asm.R1, asm.DWord),
			)
		}
	}
	list = append(list, asm.Mov.Imm(asm.R2, packet.EthLen))
	return append(list, packet.Store(stackHeader, packet.V6Len, dropFailed.label())...)
}
