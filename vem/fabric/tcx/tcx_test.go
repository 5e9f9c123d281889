package tcx_test

import (
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/go-quicktest/qt"

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
