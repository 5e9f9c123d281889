package fastpath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric/tcx"
)

const ethAll = unix.ETH_P_ALL

// Net is a network namespace.
type Net struct {
	NL *netlink.Handle          // a handle in it
	Do func(func() error) error // runs a function in it
}

// Install puts the programs of a kind on a device of the fabric, n, in place of those that were
// there, of whatever kind and table.
func (t *Table) Install(n Net, device int, kind Kind) error {
	if err := t.install(n, device, kind); err != nil {
		return fmt.Errorf("install fast path: %w: %w", ErrUnsupported, err)
	}
	return nil
}

func (t *Table) install(n Net, device int, kind Kind) error {
	if err := n.put(filter(device, netlink.HANDLE_MIN_INGRESS), t.programs[kind]); err != nil {
		return err
	}
	out := filter(device, netlink.HANDLE_MIN_EGRESS)
	if kind == Translated {
		return n.put(out, t.egress)
	}
	return n.remove(out, programName)
}

// put attaches a program to a device, in place of the one that is there: as a filter of tc, where
// the kernel has nothing better. f says which filter that is.
func (n Net) put(f *netlink.BpfFilter, p *ebpf.Program) error {
	if tcx.Supported() {
		if err := n.Do(func() error { return tcx.Put(f.LinkIndex, hookOf(f), p) }); err != nil {
			return err
		}
		return n.removeFilter(f) // an earlier release has made filters everywhere
	}
	qdisc := clsact(f.LinkIndex)
	if err := n.NL.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact: %w", err)
	}
	f.Fd = p.FD()
	if err := n.NL.FilterReplace(f); err != nil {
		return fmt.Errorf("add filter %s: %w", f.Name, err)
	}
	return nil
}

// remove takes a program off a device, by its name or its filter; nil if it is not there.
func (n Net) remove(f *netlink.BpfFilter, name string) error {
	err := n.Do(func() error { return tcx.Remove(f.LinkIndex, hookOf(f), name) })
	return errors.Join(err, n.removeFilter(f))
}

// removeFilter takes a filter off a device, and with the last filter of anybody what the filters
// hang on (the clsact qdisc).
func (n Net) removeFilter(f *netlink.BpfFilter) error {
	err := n.NL.FilterDel(f)
	if isGone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove filter %s: %w", f.Name, err)
	}
	for _, hook := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		left, err := n.NL.FilterList(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: f.LinkIndex}}, hook)
		if err != nil || len(left) > 0 {
			return err
		}
	}
	if err := n.NL.QdiscDel(clsact(f.LinkIndex)); err != nil && !isGone(err) {
		return fmt.Errorf("remove clsact: %w", err)
	}
	return nil
}

func hookOf(f *netlink.BpfFilter) tcx.Hook {
	if f.Parent == netlink.HANDLE_MIN_EGRESS {
		return tcx.Egress
	}
	return tcx.Ingress
}

// isGone tells whether there was nothing to remove: ENOENT, or EINVAL where there is no
// filter at all (net/sched/cls_api.c), or ENODEV where there is no device.
func isGone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV)
}

// programs lists what is attached to the ingress of a device as tcx does.
func (n Net) programs(device int) (list []tcx.Program, err error) {
	err = n.Do(func() (err error) {
		list, err = tcx.List(device, tcx.Ingress)
		return err
	})
	return list, err
}

// filters lists the BPF filters at the ingress of a device.
func (n Net) filters(device int) (list []*netlink.BpfFilter, err error) {
	all, err := n.NL.FilterList(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: device}}, netlink.HANDLE_MIN_INGRESS)
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

// installed returns the program that put has left at the ingress of a device of the fabric, or nil.
func (n Net) installed(device int) (*ebpf.Program, error) {
	programs, err := n.programs(device)
	if err != nil {
		return nil, err
	}
	for _, p := range programs {
		if p.Name == programName {
			return open(p.ID)
		}
	}
	list, err := n.filters(device)
	if err != nil {
		return nil, err
	}
	for _, f := range list {
		if f.Name == filterName && f.Handle == 1 {
			return open(ebpf.ProgramID(f.Id))
		}
	}
	return nil, nil
}

// open opens a program of an earlier run; nil if it was replaced meanwhile.
func open(id ebpf.ProgramID) (*ebpf.Program, error) {
	p, err := ebpf.NewProgramFromID(id)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open program of an earlier run: %w", err)
	}
	return p, nil
}

func clsact(device int) *netlink.Clsact {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: device, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
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
