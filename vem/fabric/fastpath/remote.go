package fastpath

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric/fastpath/bpfmap"
	"github.com/snapctl/snapctl/vem/fabric/tcx"
)

// Module says how packets travel to another host.
type Module uint32

const (
	// Direct packets go as they are, to a host on the same link. Over an IPv4 underlay,
	// which has no next hop for IPv6, IPv6 packets go as [Tunnel] ones.
	Direct Module = 1
	// Tunnel packets go in an outer IP packet: protocol 4 (IPv4 inside) or 41 (IPv6).
	Tunnel Module = 2
)

// Modules is a set of them.
type Modules uint32

// OtherFamily in a set says that packets may come as [Tunnel] ones from a host that sends
// [Direct] ones, since these may be of a family that Direct does not carry.
const OtherFamily Modules = 1

// Set returns the set of some modules.
func Set(list ...Module) (s Modules) {
	for _, m := range list {
		s |= 1 << m
	}
	return s
}

// Has tells whether m is in the set.
func (s Modules) Has(m Module) bool { return s&(1<<m) != 0 }

// Use says which packets a route is for.
type Use uint32

const (
	// Opening routes are for packets from [Waiting] devices.
	Opening Use = 1
	// Open routes are for all.
	Open Use = 2
)

// MaxHosts bounds the numbers of hosts: 1 to MaxHosts.
const MaxHosts = 1023

// Path is the way to a host.
type Path struct {
	Module        Module
	Device        int        // index of the underlay device, in the host's namespace
	MTU           int        // the largest packet of an endpoint that fits, in bytes
	Local, Remote netip.Addr // of the same family; the ends on the underlay
	Accept        Modules    // how packets may arrive from the host
	Name          string     // the host's name, at most 64 bytes; programs do not look at it
}

// Remotes is what programs know of other hosts: the endpoints there, the ways to the
// hosts, and the addresses that these send from. Its methods may be called at the same
// time, but not for the same host. It goes on in the kernel when it is closed.
type Remotes struct {
	routes   *ebpf.Map // endpoint's outside address -> route
	hosts    *ebpf.Map // host's number -> index in paths, 0: there is none
	paths    *ebpf.Map // path
	senders  *ebpf.Map // underlay address of another host -> its number
	here     *ebpf.Map // underlay address of this host -> 1
	self     *ebpf.Map // what the programs know of this host, by selfAddress4 and so on
	counters *ebpf.Map // host's number -> tally, for each CPU
	drops    *ebpf.Map // dropReason -> packets, for each CPU
	beyond   *ebpf.Map // see SetBeyond
}

// What is in self: addresses that endpoints of other hosts see this host at, and flags, which are
// not 0 if it is so.
const (
	selfAddress4 = iota
	selfAddress6
	selfDirect // a host may send without outer header
	selfSize
)

// route is the value of routes.
type route struct {
	Host uint32
	Use  Use
}

const (
	routeHost = 0
	routeUse  = 4
	routeSize = 8
)

// path is the value of paths. It is only written while no host's number leads to it.
type path struct {
	Module Module
	Device uint32
	MTU    uint32
	Family uint32
	Local  [16]byte
	Remote [16]byte
	Sum    uint32 // of what is always the same in an outer IPv4 header
	Accept Modules
	Name   [64]byte
}

const (
	pathModule = 0
	pathDevice = 4
	pathMTU    = 8
	pathFamily = 12
	pathLocal  = 16
	pathRemote = 32
	pathSum    = 48
	pathAccept = 52
	pathSize   = 120
)

// specs are the maps by name. A map of an earlier run is only used if it looks the same:
// who changes the meaning of a value changes the map's name.
func specs() map[string]ebpf.MapSpec {
	hash := func(key, value, entries uint32) ebpf.MapSpec {
		return ebpf.MapSpec{Type: ebpf.Hash, KeySize: key, ValueSize: value, MaxEntries: entries, Flags: unix.BPF_F_NO_PREALLOC}
	}
	array := func(kind ebpf.MapType, value, entries uint32) ebpf.MapSpec {
		return ebpf.MapSpec{Type: kind, KeySize: 4, ValueSize: value, MaxEntries: entries}
	}
	return map[string]ebpf.MapSpec{
		"routes":   hash(16, routeSize, maxEntries),
		"hosts":    array(ebpf.Array, 8, MaxHosts+1),
		"paths":    array(ebpf.Array, pathSize, 2*MaxHosts+2),
		"senders":  hash(16, 8, 16*(MaxHosts+1)),
		"here":     hash(16, 8, 1024),
		"self":     array(ebpf.Array, 16, selfSize),
		"counters": array(ebpf.PerCPUArray, tallySize, MaxHosts+1),
		"drops":    array(ebpf.PerCPUArray, 8, uint32(dropReasons)),
		"beyond":   bpfmap.Prefixes(maxEntries),
	}
}

func (r *Remotes) maps() map[string]**ebpf.Map {
	return map[string]**ebpf.Map{
		"routes": &r.routes, "hosts": &r.hosts, "paths": &r.paths, "senders": &r.senders,
		"here": &r.here, "self": &r.self, "counters": &r.counters, "drops": &r.drops, "beyond": &r.beyond,
	}
}

// keep makes a program hold all maps, for the next run to find them.
func (r *Remotes) keep() (list asm.Instructions) {
	for _, m := range []*ebpf.Map{r.routes, r.hosts, r.paths, r.senders, r.here, r.self, r.counters, r.drops, r.beyond} {
		list = append(list, asm.LoadMapPtr(asm.R1, m.FD()))
	}
	return list
}

// openRemotes takes the maps of the program on the device, or makes new ones.
func openRemotes(n tcx.Net, device int) (*Remotes, error) {
	r := &Remotes{}
	found, err := r.adopt(n, device)
	if err != nil || found {
		return r, err
	}
	return r, r.make()
}

// make makes the maps that are not there.
func (r *Remotes) make() (err error) {
	all := specs()
	for name, m := range r.maps() {
		spec := all[name]
		spec.Name = name
		if *m != nil {
			continue
		}
		if *m, err = ebpf.NewMap(&spec); err != nil {
			return errors.Join(fmt.Errorf("make map %s: %w", name, err), r.close())
		}
	}
	return nil
}

// adopt looks for the maps of an earlier run: all of them, or none.
func (r *Remotes) adopt(n tcx.Net, device int) (found bool, err error) {
	p, err := installed(n, device)
	if err != nil || p == nil {
		return false, err
	}
	defer p.Close() //nolint:errcheck // a handle
	info, err := p.Info()
	if err != nil {
		return false, fmt.Errorf("look at program of an earlier run: %w", err)
	}
	ids, _ := info.MapIDs()
	places := r.maps()
	missing := len(places)
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			return false, errors.Join(fmt.Errorf("open map of an earlier run: %w", err), r.close())
		}
		if place := matching(places, m); place != nil && *place == nil {
			*place = m
			missing--
			continue
		}
		if err := m.Close(); err != nil {
			return false, errors.Join(err, r.close())
		}
	}
	// Releases before there were gateways for machines that keep their addresses had no map of these.
	if missing == 0 || missing == 1 && r.beyond == nil {
		return true, r.make()
	}
	err = r.close()
	*r = Remotes{}
	return false, err
}

// matching returns where a map belongs, or nil.
func matching(places map[string]**ebpf.Map, m *ebpf.Map) **ebpf.Map {
	info, err := m.Info()
	if err != nil {
		return nil
	}
	spec, ok := specs()[info.Name]
	if !ok || spec.Type != info.Type || spec.KeySize != info.KeySize || spec.ValueSize != info.ValueSize || spec.MaxEntries != info.MaxEntries {
		return nil
	}
	return places[info.Name]
}

func (r *Remotes) close() error {
	if r == nil {
		return nil
	}
	var errs []error
	for _, m := range r.maps() {
		errs = append(errs, (*m).Close())
	}
	return errors.Join(errs...)
}

// Route is a remote endpoint's.
type Route struct {
	Addr netip.Addr // the endpoint's outside address
	Host int
	Use  Use
}

// PutRoutes adds routes, or replaces those of the same addresses. Of a long list, the first
// ones may be there if it fails.
func (r *Remotes) PutRoutes(list []Route) error {
	keys, values := make([][16]byte, len(list)), make([]route, len(list))
	for i, l := range list {
		keys[i], values[i] = l.Addr.As16(), route{uint32(l.Host), l.Use}
	}
	return bpfmap.PutAll(r.routes, keys, values, "add routes")
}

// RemoveRoutes leaves the packets for these addresses to the kernel's routes. It does
// nothing for those that have no route.
func (r *Remotes) RemoveRoutes(list []netip.Addr) error {
	for _, a := range list {
		if err := r.routes.Delete(a.As16()); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("remove route to %s: %w", a, err)
		}
	}
	return nil
}

// Routes yields all routes. One that is changed meanwhile may come twice or not at all.
func (r *Remotes) Routes() iter.Seq2[Route, error] {
	return func(yield func(Route, error) bool) {
		var key [16]byte
		var value route
		all := r.routes.Iterate()
		for all.Next(&key, &value) {
			if !yield(Route{netip.AddrFrom16(key).Unmap(), int(value.Host), value.Use}, nil) {
				return
			}
		}
		// Too many changes at a time make it give up.
		if err := all.Err(); err != nil {
			yield(Route{}, fmt.Errorf("list routes: %w", err))
		}
	}
}
