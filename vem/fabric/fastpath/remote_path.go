package fastpath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric/fastpath/bpfmap"
)

// PutPath sets the way to a host: all routes to it use it from the next packet on.
// A packet meets the old way or the new one, never a mixture: the new one is written
// beside the old one, and one word of memory decides which of them counts.
//
// The place of the way before the last is used again: wait for the kernel's readers
// (membarrier(2)) between two calls for one host that follow each other at once.
func (r *Remotes) PutPath(host int, p Path) error {
	before, err := r.place(host)
	if err != nil {
		return err
	}
	next := uint32(2 * host)
	if before == next {
		next++
	}
	value := path{
		Module: p.Module, Device: uint32(p.Device), MTU: uint32(p.MTU), Family: unix.AF_INET6, Accept: p.Accept,
		Local: p.Local.As16(), Remote: p.Remote.As16(), Sum: headerSum(p.Local, p.Remote),
	}
	if p.Local.Is4() {
		value.Family = unix.AF_INET
	}
	copy(value.Name[:], p.Name)
	if err := r.paths.Put(next, value); err != nil {
		return fmt.Errorf("write way to host %d: %w", host, err)
	}
	if err := r.hosts.Put(uint32(host), uint64(next)); err != nil {
		return fmt.Errorf("set way to host %d: %w", host, err)
	}
	return nil
}

// RemovePath takes a host's way and numbers: what is for it or from it is the kernel's,
// and its counters are zero.
func (r *Remotes) RemovePath(host int) error {
	if err := r.hosts.Put(uint32(host), uint64(0)); err != nil {
		return fmt.Errorf("remove way to host %d: %w", host, err)
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	if err := r.counters.Put(uint32(host), make([]tally, cpus)); err != nil {
		return fmt.Errorf("reset counters of host %d: %w", host, err)
	}
	return nil
}

// place returns the index of a host's path, 0 if it has none.
func (r *Remotes) place(host int) (uint32, error) {
	var place uint64
	if err := r.hosts.Lookup(uint32(host), &place); err != nil {
		return 0, fmt.Errorf("look up way to host %d: %w", host, err)
	}
	return uint32(place), nil
}

// Paths returns the ways to all hosts by their numbers.
func (r *Remotes) Paths() (map[int]Path, error) {
	found := make(map[int]Path)
	for host := 1; host <= MaxHosts; host++ {
		place, err := r.place(host)
		if err != nil {
			return nil, err
		}
		if place == 0 {
			continue
		}
		var p path
		if err := r.paths.Lookup(place, &p); err != nil {
			return nil, fmt.Errorf("look up way to host %d: %w", host, err)
		}
		found[host] = Path{
			Module: p.Module, Device: int(p.Device), MTU: int(p.MTU), Accept: p.Accept,
			Local: netip.AddrFrom16(p.Local).Unmap(), Remote: netip.AddrFrom16(p.Remote).Unmap(),
			Name: string(bytes.TrimRight(p.Name[:], "\x00")),
		}
	}
	return found, nil
}

// headerSum sums up the 16-bit words of an outer IPv4 header that are the same for all
// packets of a path: version and length, don't fragment, time to live 64, addresses.
func headerSum(local, remote netip.Addr) uint32 {
	if !local.Is4() || !remote.Is4() {
		return 0
	}
	sum := uint32(0x4500 + 0x4000 + outerTTL<<8)
	for _, a := range []netip.Addr{local, remote} {
		b := a.As4()
		sum += uint32(binary.BigEndian.Uint16(b[:2])) + uint32(binary.BigEndian.Uint16(b[2:]))
	}
	return sum
}

// PutSender says that a host may send from an underlay address.
func (r *Remotes) PutSender(a netip.Addr, host int) error {
	if err := r.senders.Put(a.As16(), uint64(host)); err != nil {
		return fmt.Errorf("add sender %s: %w", a, err)
	}
	return nil
}

// RemoveSender undoes PutSender. It does nothing if nobody may send from there.
func (r *Remotes) RemoveSender(a netip.Addr) error {
	if err := r.senders.Delete(a.As16()); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("remove sender %s: %w", a, err)
	}
	return nil
}

// Senders returns who may send from which underlay address.
func (r *Remotes) Senders() (map[netip.Addr]int, error) { return bpfmap.Numbers(r.senders) }

// SetHere says which underlay addresses are this host's: what is tunnelled to others is
// not looked at.
func (r *Remotes) SetHere(list []netip.Addr) error {
	before, err := bpfmap.Numbers(r.here)
	if err != nil {
		return err
	}
	for _, a := range list {
		delete(before, a)
		if err := r.here.Put(a.As16(), uint64(1)); err != nil {
			return fmt.Errorf("add underlay address %s: %w", a, err)
		}
	}
	for a := range before {
		if err := r.here.Delete(a.As16()); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("remove underlay address %s: %w", a, err)
		}
	}
	return nil
}

// SetSelf says which address of the network the host has for endpoints of other hosts, instead
// of the gateway's, which every host has. A zero one says that they do not see this host.
func (r *Remotes) SetSelf(a4, a6 netip.Addr) error {
	for i, a := range []netip.Addr{a4, a6} {
		var value [16]byte
		if a.IsValid() {
			value = a.As16()
		}
		if err := r.self.Put(uint32(i), value); err != nil {
			return fmt.Errorf("set the host's address for other hosts to %s: %w", a, err)
		}
	}
	return nil
}

// SetDirect says whether any host may send packets without an outer header. From then on, too, those
// are let in that come from an address of the network which this host knows nothing of.
func (r *Remotes) SetDirect(on bool) error { return r.setFlag(selfDirect, on) }

func (r *Remotes) setFlag(which uint32, on bool) error {
	var value [16]byte
	if on {
		value[15] = 1
	}
	if err := r.self.Put(which, value); err != nil {
		return fmt.Errorf("tell programs about this host: %w", err)
	}
	return nil
}
