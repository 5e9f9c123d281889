// Package fastpath takes packets between the endpoints of one host past the
// fabric's router, straight from one app's device to the other's, and gives
// endpoints another address inside their namespace than outside.
//
// A packet that the kernel routes through the fabric is handled twice: once when
// it comes out of the sender's veth, once when it comes out of the receiver's. A
// small BPF program at the ingress of every fabric device looks both addresses up
// in a table and, if both are endpoints here, moves the packet to the receiving
// end at once (bpf_redirect_peer), which makes it as cheap as one veth pair. It
// only ever shortens what the kernel's routes would do; what the table does not
// know takes the routes.
//
// An endpoint with an inside address has a [Translated] device: the fabric's side
// of it is where outside and inside meet, in both directions and without state.
//
//	app               Translated device                  fabric and host
//	eth0 inside ----- ingress: source becomes outside -- routes, firewall, other
//	          ------- egress:  destination becomes ----- devices know outside only
//	                           inside
//
// Where a packet does not cross the router, the sender's program does what egress
// would have done. Translated are the addresses of IPv4 and IPv6 headers, also of
// the headers that ICMP errors quote, and with them the checksums of IPv4, TCP, UDP
// and ICMPv6, also in fragments and in segments that are not split yet (GSO).
// Whatever else a packet carries stays as it is.
//
// # Other hosts
//
// Packets for endpoints of other hosts pass the fabric, the host and their routes and
// firewalls by three more programs. The set of such endpoints, and of the ways to their
// hosts, is [Remotes]; package channel/redirect is what fills it.
//
//	app - [ep device: ingress] - host0 ] fabric - host [ snap-NETWORK: leave ] - underlay
//	app -  ep device - [host0: ingress ] fabric - host   snap-NETWORK - [underlay: arrive]
//
// ingress moves the packet into the host's namespace (bpf_redirect_peer), since a program
// can only send from devices of the namespace that the packet is in. leave puts the outer
// header on, if there is one, and sends (bpf_redirect_neigh). arrive takes it off and moves
// the packet into the fabric, where ingress finds the endpoint. No packet is routed, so the
// hop limit inside stays as it is: seen from an app the network is one hop.
//
// What the host itself sends to such endpoints does not enter the fabric: leave is on the way
// out of snap-NETWORK as well. Every host has the gateway's address there, so on the way to
// other hosts it becomes an address of the host's own, and answers to that one get the
// gateway's again, by the same translation as for inside addresses ([Remotes.SetSelf]).
//
// # Restarts
//
// Programs and maps live in the kernel as long as one device has a program, so
// nothing depends on this process. They are attached by tcx, and to kernels before 6.6 as
// filters of tc (see package tcx); a device holds either by itself. After a restart a new
// [Table] replaces the programs, one at a time and without a gap. It goes on with the [Remotes]
// of the earlier run, found through the program of the uplink, so that no packet finds an
// empty set.
//
// Needs CAP_BPF (or CAP_SYS_ADMIN) and CAP_NET_ADMIN; Linux 5.10 with
// CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS, or 6.6 and CAP_SYS_ADMIN. Other hosts need Linux 5.11
// (bpf_ktime_get_coarse_ns), and 6.3 to carry IPv6 over IPv4 or the reverse
// (BPF_F_ADJ_ROOM_DECAP_L3_IPV4); to find an earlier run's maps takes CAP_SYS_ADMIN.
package fastpath

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// ErrUnsupported says that this kernel or this process's rights do not allow the
// fast path. Everything but inside addresses works without, at the cost of the
// kernel's router.
var ErrUnsupported = errors.New("fast path unsupported")

// Kind says what a device does.
type Kind int

const (
	// Plain devices leave addresses alone.
	Plain Kind = iota
	// Translated devices have an endpoint with an inside address behind them. They
	// drop every packet from the app that does not come from an inside address.
	Translated
	// Uplink is the device towards the host. What comes in there is from the host, or
	// from endpoints of other hosts.
	Uplink
	// Waiting is the device of the slow path, which writes packets back there that had to
	// wait for a way. They may use a way before anybody else's may.
	Waiting
)

// String returns "plain", "translated", "uplink" or "waiting".
func (k Kind) String() string {
	switch k {
	case Plain:
		return "plain"
	case Translated:
		return "translated"
	case Uplink:
		return "uplink"
	case Waiting:
		return "waiting"
	}
	return fmt.Sprintf("Kind(%d)", int(k))
}

// Table is the set of endpoints, and the programs that use it. Its methods may be
// called at the same time, but not for the same device, and not together with
// Close.
type Table struct {
	endpoints *ebpf.Map // outside address -> entry
	sources   *ebpf.Map // origin -> outside address
	remotes   *Remotes
	uplink    int // index of the device towards the host; 0: none
	programs  map[Kind]*ebpf.Program
	egress    *ebpf.Program
}

// entry is where packets for an endpoint go.
type entry struct {
	Device     uint32
	Translated uint32   // 1: the destination becomes Inside
	Inside     [16]byte // the address inside, always set
}

// Offsets in an entry, for the programs.
const (
	entryDevice     = 0
	entryTranslated = 4
	entryInside     = 8
	entrySize       = 24
)

// origin is what packets from a translated device come from.
type origin struct {
	Device uint32
	Inside [16]byte
}

const originSize = 20

// maxEntries bounds a table: two addresses per endpoint. Memory is taken as
// entries come.
const maxEntries = 1 << 17

// New makes an empty table for the devices of a fabric. uplink is the index of the one
// towards the host, or 0 if no packet goes there by a program, and n the fabric's
// namespace. If an earlier run's programs are on that device, the table goes on
// with their [Remotes].
//
// It returns an error wrapping [ErrUnsupported] if the kernel refuses a map or a program.
// The caller closes it.
func New(n Net, uplink int) (*Table, error) {
	t := &Table{uplink: uplink, programs: make(map[Kind]*ebpf.Program)}
	if err := t.load(n); err != nil {
		return nil, errors.Join(fmt.Errorf("make fast path: %w: %w", ErrUnsupported, err), t.Close())
	}
	return t, nil
}

func (t *Table) load(n Net) (err error) {
	if t.endpoints, err = newMap("endpoints", 16, entrySize); err != nil {
		return err
	}
	if t.sources, err = newMap("sources", originSize, 16); err != nil {
		return err
	}
	kinds := []Kind{Plain, Translated}
	if t.uplink != 0 {
		kinds = append(kinds, Uplink, Waiting)
		if t.remotes, err = openRemotes(n, t.uplink); err != nil {
			return err
		}
	}
	for _, kind := range kinds {
		if t.programs[kind], err = newProgram(programName, t.ingress(kind)); err != nil {
			return fmt.Errorf("load program for %s devices: %w", kind, err)
		}
	}
	t.egress, err = newProgram(programName, egress(t.endpoints))
	return err
}

// Remotes returns what the table knows of other hosts. It belongs to the table, and is
// nil if that has no uplink.
func (t *Table) Remotes() *Remotes { return t.remotes }

func newMap(name string, key, value uint32) (*ebpf.Map, error) {
	return ebpf.NewMap(&ebpf.MapSpec{
		Name: name, Type: ebpf.Hash, KeySize: key, ValueSize: value, MaxEntries: maxEntries, Flags: unix.BPF_F_NO_PREALLOC,
	})
}

func newProgram(name string, code asm.Instructions) (*ebpf.Program, error) {
	return ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: name, Type: ebpf.SchedCLS, Instructions: code, License: "Apache-2.0",
	})
}

// Put says that an address is behind a device of the fabric. Packets between the
// endpoints of translated devices have the inside address there; it is of the same
// family, and outside itself for the endpoint of a plain device.
func (t *Table) Put(outside, inside netip.Addr, device int, kind Kind) error {
	e := entry{Device: uint32(device), Inside: inside.As16()}
	if outside != inside {
		e.Translated = 1
	}
	err := t.put(outside.As16(), e, kind)
	if err != nil {
		return fmt.Errorf("add %s to fast path: %w", outside, err)
	}
	return nil
}

func (t *Table) put(outside [16]byte, e entry, kind Kind) error {
	before, err := t.entry(outside)
	if err != nil {
		return err
	}
	from := origin{e.Device, e.Inside}
	if kind == Translated {
		if err := t.sources.Put(from, outside); err != nil {
			return err
		}
	}
	if err := t.endpoints.Put(outside, e); err != nil {
		return err
	}
	if before == nil || kind == Translated && from == (origin{before.Device, before.Inside}) {
		return nil
	}
	return t.forget(*before)
}

// Remove leaves an address's packets to the kernel's routes, which do not lead into
// a namespace that has another address inside. It does nothing if the table does
// not have the address.
func (t *Table) Remove(outside netip.Addr) error {
	if err := t.remove(outside.As16()); err != nil {
		return fmt.Errorf("remove %s from fast path: %w", outside, err)
	}
	return nil
}

func (t *Table) remove(outside [16]byte) error {
	before, err := t.entry(outside)
	if err != nil || before == nil {
		return err
	}
	if err := t.endpoints.Delete(outside); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	return t.forget(*before)
}

// entry returns nil if there is none.
func (t *Table) entry(outside [16]byte) (*entry, error) {
	var e entry
	err := t.endpoints.Lookup(outside, &e)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &e, nil
}

// forget removes what an entry had among the sources.
func (t *Table) forget(e entry) error {
	err := t.sources.Delete(origin{e.Device, e.Inside})
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return err
}

// Close drops the handles. Devices keep programs and tables.
func (t *Table) Close() error {
	errs := []error{t.endpoints.Close(), t.sources.Close(), t.egress.Close(), t.remotes.close()}
	for _, p := range t.programs {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}
