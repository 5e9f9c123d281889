package fastpath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const ethAll = unix.ETH_P_ALL

// Install puts the programs of a kind on a device, in place of those that were
// there, of whatever kind and table. h is a handle in the device's namespace.
func (t *Table) Install(h *netlink.Handle, device int, kind Kind) error {
	if err := t.install(h, device, kind); err != nil {
		return fmt.Errorf("install fast path: %w: %w", ErrUnsupported, err)
	}
	return nil
}

func (t *Table) install(h *netlink.Handle, device int, kind Kind) error {
	if err := put(h, filter(device, netlink.HANDLE_MIN_INGRESS, t.programs[kind])); err != nil {
		return err
	}
	out := filter(device, netlink.HANDLE_MIN_EGRESS, t.egress)
	if kind == Translated {
		return put(h, out)
	}
	return remove(h, out)
}

// put adds a filter to a device, or replaces the one that has its place there.
func put(h *netlink.Handle, f *netlink.BpfFilter) error {
	qdisc := clsact(f.LinkIndex)
	if err := h.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact: %w", err)
	}
	if err := h.FilterReplace(f); err != nil {
		return fmt.Errorf("add filter %s: %w", f.Name, err)
	}
	return nil
}

// remove takes a filter off a device; nil if it is not there.
func remove(h *netlink.Handle, f *netlink.BpfFilter) error {
	if err := h.FilterDel(f); err != nil && !isGone(err) {
		return fmt.Errorf("remove filter %s: %w", f.Name, err)
	}
	return nil
}

// isGone tells whether there was nothing to remove: ENOENT, or EINVAL where there is no
// filter at all (net/sched/cls_api.c), or ENODEV where there is no device.
func isGone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV)
}

// filters lists the BPF filters of a device.
func filters(h *netlink.Handle, device int, hook uint32) (list []*netlink.BpfFilter, err error) {
	all, err := h.FilterList(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: device}}, hook)
	if err != nil && !isGone(err) {
		return nil, fmt.Errorf("list filters: %w", err)
	}
	for _, f := range all {
		if b, ok := f.(*netlink.BpfFilter); ok {
			list = append(list, b)
		}
	}
	return list, nil
}

// installed returns the program that put has left on a device of the fabric, or nil.
func installed(h *netlink.Handle, device int, hook uint32) (*ebpf.Program, error) {
	list, err := filters(h, device, hook)
	if err != nil {
		return nil, err
	}
	for _, f := range list {
		if f.Name != filterName || f.Handle != 1 {
			continue
		}
		p, err := ebpf.NewProgramFromID(ebpf.ProgramID(f.Id))
		if errors.Is(err, unix.ENOENT) { // replaced meanwhile
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("open program of an earlier run: %w", err)
		}
		return p, nil
	}
	return nil, nil
}

func clsact(device int) *netlink.Clsact {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: device, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
}

func filter(device int, hook uint32, program *ebpf.Program) *netlink.BpfFilter {
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: device, Parent: hook, Handle: 1, Priority: 1, Protocol: ethAll,
		},
		Fd: program.FD(), Name: filterName, DirectAction: true,
	}
}
