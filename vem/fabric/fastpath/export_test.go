package fastpath

import (
	"slices"

	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"

	"github.com/snapctl/snapctl/vem/fabric/tcx"
)

// Sources counts the addresses that translated devices let through.
func (t *Table) Sources() (count int) {
	var key origin
	var value [16]byte
	for all := t.sources.Iterate(); all.Next(&key, &value); {
		count++
	}
	return count
}

// InstallOlder puts a program on a device as a release has it that knows no machines beyond gateways.
func (t *Table) InstallOlder(n tcx.Net, device int) error {
	older := *t.remotes
	older.beyond = older.routes
	p, err := newProgram(programName, slices.Concat(older.keep(), asm.Instructions{asm.Mov.Imm(asm.R0, actUnspec), asm.Return()}))
	if err != nil {
		return err
	}
	defer p.Close()
	return n.Put(filter(device, netlink.HANDLE_MIN_INGRESS), p)
}
