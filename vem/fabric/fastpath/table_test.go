package fastpath_test

import (
	"errors"
	"net/netip"
	"os"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric/fastpath"
	"github.com/snapctl/snapctl/vem/fabric/tcx"
)

// What the program does with packets is tested through package fabric.

func newTable(t *testing.T) *fastpath.Table {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads BPF programs")
	}
	table, err := fastpath.New(tcx.Net{}, 0)
	if errors.Is(err, fastpath.ErrUnsupported) && errors.Is(err, unix.EPERM) {
		t.Skipf("needs CAP_BPF: %v", err)
	}
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(table.Close())) })
	return table
}

func TestTable(t *testing.T) {
	table := newTable(t)
	for outside, inside := range map[string]string{"10.77.0.2": "10.78.0.9", "fd77::2": "fd78::9"} {
		a, b := netip.MustParseAddr(outside), netip.MustParseAddr(inside)
		qt.Check(t, qt.IsNil(table.Remove(a)), qt.Commentf("not there"))
		qt.Check(t, qt.IsNil(table.Put(a, a, 7, fastpath.Plain)))
		qt.Check(t, qt.IsNil(table.Put(a, a, 8, fastpath.Plain)), qt.Commentf("moved"))
		qt.Check(t, qt.Equals(table.Sources(), 0))
		for _, put := range []struct {
			inside  netip.Addr
			device  int
			kind    fastpath.Kind
			sources int
		}{
			{b, 8, fastpath.Translated, 1},
			{b, 8, fastpath.Translated, 1},
			{b, 9, fastpath.Translated, 1}, // moved
			{a, 9, fastpath.Translated, 1}, // only the other family is translated
			{b, 9, fastpath.Translated, 1},
			{a, 9, fastpath.Plain, 0},
			{b, 9, fastpath.Translated, 1},
		} {
			qt.Check(t, qt.IsNil(table.Put(a, put.inside, put.device, put.kind)))
			qt.Check(t, qt.Equals(table.Sources(), put.sources), qt.Commentf("%v", put))
		}
		qt.Check(t, qt.IsNil(table.Remove(a)))
		qt.Check(t, qt.IsNil(table.Remove(a)))
		qt.Check(t, qt.Equals(table.Sources(), 0))
	}
}

// filtersOnly makes the kernel look like one before Linux 6.6, until undo is called.
func filtersOnly() (undo func()) {
	before := tcx.Supported
	tcx.Supported = func() bool { return false }
	return func() { tcx.Supported = before }
}

// installed counts the programs of a device, at either side: filters, and those attached by tcx.
func installed(t *testing.T, n tcx.Net, device int) (filters, programs [2]int) {
	t.Helper()
	lo := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: device}}
	for i, hook := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		list, err := n.NL.FilterList(lo, hook)
		if !errors.Is(err, unix.EINVAL) { // there is nothing that has filters
			qt.Assert(t, qt.IsNil(err))
		}
		filters[i] = len(list)
	}
	for i, hook := range []tcx.Hook{tcx.Ingress, tcx.Egress} {
		qt.Assert(t, qt.IsNil(n.Do(func() error {
			list, err := tcx.List(device, hook)
			programs[i] = len(list)
			return err
		})))
	}
	return filters, programs
}

// Installing again, also from another table or of another kind, leaves the programs of
// one kind. A kernel that has tcx has no filters any more, whatever an earlier release has made.
func TestInstallReplaces(t *testing.T) {
	tables := []*fastpath.Table{newTable(t), newTable(t)}
	n, lo := newNet(t)
	install := func(kind fastpath.Kind) {
		for _, table := range tables {
			for range 2 {
				qt.Assert(t, qt.IsNil(table.Install(n, lo, kind)))
			}
		}
	}
	kinds := map[fastpath.Kind][2]int{fastpath.Plain: {1, 0}, fastpath.Translated: {1, 1}}
	for _, kind := range []fastpath.Kind{fastpath.Plain, fastpath.Translated, fastpath.Plain, fastpath.Translated} {
		undo := filtersOnly()
		install(kind)
		undo()
		filters, _ := installed(t, n, lo)
		qt.Check(t, qt.Equals(filters, kinds[kind]), qt.Commentf("%s", kind))
	}
	if !tcx.Supported() {
		return
	}
	for _, kind := range []fastpath.Kind{fastpath.Translated, fastpath.Plain, fastpath.Translated} {
		install(kind)
		filters, programs := installed(t, n, lo)
		qt.Check(t, qt.Equals(filters, [2]int{}), qt.Commentf("%s", kind))
		qt.Check(t, qt.Equals(programs, kinds[kind]), qt.Commentf("%s", kind))
	}
}
