package fastpath

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"github.com/snapctl/snapctl/vem/fabric/tcx"
)

// arrivalPriority is the place of the filters on underlay devices, which may have filters of
// others. These come first if they have a lower number, as nearly all have; what they decide
// on never gets here. Where the kernel has tcx, our programs are no filters: they see a packet
// after the tcx programs that were there before, and before all filters.
const arrivalPriority = 7077

const (
	filterName  = "snapctl"
	arriveName  = "snapctl arrive"
	programName = "snapctl"
	arrivePart  = programName + "_" // what arrive programs are called before the number of the device
)

// arrivalProgram is the name of a network's program on underlay devices: it tells the network, by
// the index of the host's device, in a base for which a program's name (15 bytes) has room.
func arrivalProgram(device int) string { return arrivePart + strconv.FormatInt(int64(device), 36) }

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
	if e.leave[netlink.HANDLE_MIN_INGRESS], err = newProgram(programName, r.leave(prefix4, prefix6, nil)); err != nil {
		return err
	}
	if e.leave[netlink.HANDLE_MIN_EGRESS], err = newProgram(programName, r.leave(prefix4, prefix6, r.own(prefix4, prefix6))); err != nil {
		return err
	}
	e.arrive, err = newProgram(arrivalProgram(e.device), r.arrive(e.device, prefix4, prefix6))
	return err
}

// InstallLeave puts the program on the host's device of the network, for what comes from
// the fabric and what the host sends. n is the host's namespace.
func (e *Ends) InstallLeave(n tcx.Net) error {
	for hook, p := range e.leave {
		if err := n.Put(filter(e.device, hook), p); err != nil {
			return fmt.Errorf("install ways to other hosts: %w: %w", ErrUnsupported, err)
		}
	}
	return nil
}

// RemoveLeave takes it off again.
func (e *Ends) RemoveLeave(n tcx.Net) error {
	for hook := range e.leave {
		if err := n.Remove(filter(e.device, hook), programName); err != nil {
			return err
		}
	}
	return nil
}

// InstallArrive puts the program on an underlay device, beside those of other networks.
func (e *Ends) InstallArrive(n tcx.Net, underlay int) error {
	if err := n.Put(arrival(underlay, e.device), e.arrive); err != nil {
		return fmt.Errorf("install ways from other hosts: %w: %w", ErrUnsupported, err)
	}
	return nil
}

// arrival is the filter of a network on an underlay device. Its handle tells the network.
func arrival(underlay, device int) *netlink.BpfFilter {
	f := &netlink.BpfFilter{Fd: -1, Name: arriveName, DirectAction: true}
	f.FilterAttrs = netlink.FilterAttrs{
		LinkIndex: underlay, Parent: netlink.HANDLE_MIN_INGRESS, Handle: uint32(device), Priority: arrivalPriority,
		Protocol: ethAll,
	}
	return f
}

// Arrivals returns for which networks, by the index of the host's device of each, an
// underlay device has a program.
func Arrivals(n tcx.Net, underlay int) (devices []int, err error) {
	programs, err := n.Programs(underlay)
	if err != nil {
		return nil, err
	}
	for _, p := range programs {
		number, ours := strings.CutPrefix(p.Name, arrivePart)
		if device, err := strconv.ParseInt(number, 36, 32); ours && err == nil {
			devices = append(devices, int(device))
		}
	}
	filters, err := n.Filters(underlay)
	for _, f := range filters {
		if f.Name == arriveName && f.Priority == arrivalPriority && !slices.Contains(devices, int(f.Handle)) {
			devices = append(devices, int(f.Handle))
		}
	}
	return devices, err
}

// RemoveArrive takes a network's program off an underlay device. It does nothing if it is not
// there.
func RemoveArrive(n tcx.Net, underlay, device int) error {
	return n.Remove(arrival(underlay, device), arrivalProgram(device))
}

// Close drops the handles. Devices keep the programs.
func (e *Ends) Close() error {
	errs := []error{e.arrive.Close()}
	for _, p := range e.leave {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}
