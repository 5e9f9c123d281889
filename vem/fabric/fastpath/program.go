package fastpath

import (
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric/fastpath/packet"
)

// Offsets in struct __sk_buff (include/uapi/linux/bpf.h).
const (
	skbLen      = 0
	skbMark     = 8
	skbProtocol = 16
	skbIfindex  = 40
	skbData     = 76
	skbDataEnd  = 80
	skbGSOSize  = 176
)

// Verdicts (include/uapi/linux/pkt_cls.h).
const (
	actUnspec = -1 // go on as if the program were not there
	actShot   = 2  // drop
)

// The stack of ingress and egress. A key is an address as 16 bytes, an IPv4 one
// as ::ffff:a.b.c.d.
const (
	keyDst    = -16
	keySrc    = -32
	keySource = -36 // the device and, behind it, keySrc: a key of sources
)

// In all functions r6 is the packet. In ingress and egress r7 is the device that
// the program is on, r8 the one that the packet is for, and r9 the packet's
// protocol. Helpers leave r6 to r9 alone, and r1 to r5 undefined.

// ingress assembles what a device does with a packet that an endpoint sends.
//
//	Plain                              Translated
//	if endpoints[src] is not device    if sources[device, src] does not exist
//	        let the kernel route it            drop it
//	                                   translate the source to it
//	to = endpoints[dst]                to = endpoints[dst]
//	if there is none                   if there is none
//	        let it leave                       let it leave
//	if to is device
//	        let the kernel route it
//	if to has an inside address, translate the destination to it
//	give the packet to the other end of to's device
//
// The packet may leave to another host (see [Table.leaving]), or is the kernel's.
// Uplink and Waiting are as Plain, with another look at the source. Nothing that comes
// in by the uplink leaves again: two hosts that each take the other one for an endpoint's
// owner would send a packet to and fro for ever.
//
// Only endpoints' own packets pass. A plain device leaves a forged source to the
// kernel's reverse path filter. A translated one can't: to the filter its outside
// address would be a good source. So it drops what is not IP and from the inside
// address; with permanent neighbour entries nothing else is needed.
//
// What the table does not know (multicast, the outside) takes the kernel's path.
func (t *Table) ingress(kind Kind) asm.Instructions {
	unusual, other := "kernel", "leave"
	var self, leave asm.Instructions
	switch kind {
	case Translated:
		unusual = "drop"
	case Plain, Waiting:
		self = asm.Instructions{asm.JEq.Reg(asm.R8, asm.R7, "kernel")}
	case Uplink:
		self = asm.Instructions{asm.JEq.Reg(asm.R8, asm.R7, "host")}
	}
	switch {
	case kind == Uplink:
		other, leave = "kernel", t.toHost()
	case t.uplink == 0:
		other = "kernel"
	default:
		leave = t.leaving(kind)
	}
	return slices.Concat(
		parse(unusual),
		t.from(kind),
		lookup(t.endpoints, keyDst, other),
		asm.Instructions{asm.LoadMem(asm.R8, asm.R0, entryDevice, asm.Word)},
		self,
		enter("forward"),
		asm.Instructions{
			asm.Mov.Reg(asm.R1, asm.R8).WithSymbol("forward"),
			asm.Mov.Imm(asm.R2, 0),
			asm.FnRedirectPeer.Call(),
			asm.Return(),
		},
		leave, verdicts(), packet.Translate4(), packet.Translate6(),
	)
}

// from assembles what a device thinks of a packet's source.
func (t *Table) from(kind Kind) asm.Instructions {
	mine := asm.Instructions{
		asm.LoadMem(asm.R8, asm.R0, entryDevice, asm.Word),
		asm.JNE.Reg(asm.R8, asm.R7, "kernel"),
	}
	switch kind {
	case Translated:
		return slices.Concat(
			asm.Instructions{asm.StoreMem(asm.RFP, keySource, asm.R7, asm.Word)},
			lookup(t.sources, keySource, "drop"),
			packet.Translate("source", keySrc, 0, packet.V4Src, packet.V6Src),
		)
	case Waiting:
		return nil // the slow path has looked at it
	case Uplink: // the host itself, or what arrive has let in from another host
		return slices.Concat(
			t.remotes.keep(),
			asm.Instructions{
				asm.LoadMem(asm.R8, asm.R6, skbMark, asm.Word),
				asm.Mov.Imm(asm.R1, 0),
				asm.StoreMem(asm.R6, skbMark, asm.R1, asm.Word),
				asm.StoreMem(asm.RFP, stackHost, asm.R8, asm.Word),
			},
			lookup(t.endpoints, keySrc, "other host"),
			mine,
			asm.Instructions{
				asm.Ja.Label("known"),
				asm.LoadMem(asm.R8, asm.RFP, stackHost, asm.Word).WithSymbol("other host"),
				asm.JNE.Imm(asm.R8, arrived, "kernel"),
				asm.Mov.Reg(asm.R6, asm.R6).WithSymbol("known"),
			},
		)
	case Plain:
	}
	return append(lookup(t.endpoints, keySrc, "kernel"), mine...)
}

// egress assembles what a translated device does with a packet that the kernel's
// routes lead to its endpoint: it translates the destination.
func egress(endpoints *ebpf.Map) asm.Instructions {
	return slices.Concat(
		parse("kernel"),
		lookup(endpoints, keyDst, "kernel"),
		asm.Instructions{
			asm.LoadMem(asm.R8, asm.R0, entryDevice, asm.Word),
			asm.JNE.Reg(asm.R8, asm.R7, "kernel"),
		},
		enter("kernel"),
		verdicts(), packet.Translate4(), packet.Translate6(),
	)
}

// parse fills r6, r7, r9, keySrc and keyDst, or goes to the label unusual with what
// is not IP or too short.
//
// It looks at the packet directly, because a helper that copies costs a plain
// endpoint nearly 1 % of a round trip. An IP header is always in the part of the buffer
// that can be seen so: the kernel makes it there, or has pulled it there to route it.
func parse(unusual string) asm.Instructions {
	bounds := func(length int32) asm.Instructions { // r2 is the packet's start
		return asm.Instructions{
			asm.Mov.Reg(asm.R1, asm.R2),
			asm.Add.Imm(asm.R1, length),
			asm.JGT.Reg(asm.R1, asm.R3, unusual),
		}
	}
	list := append(asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R7, asm.R6, skbIfindex, asm.Word),
		asm.LoadMem(asm.R9, asm.R6, skbProtocol, asm.Word),
		asm.LoadMem(asm.R2, asm.R6, skbData, asm.Word),
		asm.LoadMem(asm.R3, asm.R6, skbDataEnd, asm.Word),
		asm.JEq.Imm(asm.R9, packet.Network16(unix.ETH_P_IPV6), "parse6"),
		asm.JNE.Imm(asm.R9, packet.Network16(unix.ETH_P_IP), unusual),
	}, bounds(packet.EthLen+packet.V4Len)...)
	for _, k := range []struct{ key, at int16 }{{keySrc, packet.V4Src}, {keyDst, packet.V4Dst}} {
		list = append(list,
			asm.StoreImm(asm.RFP, k.key, 0, asm.DWord),
			asm.StoreImm(asm.RFP, k.key+8, int64(packet.Network32(0xffff)), asm.Word),
			asm.LoadMem(asm.R1, asm.R2, packet.EthLen+k.at, asm.Word),
			asm.StoreMem(asm.RFP, k.key+12, asm.R1, asm.Word),
		)
	}
	list = append(list, asm.Ja.Label("parsed"))
	list = append(list, packet.Label("parse6", bounds(packet.EthLen+packet.V6Len))...)
	for i := range int16(4) { // both addresses, which follow each other
		list = append(list,
			asm.LoadMem(asm.R1, asm.R2, packet.EthLen+packet.V6Src+8*i, asm.DWord),
			asm.StoreMem(asm.RFP, keySrc+8*i, asm.R1, asm.DWord),
		)
	}
	nop := asm.Mov.Reg(asm.R6, asm.R6) // a place for the packet.Label
	return append(list, nop.WithSymbol("parsed"))
}

// lookup leaves a pointer to the value of a key on the stack in r0, or goes to none.
func lookup(m *ebpf.Map, key int32, none string) asm.Instructions {
	return asm.Instructions{
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, key),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, none),
	}
}

// enter translates the destination if the endpoint at r0 has an inside address, or
// goes to the label plain.
func enter(plain string) asm.Instructions {
	return append(asm.Instructions{
		asm.LoadMem(asm.R1, asm.R0, entryTranslated, asm.Word),
		asm.JEq.Imm(asm.R1, 0, plain),
	}, packet.Translate("destination", keyDst, entryInside, packet.V4Dst, packet.V6Dst)...)
}

// verdicts are the ends of a program: a packet that gets here is the kernel's.
func verdicts() asm.Instructions {
	return asm.Instructions{
		asm.Mov.Imm(asm.R0, actUnspec).WithSymbol("kernel"),
		asm.Return(),
		asm.Mov.Imm(asm.R0, actShot).WithSymbol("drop"),
		asm.Return(),
	}
}
