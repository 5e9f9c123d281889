package fastpath

import (
	"fmt"

	"github.com/cilium/ebpf/asm"

	"github.com/snapctl/snapctl/vem/fabric/fastpath/packet"
)

// Traffic is what went one way. A segment that is not split yet (GSO) counts as one packet.
type Traffic struct {
	Packets uint64
	Bytes   uint64 // of endpoints' packets, with their IP headers
	Last    uint64 // CLOCK_MONOTONIC in ns, some milliseconds exact (5.11: bpf_ktime_get_coarse_ns); 0: never
}

// tally is what one CPU has counted of a host.
type tally struct{ Sent, Received Traffic }

const (
	tallySent     = 0
	tallyReceived = 24
	tallySize     = 48
)

// dropReason is why a program dropped a packet.
type dropReason uint32

const (
	dropStranger  dropReason = iota // an outer source that is no known host
	dropRefused                     // a module that is not accepted from the host
	dropCongested                   // marked as having met congestion, but its sender can't be told (RFC 6040)
	dropFailed                      // the kernel could not put the outer header on or off
	dropReasons
)

// label returns where a program goes to drop a packet for a reason.
func (r dropReason) label() string { return fmt.Sprintf("drop %d", r) }

// Drops counts packets that programs dropped.
type Drops struct {
	Stranger  uint64 // tunnelled to an endpoint here by no known host
	Refused   uint64 // came from a known host in a way that is not accepted from it
	Congested uint64 // met congestion on a way that can't tell its sender (RFC 6040, 4.2)
	Failed    uint64 // an outer header could not be put on or taken off
}

// Counted returns what a host was sent and sent.
func (r *Remotes) Counted(host int) (sent, received Traffic, err error) {
	var all []tally
	if err := r.counters.Lookup(uint32(host), &all); err != nil {
		return sent, received, fmt.Errorf("read counters of host %d: %w", host, err)
	}
	for _, t := range all {
		sent.add(t.Sent)
		received.add(t.Received)
	}
	return sent, received, nil
}

func (t *Traffic) add(other Traffic) {
	t.Packets += other.Packets
	t.Bytes += other.Bytes
	t.Last = max(t.Last, other.Last)
}

// Dropped returns what was dropped since the maps were made.
func (r *Remotes) Dropped() (Drops, error) {
	var d Drops
	for reason, count := range map[dropReason]*uint64{
		dropStranger: &d.Stranger, dropRefused: &d.Refused, dropCongested: &d.Congested, dropFailed: &d.Failed,
	} {
		var all []uint64
		if err := r.drops.Lookup(uint32(reason), &all); err != nil {
			return d, fmt.Errorf("read counters of drops: %w", err)
		}
		for _, n := range all {
			*count += n
		}
	}
	return d, nil
}

// count assembles the counting of a packet of the host whose number is on the stack. r7 is
// the length of the packet, and one way's Traffic is at an offset in the tally.
func (r *Remotes) count(host, traffic int16, next string) asm.Instructions {
	add := func(at int16, amount asm.Instruction) asm.Instructions {
		return asm.Instructions{
			asm.LoadMem(asm.R1, asm.R0, traffic+at, asm.DWord),
			amount,
			asm.StoreMem(asm.R0, traffic+at, asm.R1, asm.DWord),
		}
	}
	list := asm.Instructions{
		asm.FnKtimeGetCoarseNs.Call(),
		asm.StoreMem(asm.RFP, stackNow, asm.R0, asm.DWord),
	}
	list = append(list, lookup(r.counters, int32(host), next)...)
	list = append(list, add(0, asm.Add.Imm(asm.R1, 1))...)
	list = append(list, add(8, asm.Add.Reg(asm.R1, asm.R7))...)
	return append(list,
		asm.LoadMem(asm.R1, asm.RFP, stackNow, asm.DWord),
		asm.StoreMem(asm.R0, traffic+16, asm.R1, asm.DWord),
		asm.Mov.Reg(asm.R6, asm.R6).WithSymbol(next),
	)
}

// dropping are the ends of a program that counts what it drops: the reasons' labels.
func (r *Remotes) dropping(reasons ...dropReason) (list asm.Instructions) {
	const reason = stackNow // free by then
	for _, number := range reasons {
		list = append(list,
			asm.StoreImm(asm.RFP, reason, int64(number), asm.Word).WithSymbol(number.label()),
			asm.Ja.Label("count drop"),
		)
	}
	list = append(list, packet.Label("count drop", lookup(r.drops, reason, "drop"))...)
	return append(list,
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
		asm.Ja.Label("drop"),
	)
}
