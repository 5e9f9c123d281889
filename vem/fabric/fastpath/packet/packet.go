// Package packet has pieces of BPF programs that read packets, and change addresses in them.
//
// In all of them r6 is the packet.
package packet

import (
	"encoding/binary"

	"github.com/cilium/ebpf/asm"
)

// Offsets in a packet, which starts with its Ethernet header.
const (
	EthLen  = 14
	V4Frag  = 6 // in the IPv4 header
	V4Proto = 9
	V4Sum   = 10
	V4Src   = 12
	V4Dst   = 16
	V4Len   = 20
	V6Next  = 6 // in the IPv6 header
	V6Src   = 8
	V6Dst   = 24
	V6Len   = 40
	tcpSum  = 16 // in the transport header
	TCPOff  = 12
	udpSum  = 6
	UDPLen  = 8
	icmpSum = 2
	icmpLen = 8 // an error's header; the packet that it is about follows
)

// Load copies size bytes at offset r2 of the packet to the stack, or goes to the
// label short.
func Load(stack, size int32, short string) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R3, asm.RFP),
		asm.Add.Imm(asm.R3, stack),
		asm.Mov.Imm(asm.R4, size),
		asm.FnSkbLoadBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, short),
	}
}

// Store puts size bytes of the stack at offset r2 of the packet, or goes to the
// label failed.
func Store(stack, size int32, failed string) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R3, asm.RFP),
		asm.Add.Imm(asm.R3, stack),
		asm.Mov.Imm(asm.R4, size),
		asm.Mov.Imm(asm.R5, 0),
		asm.FnSkbStoreBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, failed),
	}
}

// Label names the first of some instructions.
func Label(name string, list asm.Instructions) asm.Instructions {
	list[0] = list[0].WithSymbol(name)
	return list
}

// Network16 returns a value as a load from the packet sees it.
func Network16(v uint16) int32 {
	return int32(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v)))
}

// Network32 is Network16 for four bytes.
func Network32(v uint32) int32 {
	return int32(binary.NativeEndian.Uint32(binary.BigEndian.AppendUint32(nil, v)))
}
