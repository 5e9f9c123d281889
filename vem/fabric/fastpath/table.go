package fastpath

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric/tcx"
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
func New(n tcx.Net, uplink int) (*Table, error) {
	t := &Table{uplink: uplink, programs: make(map[Kind]*ebpf.Program)}
	if err := t.load(n); err != nil {
		return nil, errors.Join(fmt.Errorf("make fast path: %w: %w", ErrUnsupported, err), t.Close())
	}
	return t, nil
}

func (t *Table) load(n tcx.Net) (err error) {
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
