package fastpath

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric/tcx"
)

const ethAll = unix.ETH_P_ALL

// Install puts the programs of a kind on a device of the fabric, n, in place of those that were
// there, of whatever kind and table.
func (t *Table) Install(n tcx.Net, device int, kind Kind) error {
	if err := t.install(n, device, kind); err != nil {
		return fmt.Errorf("install fast path: %w: %w", ErrUnsupported, err)
	}
	return nil
}

func (t *Table) install(n tcx.Net, device int, kind Kind) error {
	if err := n.Put(filter(device, netlink.HANDLE_MIN_INGRESS), t.programs[kind]); err != nil {
		return err
	}
	out := filter(device, netlink.HANDLE_MIN_EGRESS)
	if kind == Translated {
		return n.Put(out, t.egress)
	}
	return n.Remove(out, programName)
}

// installed returns the program that put has left at the ingress of a device of the fabric, or nil.
func installed(n tcx.Net, device int) (*ebpf.Program, error) {
	programs, err := n.Programs(device)
	if err != nil {
		return nil, err
	}
	for _, p := range programs {
		if p.Name == programName {
			return tcx.Open(p.ID)
		}
	}
	list, err := n.Filters(device)
	if err != nil {
		return nil, err
	}
	for _, f := range list {
		if f.Name == filterName && f.Handle == 1 {
			return tcx.Open(ebpf.ProgramID(f.Id))
		}
	}
	return nil, nil
}

// filter is the one of a device of the fabric, or of the host's device of a network.
func filter(device int, hook uint32) *netlink.BpfFilter {
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: device, Parent: hook, Handle: 1, Priority: 1, Protocol: ethAll,
		},
		Fd: -1, Name: filterName, DirectAction: true,
	}
}
