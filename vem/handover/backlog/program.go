package backlog

import (
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// Offsets in struct __sk_buff (include/uapi/linux/bpf.h), and what a program answers
// (include/uapi/linux/pkt_cls.h).
const (
	skbProtocol = 16
	goOn        = -1 // TC_ACT_UNSPEC: as if the program were not there
)

// Where in a packet the addresses are, and then the ports and the numbers of a TCP segment:
// all that a packet is known by.
const (
	v4At, v4Len = 12, 8 + 12
	v6At, v6Len = 8, 32 + 12
)

// The value of the map: what the packet is known by, what the connection has agreed on, and
// what the kernel has answered.
const (
	valueProtocol = 0 // of the packet, as it has it; 0: none is expected
	valueKnown    = 8
	known         = 48 // v6Len, to a multiple of 8
	valueAgreed   = valueKnown + known
	agreed        = 20 // sizeof(struct bpf_tcp_req_attrs), include/net/tcp.h
	valueAnswer   = valueAgreed + agreed
	valueSize     = valueAnswer + 4
)

// unasked is the answer while the packet has not come.
const unasked = 1

// program assembles what the loopback device does with what comes in: the packet that the map
// describes gets a request of a connection that has been agreed on, which the kernel takes for
// one that a SYN cookie has proved (net/core/filter.c, bpf_sk_assign_tcp_reqsk).
//
// r6 is the packet, r7 the map's value, r8 the listener.
func program(values, listener *ebpf.Map, assign int32) asm.Instructions {
	load := func(protocol, at, size int, label string) asm.Instructions {
		return asm.Instructions{
			asm.JNE.Imm(asm.R1, int32(protocol), label),
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.Mov.Imm(asm.R2, int32(at)),
			asm.Mov.Reg(asm.R3, asm.RFP),
			asm.Add.Imm(asm.R3, -known),
			asm.Mov.Imm(asm.R4, int32(size)),
			asm.Mov.Imm(asm.R5, 1), // BPF_HDR_START_NET
			asm.FnSkbLoadBytesRelative.Call(),
			asm.JNE.Imm(asm.R0, 0, "go on"),
			asm.Ja.Label("compare"),
		}
	}
	lookup := func(m *ebpf.Map) asm.Instructions {
		return asm.Instructions{
			asm.StoreImm(asm.RFP, -known-8, 0, asm.Word),
			asm.LoadMapPtr(asm.R1, m.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -known-8),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "go on"),
		}
	}
	var clear, compare asm.Instructions
	for i := int16(0); i < known; i += 8 {
		clear = append(clear, asm.StoreImm(asm.RFP, -known+i, 0, asm.DWord))
		compare = append(compare,
			asm.LoadMem(asm.R1, asm.RFP, -known+i, asm.DWord),
			asm.LoadMem(asm.R2, asm.R7, valueKnown+i, asm.DWord),
			asm.JNE.Reg(asm.R1, asm.R2, "go on"))
	}
	compare[0] = compare[0].WithSymbol("compare")
	six := load(bigEndian(unix.ETH_P_IPV6), v6At, v6Len, "go on")
	six[0] = six[0].WithSymbol("six")
	return slices.Concat(
		asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)},
		lookup(values),
		asm.Instructions{
			asm.Mov.Reg(asm.R7, asm.R0),
			asm.LoadMem(asm.R1, asm.R6, skbProtocol, asm.Word),
			asm.LoadMem(asm.R2, asm.R7, valueProtocol, asm.Word),
			asm.JNE.Reg(asm.R1, asm.R2, "go on"),
		},
		clear,
		asm.Instructions{asm.LoadMem(asm.R1, asm.R6, skbProtocol, asm.Word)},
		load(bigEndian(unix.ETH_P_IP), v4At, v4Len, "six"),
		six,
		compare,
		lookup(listener),
		asm.Instructions{
			asm.Mov.Reg(asm.R8, asm.R0),
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.Mov.Reg(asm.R2, asm.R8),
			asm.Mov.Reg(asm.R3, asm.R7),
			asm.Add.Imm(asm.R3, valueAgreed),
			asm.Mov.Imm(asm.R4, agreed),
			{OpCode: asm.OpCode(asm.JumpClass).SetJumpOp(asm.Call), Src: asm.PseudoKfuncCall, Constant: int64(assign)},
			asm.StoreMem(asm.R7, valueAnswer, asm.R0, asm.Word),
			asm.StoreImm(asm.R7, valueProtocol, 0, asm.Word), // what comes next is the connection's
			asm.Mov.Reg(asm.R1, asm.R8),
			asm.FnSkRelease.Call(),
			asm.Mov.Imm(asm.R0, goOn).WithSymbol("go on"),
			asm.Return(),
		},
	)
}

func bigEndian(v uint16) int { return int(v>>8 | v<<8) }
