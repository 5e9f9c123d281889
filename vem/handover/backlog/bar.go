package backlog

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric/tcx"
	"github.com/snapctl/snapctl/vem/netlist"
	"github.com/snapctl/snapctl/vem/netns"
)

// Bar has no new TCP client get into a network namespace: the first packet of a handshake is
// dropped, and the client sends it again after a second. It goes with its process.
type Bar struct {
	program *ebpf.Program
	links   []link.Link
}

// Lower puts a bar at all devices of a network namespace but the loopback device, which is for
// the app alone. The caller closes it.
func Lower(ns *netns.NS) (_ *Bar, err error) {
	if !tcx.Supported() {
		return nil, errNoTCX
	}
	b := &Bar{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("have no new client come: %w", err), b.Close())
		}
	}()
	b.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{Name: "snapctl_bar", Type: ebpf.SchedCLS, License: "GPL", Instructions: barred()})
	if err != nil {
		return nil, err
	}
	return b, ns.Do(b.attach)
}

func (b *Bar) attach() error {
	devices, err := netlist.Links(netlist.Here())
	if err != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	for _, d := range devices {
		if d.Attrs().Index == loopback {
			continue
		}
		l, err := link.AttachTCX(link.TCXOptions{Interface: d.Attrs().Index, Program: b.program, Attach: ebpf.AttachTCXIngress, Anchor: link.Head()})
		if err != nil {
			return fmt.Errorf("attach to device %s: %w", d.Attrs().Name, err)
		}
		b.links = append(b.links, l)
	}
	return nil
}

// Close lets clients in. Closing nil, and again, does nothing.
func (b *Bar) Close() error {
	if b == nil || b.program == nil {
		return nil
	}
	var errs []error
	for _, l := range b.links {
		errs = append(errs, l.Close())
	}
	err := errors.Join(append(errs, b.program.Close())...)
	b.program, b.links = nil, nil
	return err
}

// barred assembles what a device does with what comes in: it drops segments of TCP that have
// SYN and not ACK. r6 is the packet, r7 where its header of TCP is.
func barred() asm.Instructions {
	const (
		drop     = 2 // TC_ACT_SHOT
		protocol = 9 // in a header of IPv4
		next     = 6 // in one of IPv6
		flags    = 13
		synAck   = 0x12
		syn      = 0x02
	)
	// load puts a byte of the packet into r0: that at r7, if the place is -1.
	load := func(at int32) asm.Instructions {
		where := asm.Mov.Imm(asm.R2, at)
		if at < 0 {
			where = asm.Mov.Reg(asm.R2, asm.R7)
		}
		return asm.Instructions{
			asm.Mov.Reg(asm.R1, asm.R6), where,
			asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, -8),
			asm.Mov.Imm(asm.R4, 1), asm.Mov.Imm(asm.R5, 1), // a byte, after BPF_HDR_START_NET
			asm.FnSkbLoadBytesRelative.Call(),
			asm.JNE.Imm(asm.R0, 0, "go on"),
			asm.LoadMem(asm.R0, asm.RFP, -8, asm.Byte),
		}
	}
	six := load(next)
	six[0] = six[0].WithSymbol("six")
	last := load(-1)
	last[0] = last[0].WithSymbol("flags")
	return slices.Concat(
		asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1),
			asm.LoadMem(asm.R1, asm.R6, skbProtocol, asm.Word),
			asm.JEq.Imm(asm.R1, int32(bigEndian(unix.ETH_P_IPV6)), "six"),
			asm.JNE.Imm(asm.R1, int32(bigEndian(unix.ETH_P_IP)), "go on"),
		},
		load(protocol),
		asm.Instructions{asm.JNE.Imm(asm.R0, unix.IPPROTO_TCP, "go on")},
		load(0),
		asm.Instructions{
			asm.And.Imm(asm.R0, 0xf), asm.LSh.Imm(asm.R0, 2),
			asm.Mov.Reg(asm.R7, asm.R0), asm.Add.Imm(asm.R7, flags),
			asm.Ja.Label("flags"),
		},
		six,
		asm.Instructions{
			asm.JNE.Imm(asm.R0, unix.IPPROTO_TCP, "go on"),
			asm.Mov.Imm(asm.R7, 40+flags),
		},
		last,
		asm.Instructions{
			asm.And.Imm(asm.R0, synAck),
			asm.JNE.Imm(asm.R0, syn, "go on"),
			asm.Mov.Imm(asm.R0, drop),
			asm.Return(),
			asm.Mov.Imm(asm.R0, goOn).WithSymbol("go on"),
			asm.Return(),
		},
	)
}
