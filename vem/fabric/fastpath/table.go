// Package fastpath takes packets between the endpoints of one host past the
// fabric's router, straight from one app's device to the other's.
//
// A packet that the kernel routes through the fabric is handled twice: once when
// it comes out of the sender's veth, once when it comes out of the receiver's. A
// small BPF program at the ingress of every fabric device looks both addresses up
// in a table and, if both are endpoints here, moves the packet to the receiving
// end at once (bpf_redirect_peer), which makes it as cheap as one veth pair. It
// only ever shortens what the kernel's routes would do; what the table does not
// know takes the routes.
//
// Program and table live in the kernel as long as one device has the program, so
// nothing depends on this process. After a restart a new [Table] replaces them.
//
// Needs CAP_BPF (or CAP_SYS_ADMIN) and CAP_NET_ADMIN; Linux 5.10 with
// CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS, on a little-endian machine of 64 bits.
package fastpath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrUnsupported says that this kernel or this process's rights do not allow the
// fast path. Everything works without, at the cost of the kernel's router.
var ErrUnsupported = errors.New("fast path unsupported")

// Table is the set of endpoints, and the program that uses it. Its methods may be
// called at the same time, but not together with Close.
type Table struct {
	endpoints, program *os.File
}

// maxEntries bounds a table: two addresses per endpoint. Memory is taken as
// entries come.
const maxEntries = 1 << 17

// New makes an empty table. It returns an error wrapping [ErrUnsupported] if the
// kernel refuses the program. The caller closes it.
func New() (*Table, error) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 || unsafe.Sizeof(uintptr(0)) != 8 {
		return nil, fmt.Errorf("make fast path: %w: not a little-endian machine of 64 bits", ErrUnsupported)
	}
	m, err := newMap()
	if err != nil {
		return nil, fmt.Errorf("make fast path table: %w: %w", ErrUnsupported, err)
	}
	p, err := newProgram(program(int(m.Fd())))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("load fast path program: %w: %w", ErrUnsupported, err), m.Close())
	}
	return &Table{endpoints: m, program: p}, nil
}

// Put says that an address is behind a device of the fabric.
func (t *Table) Put(a netip.Addr, device int) error {
	key, value := a.As16(), uint32(device)
	attr := mapElementAttr{fd: uint32(t.endpoints.Fd()), key: unsafe.Pointer(&key), value: unsafe.Pointer(&value)}
	if _, err := bpf(unix.BPF_MAP_UPDATE_ELEM, unsafe.Pointer(&attr), unsafe.Sizeof(attr)); err != nil {
		return fmt.Errorf("add %s to fast path: %w", a, err)
	}
	return nil
}

// Remove leaves an address's packets to the kernel's routes. It does nothing if
// the table does not have the address.
func (t *Table) Remove(a netip.Addr) error {
	key := a.As16()
	attr := mapElementAttr{fd: uint32(t.endpoints.Fd()), key: unsafe.Pointer(&key)}
	_, err := bpf(unix.BPF_MAP_DELETE_ELEM, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove %s from fast path: %w", a, err)
	}
	return nil
}

// Install puts the program on a device's ingress, in place of the one that an
// earlier table left there. h is a handle in the device's namespace.
func (t *Table) Install(h *netlink.Handle, device int) error {
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: device, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := h.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("install fast path: add clsact: %w: %w", ErrUnsupported, err)
	}
	filter := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: device, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL,
		},
		Fd: int(t.program.Fd()), Name: "snapctl", DirectAction: true,
	}
	if err := h.FilterReplace(filter); err != nil {
		return fmt.Errorf("install fast path: add filter: %w: %w", ErrUnsupported, err)
	}
	return nil
}

// Close drops the handles. Devices keep program and table.
func (t *Table) Close() error {
	return errors.Join(t.endpoints.Close(), t.program.Close())
}
