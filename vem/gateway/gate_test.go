package gateway

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/vem/directory"
)

// What a gateway says of itself in the directory is read as it was meant, and is no list of ports.
func TestFormat(t *testing.T) {
	for text, s := range map[string]Settings{
		"":                                       {},
		"gateway":                                {On: true},
		"gateway 203.0.113.0/24 2001:db8:7::/48": {On: true, Advertise: prefixes("203.0.113.0/24", "2001:db8:7::/48")},
	} {
		qt.Check(t, qt.Equals(s.Format(), text))
		got, err := ParseSettings(text)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.IsTrue(got.On == s.On && slices.Equal(got.Advertise, s.Advertise)), qt.Commentf("%+v", got))
		if s.On {
			_, err = ParsePorts(text)
			qt.Check(t, qt.IsNotNil(err))
		}
	}
	long := Settings{On: true}
	for i := range byte(MaxAdvertise) {
		a := netip.AddrFrom16([16]byte(slices.Repeat([]byte{0xa0 + i}, 16)))
		long.Advertise = append(long.Advertise, netip.PrefixFrom(a, 128))
	}
	e := directory.Endpoint{Network: "default", Addr: netip.MustParseAddr("10.77.0.9"), ID: "x", App: directory.HostApp("beta", "default"), Owner: "beta", Epoch: 1, State: directory.Running, Ports: long.Format()}
	qt.Check(t, qt.IsNil(e.Validate("default/10.77.0.9")))
	for _, wrong := range []string{"gateway 203.0.113.7", "gateway 203.0.113.7/24", "gateway 0.0.0.0/0", "gateway " + strings.Repeat("203.0.113.0/24 ", 2)} {
		_, err := ParseSettings(wrong)
		qt.Check(t, qt.IsNotNil(err), qt.Commentf("%s", wrong))
	}
}

func prefixes(list ...string) (all []netip.Prefix) {
	for _, text := range list {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// A host learns of the gateways on others, the first of which is one that is alive, and remembers them.
func TestGates(t *testing.T) {
	testenv.Need(t, testenv.Root) // to look for listeners
	w := newWorld(t)
	at := netip.MustParseAddr("10.77.0.130")
	of := func(host string, a netip.Addr, text string) directory.Endpoint {
		return directory.Endpoint{Network: "default", Addr: a, App: directory.HostApp(host, "default"), Owner: host, Ports: text}
	}
	f := w.open()
	qt.Assert(t, qt.IsNil(f.Reside(t.Context(), "default")))
	one, two := prefixes("203.0.113.0/24"), prefixes("198.51.100.0/24", "203.0.113.0/24")
	w.known = []directory.Endpoint{
		of("zeta", at.Next(), "gateway 198.51.100.0/24 203.0.113.0/24"), of("beta", at, "gateway 203.0.113.0/24"),
		of("alpha", at.Prev(), "gateway 192.0.2.0/24"), of("gone", at.Next().Next(), "gateway 192.0.2.0/24"), of("newer", at.Next().Next(), "gateway as a newer release has it"),
		{Network: "default", Addr: at, App: "host:fake", Owner: "beta", Ports: "gateway 192.0.2.0/24"},
	}
	beta, zeta := Gate{Host: "beta", Addr: at, Advertise: one, Alive: true}, Gate{Host: "zeta", Addr: at.Next(), Advertise: two, Alive: true}
	is := func(here []netip.Prefix, elsewhere []netip.Prefix, want ...Gate) {
		t.Helper()
		b := w.beyond["default"]
		qt.Check(t, qt.IsTrue(slices.EqualFunc(b.Gates, want, Gate.equal)), qt.Commentf("%+v", b.Gates))
		qt.Check(t, qt.IsTrue(slices.Equal(b.Here, here)), qt.Commentf("%v", b.Here))
		qt.Check(t, qt.IsTrue(slices.Equal(w.rules.Elsewhere, elsewhere)), qt.Commentf("%v", w.rules.Elsewhere))
	}
	qt.Assert(t, qt.IsNil(f.look(t.Context())))
	is(nil, two, beta, zeta)
	lab := of("beta", at, "gateway 203.0.113.0/24")
	lab.Network, lab.App = "lab", directory.HostApp("beta", "lab")
	w.known = append(w.known, lab)
	qt.Assert(t, qt.IsNil(f.look(t.Context())))
	qt.Check(t, qt.HasLen(w.beyond["lab"].Gates, 1)) // though this host is not there
	w.silent["beta"], beta.Alive = true, false
	qt.Assert(t, qt.IsNil(f.look(t.Context())))
	is(nil, two, zeta, beta)
	qt.Assert(t, qt.IsNil(f.Set(t.Context(), Settings{On: true, Advertise: one})))
	is(one, two[:1], zeta, beta)
	v, err := f.View()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(len(v.Others), 2))
	qt.Check(t, qt.Equals(v.Others[0].Host, "beta"))
	qt.Check(t, qt.IsFalse(v.Others[0].Alive))
	qt.Check(t, qt.IsTrue(slices.Equal(v.Others[1].Advertise, two)))

	w.known, w.beyond, w.rules = nil, make(map[string]Beyond), Rules{}
	f = w.open()
	is(one, two[:1], zeta, beta)
	qt.Assert(t, qt.IsNil(f.Set(t.Context(), Settings{})))
	is(nil, two, zeta, beta)
	w.known = []directory.Endpoint{of("beta", at, ""), of("zeta", at.Next(), "")}
	qt.Assert(t, qt.IsNil(f.look(t.Context())))
	is(nil, nil)
}
