package fabric_test

import (
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/fabric"
)

func TestConfigIsChecked(t *testing.T) {
	ns := newNS(t)
	good := func() fabric.Config {
		return fabric.Config{Network: "default", Prefix4: prefix4, Prefix6: prefix6, Dir: t.TempDir(), Host: ns}
	}
	for name, spoil := range map[string]func(*fabric.Config){
		"no name":      func(c *fabric.Config) { c.Network = "" },
		"path as name": func(c *fabric.Config) { c.Network = "../default" },
		"no folder":    func(c *fabric.Config) { c.Dir = "" },
		"no host":      func(c *fabric.Config) { c.Host = nil },
		"no prefix":    func(c *fabric.Config) { c.Prefix4 = netip.Prefix{} },
		"IPv6 twice":   func(c *fabric.Config) { c.Prefix4 = prefix6 },
		"small MTU":    func(c *fabric.Config) { c.MTU = 576 },
		"outside":      func(c *fabric.Config) { c.Outside = 7 },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good()
			spoil(&cfg)
			_, err := fabric.Open(t.Context(), cfg)
			qt.Check(t, qt.ErrorIs(err, fabric.ErrConfig))
		})
	}
}

func TestEndpointIsChecked(t *testing.T) {
	f := open(t, testConfig(t))
	ns := newNS(t)
	for name, e := range map[string]fabric.Endpoint{
		"no address":   {},
		"outside":      {Addr4: netip.MustParseAddr("10.78.0.2")},
		"gateway":      {Addr4: netip.MustParseAddr("10.77.0.1")},
		"gateway IPv6": {Addr4: netip.MustParseAddr("10.77.0.2"), Addr6: netip.MustParseAddr("fd77::1")},
		"families":     {Addr4: netip.MustParseAddr("fd77::2")},
		"MAC":          {Addr4: netip.MustParseAddr("10.77.0.2"), MAC: []byte{1, 0, 0, 0, 0, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			qt.Check(t, qt.ErrorIs(f.Attach(t.Context(), e, ns), fabric.ErrConfig))
		})
	}
}

func TestInsideIsChecked(t *testing.T) {
	f := open(t, testConfig(t))
	ns := newNS(t)
	for name, spoil := range map[string]func(*fabric.Endpoint){
		"family":          func(e *fabric.Endpoint) { e.Inside4 = inside.Addr6 },
		"family, IPv6":    func(e *fabric.Endpoint) { e.Inside6 = inside.Addr4 },
		"mapped":          func(e *fabric.Endpoint) { e.Inside6 = netip.MustParseAddr("::ffff:10.77.0.7") },
		"loopback":        func(e *fabric.Endpoint) { e.Inside4 = netip.MustParseAddr("127.0.0.1") },
		"link-local":      func(e *fabric.Endpoint) { e.Inside4 = netip.MustParseAddr("169.254.1.1") },
		"multicast":       func(e *fabric.Endpoint) { e.Inside6 = netip.MustParseAddr("ff02::1") },
		"gateway":         func(e *fabric.Endpoint) { e.Inside4 = netip.MustParseAddr("10.77.0.1") },
		"no IPv6 outside": func(e *fabric.Endpoint) { e.Addr6 = netip.Addr{} },
	} {
		t.Run(name, func(t *testing.T) {
			e := clone(2)
			spoil(&e)
			qt.Check(t, qt.ErrorIs(f.Attach(t.Context(), e, ns), fabric.ErrConfig))
			qt.Check(t, qt.IsNil(f.Detach(t.Context(), e)), qt.Commentf("what was refused can be undone"))
		})
	}
}
