package fastpath

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
)

// arrivalPriority is the place of the filters on underlay devices, which may have filters of
// others. These come first if they have a lower number, as nearly all have; what they decide
// on never gets here.
const arrivalPriority = 7077

const (
	filterName = "snapctl"
	arriveName = "snapctl arrive"
)

// Ends are the programs of one network in the host's namespace.
type Ends struct {
	device int
	leave  map[uint32]*ebpf.Program // by hook: from the fabric, and from the host
	arrive *ebpf.Program
}

// Ends loads the programs for the host's device of a network, whose endpoints have
// addresses of the prefixes; prefix6 may be zero. It returns an error wrapping
// [ErrUnsupported] if the kernel refuses. The caller closes them.
func (r *Remotes) Ends(device int, prefix4, prefix6 netip.Prefix) (*Ends, error) {
	e := &Ends{device: device, leave: make(map[uint32]*ebpf.Program)}
	err := e.load(r, prefix4, prefix6)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("load programs for other hosts: %w: %w", ErrUnsupported, err), e.Close())
	}
	return e, nil
}

func (e *Ends) load(r *Remotes, prefix4, prefix6 netip.Prefix) (err error) {
	if e.leave[netlink.HANDLE_MIN_INGRESS], err = newProgram(r.leave(nil)); err != nil {
		return err
	}
	if e.leave[netlink.HANDLE_MIN_EGRESS], err = newProgram(r.leave(r.own(prefix4, prefix6))); err != nil {
		return err
	}
	e.arrive, err = newProgram(r.arrive(e.device, prefix4, prefix6))
	return err
}

// InstallLeave puts the program on the host's device of the network, for what comes from
// the fabric and what the host sends. h is a handle in the host's namespace.
func (e *Ends) InstallLeave(h *netlink.Handle) error {
	for hook, p := range e.leave {
		if err := put(h, filter(e.device, hook, p)); err != nil {
			return fmt.Errorf("install ways to other hosts: %w: %w", ErrUnsupported, err)
		}
	}
	return nil
}

// RemoveLeave takes it off again.
func (e *Ends) RemoveLeave(h *netlink.Handle) error {
	for hook, p := range e.leave {
		if err := remove(h, filter(e.device, hook, p)); err != nil {
			return err
		}
	}
	return nil
}

// InstallArrive puts the program on an underlay device, beside those of other networks.
func (e *Ends) InstallArrive(h *netlink.Handle, underlay int) error {
	if err := put(h, arrival(underlay, e.device, e.arrive.FD())); err != nil {
		return fmt.Errorf("install ways from other hosts: %w: %w", ErrUnsupported, err)
	}
	return nil
}

// arrival is the filter of a network on an underlay device. Its handle tells the network.
func arrival(underlay, device, program int) *netlink.BpfFilter {
	f := &netlink.BpfFilter{Fd: program, Name: arriveName, DirectAction: true}
	f.FilterAttrs = netlink.FilterAttrs{
		LinkIndex: underlay, Parent: netlink.HANDLE_MIN_INGRESS, Handle: uint32(device), Priority: arrivalPriority,
		Protocol: ethAll,
	}
	return f
}

// Arrivals returns for which networks, by the index of the host's device of each, an
// underlay device has a program.
func Arrivals(h *netlink.Handle, underlay int) (devices []int, err error) {
	all, err := filters(h, underlay, netlink.HANDLE_MIN_INGRESS)
	for _, f := range all {
		if f.Name == arriveName && f.Priority == arrivalPriority {
			devices = append(devices, int(f.Handle))
		}
	}
	return devices, err
}

// RemoveArrive takes a network's program off an underlay device, and with the last filter
// of anybody what the filters hang on (the clsact qdisc). It does nothing if it is not there.
func RemoveArrive(h *netlink.Handle, underlay, device int) error {
	here, err := Arrivals(h, underlay)
	if err != nil || !slices.Contains(here, device) {
		return err
	}
	if err := remove(h, arrival(underlay, device, -1)); err != nil {
		return err
	}
	for _, hook := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		left, err := h.FilterList(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: underlay}}, hook)
		if err != nil || len(left) > 0 {
			return err
		}
	}
	if err := h.QdiscDel(clsact(underlay)); err != nil && !isGone(err) {
		return fmt.Errorf("remove clsact: %w", err)
	}
	return nil
}

// Close drops the handles. Devices keep the programs.
func (e *Ends) Close() error {
	errs := []error{e.arrive.Close()}
	for _, p := range e.leave {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}
