// Package tcx attaches BPF programs to devices at the hooks of Linux 6.6 that replace tc's filters
// for that. They cost less: tc's classifier takes some 4 % of a round trip between apps of two
// hosts, at the eight programs that it passes.
//
// A program is known by its name, so each that is attached to one side of a device has another one.
// It is attached by BPF_PROG_ATTACH and not by a link: it stays when this process ends, and goes
// with the device.
//
// A device is one of the calling thread's network namespace, since the kernel looks it up there
// (kernel/bpf/tcx.c, tcx_prog_attach).
//
// Needs CAP_NET_ADMIN and CAP_SYS_ADMIN (programs are opened by their numbers).
package tcx

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Hook is a side of a device.
type Hook ebpf.AttachType

const (
	// Ingress programs see what comes in.
	Ingress = Hook(ebpf.AttachTCXIngress)
	// Egress programs see what leaves.
	Egress = Hook(ebpf.AttachTCXEgress)
)

// loopback has the same number in every namespace (net/core/dev.c, LOOPBACK_IFINDEX).
const loopback = 1

// Supported tells whether the kernel has these hooks. It asks once.
var Supported = sync.OnceValue(func() bool {
	_, err := link.QueryPrograms(link.QueryOptions{Target: loopback, Attach: ebpf.AttachTCXIngress})
	return err == nil
})

// Program is one that is attached.
type Program struct {
	ID   ebpf.ProgramID
	Name string
}

// List returns the programs of a device, in the order in which they see packets. It returns none
// where the kernel has no such hooks, or there is no such device.
func List(device int, hook Hook) ([]Program, error) {
	if !Supported() {
		return nil, nil
	}
	found, err := link.QueryPrograms(link.QueryOptions{Target: device, Attach: ebpf.AttachType(hook)})
	if errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list programs of device %d: %w", device, err)
	}
	var list []Program
	for _, p := range found.Programs {
		name, err := nameOf(p.ID)
		if errors.Is(err, unix.ENOENT) { // taken off meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, Program{p.ID, name})
	}
	return list, nil
}

func nameOf(id ebpf.ProgramID) (string, error) {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return "", fmt.Errorf("open program %d: %w", id, err)
	}
	defer p.Close() //nolint:errcheck // a handle
	info, err := p.Info()
	if err != nil {
		return "", fmt.Errorf("look at program %d: %w", id, err)
	}
	return info.Name, nil
}

// Put attaches a program in the place of those of its name, or as the last one if there is none.
// No packet passes without one of them. For a moment a packet that the new one lets pass is seen by
// the old one as well.
func Put(device int, hook Hook, p *ebpf.Program) error {
	info, err := p.Info()
	if err != nil {
		return fmt.Errorf("look at program: %w", err)
	}
	id, _ := info.ID()
	before, err := named(device, hook, info.Name)
	if err != nil {
		return err
	}
	at := link.Tail()
	if len(before) > 0 {
		at = link.BeforeProgramByID(before[0])
	}
	there := false
	for _, old := range before {
		there = there || old == id
	}
	if !there {
		err := link.RawAttachProgram(link.RawAttachProgramOptions{Target: device, Program: p, Attach: ebpf.AttachType(hook), Anchor: at})
		if err != nil {
			return fmt.Errorf("attach program %s to device %d: %w", info.Name, device, err)
		}
	}
	for _, old := range before {
		if old == id {
			continue
		}
		if err := detach(device, hook, old); err != nil {
			return err
		}
	}
	return nil
}

// Remove takes the programs of a name off a device. It does nothing if there is none, or no such
// device.
func Remove(device int, hook Hook, name string) error {
	list, err := named(device, hook, name)
	if err != nil {
		return err
	}
	for _, id := range list {
		if err := detach(device, hook, id); err != nil {
			return err
		}
	}
	return nil
}

func named(device int, hook Hook, name string) (ids []ebpf.ProgramID, err error) {
	list, err := List(device, hook)
	for _, p := range list {
		if p.Name == name {
			ids = append(ids, p.ID)
		}
	}
	return ids, err
}

// detach takes a program off; nil if it is not there any more.
func detach(device int, hook Hook, id ebpf.ProgramID) error {
	p, err := ebpf.NewProgramFromID(id)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open program %d: %w", id, err)
	}
	defer p.Close() //nolint:errcheck // a handle
	err = link.RawDetachProgram(link.RawDetachProgramOptions{Target: device, Program: p, Attach: ebpf.AttachType(hook)})
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("take program %d off device %d: %w", id, device, err)
	}
	return nil
}
