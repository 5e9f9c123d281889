package bpfmap

import (
	"maps"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv"
)

// A map of prefixes has what it was last told, and the longest prefix of a class counts that has an
// address.
func TestPrefixes(t *testing.T) {
	testenv.Need(t, testenv.Root)
	spec := Prefixes(100)
	m, err := ebpf.NewMap(&spec)
	qt.Assert(t, qt.IsNil(err))
	defer m.Close()
	p := func(class int, text string) Prefix { return Prefix{class, netip.MustParsePrefix(text)} }
	want := map[Prefix]int{
		p(0, "203.0.113.0/24"): 1, p(0, "203.0.113.128/25"): 2, p(0, "203.0.113.7/32"): 0, p(0, "2001:db8:7::/48"): 3, p(7, "203.0.0.0/16"): 7,
	}
	is := func() {
		t.Helper()
		got, err := List(m)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.IsTrue(maps.Equal(got, want)), qt.Commentf("%v", got))
	}
	qt.Assert(t, qt.IsNil(Set(m, want)))
	is()
	for _, x := range []struct {
		class  int
		addr   string
		number int // -1: none
	}{
		{0, "203.0.113.9", 1},
		{0, "203.0.113.200", 2},
		{0, "203.0.113.7", 0},
		{0, "203.0.114.1", -1},
		{0, "2001:db8:7::9", 3},
		{0, "2001:db8:8::9", -1},
		{7, "203.0.113.9", 7},
		{7, "2001:db8:7::9", -1},
		{8, "203.0.113.9", -1},
	} {
		a := netip.MustParseAddr(x.addr)
		var number uint64
		err := m.Lookup(Prefix{x.class, netip.PrefixFrom(a, a.BitLen())}.key(), &number)
		if x.number < 0 {
			qt.Check(t, qt.ErrorIs(err, ebpf.ErrKeyNotExist), qt.Commentf("%v", x))
			continue
		}
		qt.Check(t, qt.IsNil(err), qt.Commentf("%v", x))
		qt.Check(t, qt.Equals(int(number), x.number), qt.Commentf("%v", x))
	}
	delete(want, p(0, "203.0.113.128/25"))
	want[p(0, "203.0.113.0/24")] = 9
	qt.Assert(t, qt.IsNil(Set(m, want)))
	is()
	want = nil
	qt.Assert(t, qt.IsNil(Set(m, want)))
	is()
}
