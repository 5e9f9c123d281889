package tcx_test

import (
	"net"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/go-quicktest/qt"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric/tcx"
	"github.com/snapctl/snapctl/vem/netns"
)

const lo = 1

// within runs a test in a namespace of its own.
func within(t *testing.T, fn func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a network namespace and loads BPF programs")
	}
	if !tcx.Supported() {
		t.Skip("needs Linux 6.6")
	}
	ns, err := netns.New()
	qt.Assert(t, qt.IsNil(err))
	defer ns.Close()
	qt.Assert(t, qt.IsNil(ns.Do(func() error {
		fn()
		return nil
	})))
}

// load loads a program that lets every packet pass.
func load(t *testing.T, name string) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: name, Type: ebpf.SchedCLS, License: "Apache-2.0",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
	})
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { p.Close() })
	return p
}

func id(t *testing.T, p *ebpf.Program) ebpf.ProgramID {
	t.Helper()
	info, err := p.Info()
	qt.Assert(t, qt.IsNil(err))
	number, _ := info.ID()
	return number
}

func check(t *testing.T, hook tcx.Hook, want ...*ebpf.Program) {
	t.Helper()
	list, err := tcx.List(lo, hook)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(list, len(want)))
	for i, p := range want {
		qt.Check(t, qt.Equals(list[i].ID, id(t, p)))
	}
}

// A program takes the place of that of its name, and leaves all others alone.
func TestPut(t *testing.T) {
	within(t, func() {
		first, other, next := load(t, "ours"), load(t, "other"), load(t, "ours")
		for range 2 {
			qt.Assert(t, qt.IsNil(tcx.Put(lo, tcx.Ingress, first)))
		}
		qt.Assert(t, qt.IsNil(tcx.Put(lo, tcx.Ingress, other)))
		check(t, tcx.Ingress, first, other)
		for range 2 {
			qt.Assert(t, qt.IsNil(tcx.Put(lo, tcx.Ingress, next)))
			check(t, tcx.Ingress, next, other)
		}
		check(t, tcx.Egress)
		qt.Assert(t, qt.IsNil(tcx.Put(lo, tcx.Egress, first)))
		for range 2 {
			qt.Assert(t, qt.IsNil(tcx.Remove(lo, tcx.Ingress, "ours")))
			check(t, tcx.Ingress, other)
		}
		check(t, tcx.Egress, first)
	})
}

// What is not there has no programs, and takes none.
func TestNoDevice(t *testing.T) {
	within(t, func() {
		list, err := tcx.List(77, tcx.Ingress)
		qt.Check(t, qt.IsNil(err))
		qt.Check(t, qt.HasLen(list, 0))
		qt.Check(t, qt.IsNil(tcx.Remove(77, tcx.Egress, "ours")))
		qt.Check(t, qt.ErrorMatches(tcx.Put(77, tcx.Ingress, load(t, "ours")), "attach program ours to device 77: .*"))
	})
}

// Nothing that anybody sends over a device is lost while our filters and programs come and go there.
func TestNothingIsLost(t *testing.T) {
	within(t, func() {
		nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		qt.Assert(t, qt.IsNil(err))
		defer nl.Close()
		qt.Assert(t, qt.IsNil(nl.LinkSetUp(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: lo}})))
		n := tcx.Net{NL: nl, Do: func(fn func() error) error { return fn() }}
		f := &netlink.BpfFilter{Name: "ours", DirectAction: true, FilterAttrs: netlink.FilterAttrs{
			LinkIndex: lo, Parent: netlink.HANDLE_MIN_EGRESS, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL,
		}}
		put := func(supported bool) {
			with := tcx.Supported
			tcx.Supported = func() bool { return supported }
			defer func() { tcx.Supported = with }()
			qt.Assert(t, qt.IsNil(n.Put(f, load(t, "ours"))))
		}
		put(false) // the first filter is there before the traffic is
		r, err := net.ListenPacket("udp4", "127.0.0.1:0")
		qt.Assert(t, qt.IsNil(err))
		defer r.Close()
		s, err := net.Dial("udp4", r.LocalAddr().String())
		qt.Assert(t, qt.IsNil(err))
		defer s.Close()
		stop, done := make(chan struct{}), make(chan error)
		go func() { done <- oneByOne(s, r, stop) }()
		for range 20 {
			put(true)
			put(false)
			put(true)
			qt.Check(t, qt.IsNil(n.Remove(f, "ours")))
			put(false)
			qt.Check(t, qt.IsNil(n.Remove(f, "ours")))
		}
		close(stop)
		qt.Check(t, qt.IsNil(<-done))
	})
}

// oneByOne sends datagrams from s to r, each when the one before has arrived.
func oneByOne(s net.Conn, r net.PacketConn, stop <-chan struct{}) error {
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		if _, err := s.Write([]byte("x")); err != nil {
			return err
		}
		if err := r.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return err
		}
		if _, _, err := r.ReadFrom(make([]byte, 1)); err != nil {
			return err
		}
	}
}
