package hold

import (
	"fmt"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// tap is a packet socket in the app's network namespace that becomes readable
// when a TCP segment with payload comes in. It is only a hint to look at the
// sockets: the packets themselves are not read, and some may be missed.
//
// Needs CAP_NET_RAW in the namespace.
type tap struct{ fd int }

// openTap starts the tap, if there is a namespace to run it in, and an IP
// listener to run it for.
func (w *Watcher) openTap() error {
	if w.tap != nil || w.ns == nil {
		return nil
	}
	useful := false
	for i := range w.queues.waiting {
		useful = useful || w.set.Sockets[i].Kind == TCPListen
	}
	if !useful {
		return nil
	}
	t := &tap{fd: -1}
	if err := w.ns.Do(t.open); err != nil {
		return fmt.Errorf("open packet tap: %w", err)
	}
	if err := w.add(t.fd, tapIndex, unix.EPOLLIN|unix.EPOLLET); err != nil {
		t.close()
		return fmt.Errorf("watch packet tap: %w", err)
	}
	w.tap = t
	return nil
}

func (w *Watcher) closeTap() {
	if w.tap != nil {
		w.tap.close()
		w.tap = nil
	}
}

// open makes the socket in the calling thread's namespace. It is bound to a
// protocol only once its filter is there.
func (t *tap) open() (err error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			unix.Close(fd) //nolint:errcheck // the first error counts
		}
	}()
	program, err := payloadFilter()
	if err != nil {
		return err
	}
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &fprog); err != nil {
		return fmt.Errorf("attach filter: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_ALL)}); err != nil {
		return err
	}
	t.fd = fd
	return nil
}

func bigEndian(v uint16) uint16 { return v<<8 | v>>8 }

func (t *tap) close() { unix.Close(t.fd) } //nolint:errcheck // nothing was written

// drain forgets the packets seen so far.
func (t *tap) drain() {
	var b [1]byte
	for {
		if _, _, err := unix.Recvfrom(t.fd, b[:], unix.MSG_DONTWAIT); err != nil {
			return
		}
	}
}

// payloadFilter lets incoming TCP segments with payload through. Offsets count
// from the IP header, since the socket is SOCK_DGRAM (packet(7)). Fragments pass;
// IPv6 extension headers do not: the timer covers them.
func payloadFilter() ([]unix.SockFilter, error) {
	const (
		outgoing = 4 // PACKET_OUTGOING
		tcp      = unix.IPPROTO_TCP
	)
	program := []bpf.Instruction{
		/* 0 */ bpf.LoadExtension{Num: bpf.ExtType},
		/* 1 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: outgoing, SkipTrue: 25}, // drop
		/* 2 */ bpf.LoadAbsolute{Off: 0, Size: 1},
		/* 3 */ bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xf0},
		/* 4 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x60, SkipTrue: 13}, // IPv6
		/* 5 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0x40, SkipTrue: 21}, // drop
		/* 6 */ bpf.LoadAbsolute{Off: 9, Size: 1},
		/* 7 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: tcp, SkipTrue: 19}, // drop
		/* 8 */ bpf.LoadAbsolute{Off: 6, Size: 2},
		/* 9 */ bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: 18}, // a fragment: pass
		/* 10 */ bpf.LoadMemShift{Off: 0}, // X = length of the IP header
		/* 11 */ bpf.LoadIndirect{Off: 12, Size: 1},
		/* 12 */ bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xf0},
		/* 13 */ bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 2},
		/* 14 */ bpf.ALUOpX{Op: bpf.ALUOpAdd},
		/* 15 */ bpf.TAX{}, // X = length of both headers
		/* 16 */ bpf.LoadAbsolute{Off: 2, Size: 2},
		/* 17 */ bpf.Jump{Skip: 7}, // compare
		/* 18 */ bpf.LoadAbsolute{Off: 6, Size: 1}, // IPv6
		/* 19 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: tcp, SkipTrue: 7}, // drop
		/* 20 */ bpf.LoadAbsolute{Off: 40 + 12, Size: 1},
		/* 21 */ bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xf0},
		/* 22 */ bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 2},
		/* 23 */ bpf.TAX{}, // X = length of the TCP header
		/* 24 */ bpf.LoadAbsolute{Off: 4, Size: 2},
		/* 25 compare */ bpf.JumpIfX{Cond: bpf.JumpGreaterThan, SkipTrue: 2}, // pass
		/* 26 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 1}, // BIG TCP: pass
		/* 27 drop */ bpf.RetConstant{Val: 0},
		/* 28 pass */ bpf.RetConstant{Val: 1},
	}
	raw, err := bpf.Assemble(program)
	if err != nil {
		return nil, fmt.Errorf("assemble packet filter: %w", err)
	}
	out := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		out[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return out, nil
}
