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
	"github.com/snapctl/snapctl/vem/netns"
)

// What the program does with packets is tested through package fabric.

func newTable(t *testing.T) *fastpath.Table {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads BPF programs")
	}
	table, err := fastpath.New(nil, 0)
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

// Installing again, also from another table or of another kind, leaves the programs of
// one kind.
func TestInstallReplaces(t *testing.T) {
	tables := []*fastpath.Table{newTable(t), newTable(t)}
	ns, err := netns.New()
	qt.Assert(t, qt.IsNil(err))
	defer ns.Close()
	qt.Assert(t, qt.IsNil(ns.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		for _, kind := range []fastpath.Kind{fastpath.Plain, fastpath.Translated, fastpath.Plain} {
			for _, table := range tables {
				for range 2 {
					if err := table.Install(h, lo.Attrs().Index, kind); err != nil {
						return err
					}
				}
			}
			in, err := h.FilterList(lo, netlink.HANDLE_MIN_INGRESS)
			qt.Check(t, qt.IsNil(err))
			qt.Check(t, qt.HasLen(in, 1), qt.Commentf("%s", kind))
			out, err := h.FilterList(lo, netlink.HANDLE_MIN_EGRESS)
			qt.Check(t, qt.IsNil(err))
			qt.Check(t, qt.HasLen(out, map[fastpath.Kind]int{fastpath.Translated: 1}[kind]), qt.Commentf("%s", kind))
		}
		return nil
	})))
}
