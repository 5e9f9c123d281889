package underlay

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Offsets in struct __sk_buff (include/uapi/linux/bpf.h).
const (
	skbIngressIfindex = 36
	skbIfindex        = 40
)

// Verdicts (include/uapi/linux/pkt_cls.h).
const (
	actUnspec = -1 // go on
	actShot   = 2  // drop
)

// setting is how the programs treat one direction of a port.
type setting struct {
	Cut  uint64 // 1: drop all
	Loss uint64 // frames to drop of 1<<32
	Seed uint64
}

const (
	settingCut  = 0
	settingLoss = 8
	settingSeed = 16
	settingSize = 24
)

// counters is what the programs count in one direction of a port.
type counters struct{ Seen, Dropped uint64 }

const (
	countersSeen    = 0
	countersDropped = 8
	countersSize    = 16
)

// pair is a port of the bridge that a frame comes from, and one that it goes to, by
// the indexes of their devices.
type pair struct{ From, To uint32 }

const pairSize = 8

// The stack of a program.
const (
	keySlot = -4
	keyPair = -16
)

// wholeLoss is a loss of everything.
const wholeLoss = 1 << 32

// faultProgram assembles what a device of the bridge does with the frames of one
// direction, whose settings and counters are in a slot of the maps.
//
//	seen++
//	if the frame goes out, and pairs[where it came in, this device]: drop it
//	if cut: drop it
//	if mix(seed + number of the frame) < loss: drop it
//
// So which frames are lost follows from the seed alone. A frame keeps the device by
// which it came into the namespace while the bridge forwards it (skb_iif, set in
// net/core/dev.c, __netif_receive_skb_core).
func (m *faultMaps) faultProgram(slot uint32, d Direction) asm.Instructions {
	// r6 the frame, r7 its setting, r8 its counters, r9 its number.
	list := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.StoreImm(asm.RFP, keySlot, int64(slot), asm.Word),
	}
	list = append(list, lookup(m.settings, keySlot, "pass")...)
	list = append(list, asm.Mov.Reg(asm.R7, asm.R0))
	list = append(list, lookup(m.counters, keySlot, "pass")...)
	count := asm.StoreXAdd(asm.R8, asm.R9, asm.DWord)
	count.Constant = int64(unix.BPF_ADD | unix.BPF_FETCH)
	list = append(list,
		asm.Mov.Reg(asm.R8, asm.R0),
		asm.Mov.Imm(asm.R9, 1),
		count, // at countersSeen; r9 becomes what was there
	)
	if d == In {
		list = append(list,
			asm.LoadMem(asm.R1, asm.R6, skbIngressIfindex, asm.Word),
			asm.StoreMem(asm.RFP, keyPair, asm.R1, asm.Word),
			asm.LoadMem(asm.R1, asm.R6, skbIfindex, asm.Word),
			asm.StoreMem(asm.RFP, keyPair+4, asm.R1, asm.Word),
		)
		list = append(list, lookup(m.pairs, keyPair, "whole")...)
		list = append(list, asm.Ja.Label("drop"))
	}
	list = append(list,
		asm.LoadMem(asm.R1, asm.R7, settingCut, asm.DWord).WithSymbol("whole"),
		asm.JNE.Imm(asm.R1, 0, "drop"),
		asm.LoadMem(asm.R2, asm.R7, settingLoss, asm.DWord),
		asm.JEq.Imm(asm.R2, 0, "pass"),
		asm.LoadMem(asm.R1, asm.R7, settingSeed, asm.DWord),
		asm.Add.Reg(asm.R1, asm.R9),
	)
	list = append(list, mixing()...)
	return append(list,
		asm.RSh.Imm(asm.R1, 32),
		asm.JLT.Reg(asm.R1, asm.R2, "drop"),

		asm.Mov.Imm(asm.R0, actUnspec).WithSymbol("pass"),
		asm.Return(),

		asm.Mov.Imm(asm.R1, 1).WithSymbol("drop"),
		dropped(),
		asm.Mov.Imm(asm.R0, actShot),
		asm.Return(),
	)
}

func dropped() asm.Instruction {
	add := asm.StoreXAdd(asm.R8, asm.R1, asm.DWord)
	add.Offset = countersDropped
	return add
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

// The constants of mix. Those of 64 bits are negative as Go's constants of int64.
const (
	mixGamma  = 0x9e3779b97f4a7c15
	mixFirst  = 0xbf58476d1ce4e5b9
	mixSecond = 0x94d049bb133111eb
)

// mix turns numbers that follow one another into numbers that look like drawn by
// chance: the finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable
// Pseudorandom Number Generators, 2014).
func mix(x uint64) uint64 {
	x += mixGamma
	x = (x ^ x>>30) * mixFirst
	x = (x ^ x>>27) * mixSecond
	return x ^ x>>31
}

// mixing is mix of r1, in place. It uses r3.
func mixing() asm.Instructions {
	shifted := func(by int32) asm.Instructions {
		return asm.Instructions{
			asm.Mov.Reg(asm.R3, asm.R1),
			asm.RSh.Imm(asm.R3, by),
			asm.Xor.Reg(asm.R1, asm.R3),
		}
	}
	times := func(by uint64) asm.Instructions {
		return asm.Instructions{
			asm.LoadImm(asm.R3, int64(by), asm.DWord),
			asm.Mul.Reg(asm.R1, asm.R3),
		}
	}
	gamma := uint64(mixGamma)
	list := asm.Instructions{
		asm.LoadImm(asm.R3, int64(gamma), asm.DWord),
		asm.Add.Reg(asm.R1, asm.R3),
	}
	list = append(list, shifted(30)...)
	list = append(list, times(mixFirst)...)
	list = append(list, shifted(27)...)
	list = append(list, times(mixSecond)...)
	return append(list, shifted(31)...)
}

// isLost tells whether a program drops the frame of a number, counted from 0.
func (s setting) isLost(number uint64) bool { return mix(s.Seed+number)>>32 < s.Loss }

// install puts the programs of a port on its device of the bridge. The thread is in
// the network's namespace.
func (m *faultMaps) install(number, device int) error {
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: device, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := netlink.QdiscAdd(qdisc); err != nil {
		return fmt.Errorf("add clsact: %w", err)
	}
	for d, hook := range map[Direction]uint32{Out: netlink.HANDLE_MIN_INGRESS, In: netlink.HANDLE_MIN_EGRESS} {
		program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: "faults", Type: ebpf.SchedCLS, Instructions: m.faultProgram(slot(number, d), d), License: "Apache-2.0",
		})
		if err != nil {
			return fmt.Errorf("load program: %w", err)
		}
		err = netlink.FilterReplace(&netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: device, Parent: hook, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL},
			Fd:          program.FD(), Name: "faults", DirectAction: true,
		})
		if err = errors.Join(err, program.Close()); err != nil { // the filter has it
			return fmt.Errorf("add filter: %w", err)
		}
	}
	return nil
}

// slot is where a direction of a port is in the maps.
func slot(number int, d Direction) uint32 { return uint32(2*number) + uint32(d) }
