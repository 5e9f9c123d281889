package tcx

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/netlist"
)

// Net is a network namespace with devices to which programs are attached: as filters of tc where the
// kernel has no tcx hooks.
type Net struct {
	NL *netlink.Handle          // a handle in it
	Do func(func() error) error // runs a function in it
}

// Put attaches a program to a device, in place of the one that is there: as a filter of tc, where
// the kernel has nothing better. f says which filter that is. The first filter of a device loses
// packets that are being sent there (see removeFilter), so a device whose traffic is our own gets it
// before it is up.
func (n Net) Put(f *netlink.BpfFilter, p *ebpf.Program) error {
	if Supported() {
		if err := n.Do(func() error { return Put(f.LinkIndex, hookOf(f), p) }); err != nil {
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

// Remove takes a program off a device, by its name or its filter; nil if it is not there.
func (n Net) Remove(f *netlink.BpfFilter, name string) error {
	err := n.Do(func() error { return Remove(f.LinkIndex, hookOf(f), name) })
	return errors.Join(err, n.removeFilter(f))
}

// removeFilter takes a filter off a device; nil if it is not there. What filters hang on (the clsact
// qdisc) stays: the kernel stops a device while it gets or loses one, and drops without an error what
// anybody sends there meanwhile (net/sched/sch_api.c, qdisc_graft: dev_deactivate). An empty one does
// nothing. See findings/linux-clsact-drops.sh.
func (n Net) removeFilter(f *netlink.BpfFilter) error {
	if err := n.NL.FilterDel(f); err != nil && !isGone(err) {
		return fmt.Errorf("remove filter %s: %w", f.Name, err)
	}
	return nil
}

func hookOf(f *netlink.BpfFilter) Hook {
	if f.Parent == netlink.HANDLE_MIN_EGRESS {
		return Egress
	}
	return Ingress
}

// isGone tells whether there was nothing to remove: ENOENT, or EINVAL where there is no
// filter at all (net/sched/cls_api.c), or ENODEV where there is no device.
func isGone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV)
}

// Programs lists what is attached to the ingress of a device as tcx does.
func (n Net) Programs(device int) (list []Program, err error) {
	err = n.Do(func() (err error) {
		list, err = List(device, Ingress)
		return err
	})
	return list, err
}

// Filters lists the BPF filters at the ingress of a device.
func (n Net) Filters(device int) (list []*netlink.BpfFilter, err error) {
	all, err := netlist.Filters(n.NL, &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: device}}, netlink.HANDLE_MIN_INGRESS)
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

// Open opens a program of an earlier run; nil if it was replaced meanwhile.
func Open(id ebpf.ProgramID) (*ebpf.Program, error) {
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
