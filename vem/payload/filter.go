// Package payload makes filters for packet sockets. A filter lets packets with payload pass,
// and drops handshakes, acknowledgements and keepalives, which ask nothing of an app.
package payload

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Filter says which packets pass. Zero: incoming TCP segments with payload, from
// everybody.
//
// Fragments of TCP segments pass; segments behind IPv6 extension headers do not.
type Filter struct {
	// Ignore are addresses of the other side whose packets do not pass.
	Ignore []netip.Prefix
	// UDP lets datagrams pass too, in the directions that Outgoing says.
	UDP Direction
}

// Direction says which datagrams pass.
type Direction int

// The directions.
const (
	Nowhere Direction = iota // none
	In                       // those that come in
	Both                     // and those that go out
)

// ErrTooLong says that a filter would be longer than the kernel takes
// (BPF_MAXINSNS).
var ErrTooLong = errors.New("too many addresses for a packet filter")

const maxInstructions = 4096

// Attach sets the filter of a packet socket that is SOCK_DGRAM, so that offsets count
// from the IP header (packet(7)). It returns an error wrapping [ErrTooLong] if the
// filter ignores too much.
func (f Filter) Attach(fd int) error {
	program, err := bpf.Assemble(f.program())
	if err != nil {
		return fmt.Errorf("assemble packet filter: %w", err)
	}
	if len(program) > maxInstructions {
		return fmt.Errorf("make packet filter: %w", ErrTooLong)
	}
	raw := make([]unix.SockFilter, len(program))
	for i, r := range program {
		raw[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	fprog := unix.SockFprog{Len: uint16(len(raw)), Filter: &raw[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &fprog); err != nil {
		return fmt.Errorf("attach packet filter: %w", err)
	}
	return nil
}

const outgoing = 4 // PACKET_OUTGOING of linux/if_packet.h

// The verdicts: how many bytes of the packet the socket gets.
var (
	drop = bpf.RetConstant{Val: 0}
	pass = bpf.RetConstant{Val: 1}
)

func (f Filter) program() []bpf.Instruction {
	in := f.versions(false)
	p := []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: outgoing, SkipTrue: 1},
		bpf.Jump{Skip: uint32(len(in))},
	}
	p = append(p, in...)
	if f.UDP != Both {
		return append(p, drop)
	}
	return append(p, f.versions(true)...)
}

// versions judges IPv4 and IPv6 packets of one direction.
func (f Filter) versions(out bool) []bpf.Instruction {
	four, six := f.judge4(out), f.judge6(out)
	p := []bpf.Instruction{
		bpf.LoadAbsolute{Off: 0, Size: 1},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xf0},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x40, SkipTrue: 1},
		bpf.Jump{Skip: uint32(len(four))},
	}
	p = append(p, four...)
	p = append(p, bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x60, SkipTrue: 1}, drop)
	return append(p, six...)
}

// protocols goes on at the end for what has payload, with the protocol in the
// register; tcp judges a segment, and ends there if it has payload.
func (f Filter) protocols(out bool, tcp []bpf.Instruction) []bpf.Instruction {
	var p []bpf.Instruction
	if f.UDP == Both || f.UDP == In && !out {
		past := len(tcp) + 2
		if out {
			past = 1
		}
		p = append(p, bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_UDP, SkipTrue: uint8(past)})
	}
	if out { // the app's own segments: its sockets tell what it has sent
		return append(p, drop)
	}
	p = append(p, bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_TCP, SkipTrue: 1}, drop)
	return append(p, tcp...)
}

func (f Filter) judge4(out bool) []bpf.Instruction {
	p := []bpf.Instruction{bpf.LoadAbsolute{Off: 9, Size: 1}}
	p = append(p, f.protocols(out, []bpf.Instruction{
		bpf.LoadAbsolute{Off: 6, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: 10}, // a fragment: to the end
		bpf.LoadMemShift{Off: 0},                                     // X = length of the IP header
		bpf.LoadIndirect{Off: 12, Size: 1},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xf0},
		bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 2},
		bpf.ALUOpX{Op: bpf.ALUOpAdd},
		bpf.TAX{}, // X = length of both headers
		bpf.LoadAbsolute{Off: 2, Size: 2},
		bpf.JumpIfX{Cond: bpf.JumpGreaterThan, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 1}, // BIG TCP has no length here
		drop,
	})...)
	at := uint32(12) // the sender
	if out {
		at = 16
	}
	for _, prefix := range f.Ignore {
		if prefix.Addr().Is4() {
			p = append(p, ignore(prefix, at)...)
		}
	}
	return append(p, pass)
}

func (f Filter) judge6(out bool) []bpf.Instruction {
	p := []bpf.Instruction{bpf.LoadAbsolute{Off: 6, Size: 1}}
	p = append(p, f.protocols(out, []bpf.Instruction{
		bpf.LoadAbsolute{Off: 40 + 12, Size: 1},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xf0},
		bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 2},
		bpf.TAX{}, // X = length of the TCP header
		bpf.LoadAbsolute{Off: 4, Size: 2},
		bpf.JumpIfX{Cond: bpf.JumpGreaterThan, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 1}, // BIG TCP
		drop,
	})...)
	at := uint32(8)
	if out {
		at = 24
	}
	for _, prefix := range f.Ignore {
		if prefix.Addr().Is6() {
			p = append(p, ignore(prefix, at)...)
		}
	}
	return append(p, pass)
}

// ignore drops packets whose address at an offset is in the prefix.
func ignore(prefix netip.Prefix, at uint32) []bpf.Instruction {
	prefix = prefix.Masked()
	addr := prefix.Addr().AsSlice()
	count := (prefix.Bits() + 31) / 32
	var p []bpf.Instruction
	for word := range count {
		i, bits := 4*word, prefix.Bits()-32*word
		mask := ^uint32(0)
		if bits < 32 {
			mask <<= 32 - bits
		}
		value := uint32(addr[i])<<24 | uint32(addr[i+1])<<16 | uint32(addr[i+2])<<8 | uint32(addr[i+3])
		p = append(p,
			bpf.LoadAbsolute{Off: at + uint32(i), Size: 4},
			bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: mask},
			// To the end, past the words that are left and the drop.
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: value, SkipTrue: uint8(3*(count-word-1) + 1)},
		)
	}
	return append(p, drop)
}
