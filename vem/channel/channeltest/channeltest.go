// Package channeltest has the tests that every [channel.Module] passes: what its methods promise
// about each other. What becomes of packets is tested beside each module.
package channeltest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/snapctl/snapctl/vem/channel"
)

// Rig is what a module is tested with.
type Rig struct {
	// Open opens the module of a network with the prefixes 10.77.0.0/16 and fd77::/64, again and
	// again: each time it finds what the one before left, which is closed by then.
	Open func(t *testing.T) channel.Module
	// Underlay are two addresses of this host on devices with an MTU of 1500.
	Underlay [2]channel.Underlay
	// Complete gives a host what the module needs beside its name, kind and addresses; nil: it
	// needs nothing.
	Complete func(h *channel.Host)
}

// suite is one test's module and rig.
type suite struct {
	Rig
	m channel.Module
}

// Run tests a module. make makes a rig with nothing in it for each test.
func Run(t *testing.T, make func(t *testing.T) Rig) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, *suite){
		"hosts": testHosts, "refused hosts": testRefusedHosts, "routes": testRoutes, "refused routes": testRefusedRoutes,
		"remove host": testRemoveHost, "underlay": testUnderlay, "survive": testSurvive, "delete": testDelete,
		"many routes": testManyRoutes, "beyond": testBeyond,
	} {
		t.Run(name, func(t *testing.T) {
			s := &suite{Rig: make(t)}
			s.m = s.Open(t)
			t.Cleanup(func() {
				s.check(t, s.m.Delete(context.WithoutCancel(t.Context())))
				s.check(t, s.m.Close())
			})
			s.check(t, s.m.SetUnderlay(t.Context(), s.Underlay[:]))
			test(t, s)
		})
	}
}

func (s *suite) check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// host is the n-th other host, at the other end of the first underlay address.
func (s *suite) host(n int) channel.Host {
	remote := s.Underlay[0].Addr
	for range n {
		remote = remote.Next()
	}
	h := channel.Host{Name: fmt.Sprint("host", n), Kind: s.m.Kinds()[0], Local: s.Underlay[0].Addr, Remote: remote}
	if s.Complete != nil {
		s.Complete(&h)
	}
	return h
}

// hosts fails unless these are all.
func (s *suite) hosts(t *testing.T, want ...channel.Host) {
	t.Helper()
	all, err := s.m.Hosts(t.Context())
	s.check(t, err)
	got := map[string]channel.Host{}
	for name, status := range all {
		if status.MTU < 1280 || status.MTU > 1500 {
			t.Errorf("MTU of %s is %d", name, status.MTU)
		}
		status.Host.MTU = 0 // may be what the device says
		got[name] = status.Host
	}
	expected := map[string]channel.Host{}
	for _, h := range want {
		h.MTU = 0
		expected[h.Name] = h
	}
	if diff := cmp.Diff(expected, got, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("hosts (-want +got):\n%s", diff)
	}
}

// routes fails unless these are all.
func (s *suite) routes(t *testing.T, want ...channel.Route) {
	t.Helper()
	got, err := s.m.Routes(t.Context())
	s.check(t, err)
	order := func(a, b channel.Route) int { return a.Addr.Compare(b.Addr) }
	slices.SortFunc(got, order)
	slices.SortFunc(want, order)
	if !slices.Equal(got, want) {
		t.Errorf("routes are %v, want %v", got, want)
	}
}

func (s *suite) refused(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

func testHosts(t *testing.T, s *suite) {
	t.Helper()
	one, two := s.host(1), s.host(2)
	for range 2 {
		s.check(t, s.m.SetHost(t.Context(), one))
		s.check(t, s.m.SetHost(t.Context(), two))
		s.hosts(t, one, two)
	}
	// Another interface, kind and size; accepted kinds and sources come and go.
	for _, k := range s.m.Kinds() {
		one.Kind = k
		one.Local, one.Remote = s.Underlay[1].Addr, s.Underlay[1].Addr.Next()
		one.Sources = []netip.Addr{s.host(1).Remote}
		s.check(t, s.m.SetHost(t.Context(), one))
		s.hosts(t, one, two)
		one.Sources, one.MTU = nil, 1400
		s.check(t, s.m.SetHost(t.Context(), one))
		s.hosts(t, one, two)
	}
	all, err := s.m.Hosts(t.Context())
	s.check(t, err)
	if mtu := all[one.Name].MTU; mtu > 1400 {
		t.Errorf("MTU is %d, and the underlay's 1400", mtu)
	}
	report, err := s.m.Report(t.Context())
	s.check(t, err)
	if counters, ok := report.Hosts[one.Name]; !ok || counters != (channel.Counters{}) || !counters.Last().IsZero() {
		t.Errorf("counters of %s are %v, %t", one.Name, counters, ok)
	}
	for range 2 {
		s.check(t, s.m.RemoveHost(t.Context(), one.Name))
		s.hosts(t, two)
	}
}

func testRefusedHosts(t *testing.T, s *suite) {
	t.Helper()
	s.check(t, s.m.SetHost(t.Context(), s.host(2)))
	for name, bad := range map[string]struct {
		change func(*channel.Host)
		want   error
	}{
		"name":        {func(h *channel.Host) { h.Name = "" }, channel.ErrHost},
		"long name":   {func(h *channel.Host) { h.Name = string(make([]byte, 64)) }, channel.ErrHost},
		"no kind":     {func(h *channel.Host) { h.Kind = 0 }, channel.ErrKind},
		"accept":      {func(h *channel.Host) { h.Accept = []channel.Kind{99} }, channel.ErrKind},
		"no remote":   {func(h *channel.Host) { h.Remote = netip.Addr{} }, channel.ErrHost},
		"families":    {func(h *channel.Host) { h.Remote = netip.MustParseAddr("2001:db8::1") }, channel.ErrHost},
		"itself":      {func(h *channel.Host) { h.Remote = h.Local }, channel.ErrHost},
		"multicast":   {func(h *channel.Host) { h.Remote = netip.MustParseAddr("224.0.0.1") }, channel.ErrHost},
		"mapped":      {func(h *channel.Host) { h.Sources = []netip.Addr{netip.AddrFrom16(h.Remote.As16())} }, channel.ErrHost},
		"not here":    {func(h *channel.Host) { h.Local = netip.MustParseAddr("198.51.100.77") }, channel.ErrUnderlay},
		"negative":    {func(h *channel.Host) { h.MTU = -1 }, channel.ErrHost},
		"small":       {func(h *channel.Host) { h.MTU = 1279 }, channel.ErrMTU},
		"of another":  {func(h *channel.Host) { h.Remote = s.host(2).Remote }, channel.ErrHost},
		"of another2": {func(h *channel.Host) { h.Sources = []netip.Addr{s.host(2).Remote} }, channel.ErrHost},
	} {
		h := s.host(1)
		bad.change(&h)
		if err := s.m.SetHost(t.Context(), h); !errors.Is(err, bad.want) {
			t.Errorf("%s: got %v, want %v", name, err, bad.want)
		}
	}
	s.hosts(t, s.host(2))
}

func testRoutes(t *testing.T, s *suite) {
	t.Helper()
	s.check(t, s.m.SetHost(t.Context(), s.host(1)))
	s.check(t, s.m.SetHost(t.Context(), s.host(2)))
	four, six := netip.MustParseAddr("10.77.0.9"), netip.MustParseAddr("fd77::9")
	opening := []channel.Route{{Addr: four, Host: "host1", State: channel.Opening}, {Addr: six, Host: "host1", State: channel.Opening}}
	for range 2 {
		s.check(t, s.m.SetRoutes(t.Context(), opening))
		s.routes(t, opening...)
	}
	open := []channel.Route{{Addr: four, Host: "host1", State: channel.Open}, {Addr: six, Host: "host2", State: channel.Open}}
	s.check(t, s.m.SetRoutes(t.Context(), open))
	s.routes(t, open...)
	for range 2 {
		s.check(t, s.m.RemoveRoutes(t.Context(), []netip.Addr{four}))
		s.routes(t, open[1])
	}
	s.check(t, s.m.SetRoutes(t.Context(), nil))
	s.check(t, s.m.RemoveRoutes(t.Context(), nil))
	s.routes(t, open[1])
}

func testRefusedRoutes(t *testing.T, s *suite) {
	t.Helper()
	s.check(t, s.m.SetHost(t.Context(), s.host(1)))
	good := channel.Route{Addr: netip.MustParseAddr("10.77.0.9"), Host: "host1", State: channel.Open}
	for name, change := range map[string]func(*channel.Route){
		"no address": func(r *channel.Route) { r.Addr = netip.Addr{} },
		"outside":    func(r *channel.Route) { r.Addr = netip.MustParseAddr("192.0.2.1") },
		"mapped":     func(r *channel.Route) { r.Addr = netip.MustParseAddr("::ffff:10.77.0.9") },
		"no host":    func(r *channel.Route) { r.Host = "host7" },
		"no state":   func(r *channel.Route) { r.State = 0 },
	} {
		bad := good
		change(&bad)
		if err := s.m.SetRoutes(t.Context(), []channel.Route{good, bad}); !errors.Is(err, channel.ErrRoute) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	s.routes(t)
}

func testRemoveHost(t *testing.T, s *suite) {
	t.Helper()
	s.check(t, s.m.SetHost(t.Context(), s.host(1)))
	s.check(t, s.m.SetHost(t.Context(), s.host(2)))
	s.check(t, s.m.SetRoutes(t.Context(), []channel.Route{
		{Addr: netip.MustParseAddr("10.77.0.1"), Host: "host1", State: channel.Open},
		{Addr: netip.MustParseAddr("10.77.0.2"), Host: "host2", State: channel.Open},
		{Addr: netip.MustParseAddr("fd77::1"), Host: "host1", State: channel.Opening},
	}))
	s.check(t, s.m.RemoveHost(t.Context(), "host1"))
	s.check(t, s.m.RemoveHost(t.Context(), "nobody"))
	s.routes(t, channel.Route{Addr: netip.MustParseAddr("10.77.0.2"), Host: "host2", State: channel.Open})
	// Its addresses may be another's now.
	h := s.host(1)
	h.Name = "successor"
	s.check(t, s.m.SetHost(t.Context(), h))
	s.hosts(t, s.host(2), h)
}

func testUnderlay(t *testing.T, s *suite) {
	t.Helper()
	bad := s.Underlay[0]
	bad.Device = "nodevice0"
	s.refused(t, s.m.SetUnderlay(t.Context(), []channel.Underlay{bad}), channel.ErrUnderlay)
	bad = s.Underlay[0]
	bad.Addr = netip.Addr{}
	s.refused(t, s.m.SetUnderlay(t.Context(), []channel.Underlay{bad}), channel.ErrUnderlay)
	bad.Addr = netip.MustParseAddr("10.77.0.1")
	s.refused(t, s.m.SetUnderlay(t.Context(), []channel.Underlay{bad}), channel.ErrUnderlay)
	s.check(t, s.m.SetHost(t.Context(), s.host(1)))
	s.check(t, s.m.SetUnderlay(t.Context(), s.Underlay[1:]))
	s.hosts(t, s.host(1)) // a host keeps its channel: its user moves it
	s.refused(t, s.m.SetHost(t.Context(), s.host(2)), channel.ErrUnderlay)
	s.check(t, s.m.SetUnderlay(t.Context(), nil))
	s.check(t, s.m.SetUnderlay(t.Context(), s.Underlay[:]))
	s.check(t, s.m.SetHost(t.Context(), s.host(2)))
}

func testSurvive(t *testing.T, s *suite) {
	t.Helper()
	h := s.host(1)
	h.Accept, h.Sources = s.m.Kinds()[1:], []netip.Addr{s.Underlay[1].Addr.Next()}
	s.check(t, s.m.SetHost(t.Context(), h))
	s.check(t, s.m.SetHost(t.Context(), s.host(2)))
	routes := []channel.Route{
		{Addr: netip.MustParseAddr("10.77.0.1"), Host: "host1", State: channel.Open},
		{Addr: netip.MustParseAddr("fd77::1"), Host: "host2", State: channel.Opening},
	}
	s.check(t, s.m.SetRoutes(t.Context(), routes))
	s.check(t, s.m.Close())
	s.m = s.Open(t)
	s.hosts(t, h, s.host(2))
	s.routes(t, routes...)
	s.check(t, s.m.SetUnderlay(t.Context(), s.Underlay[:]))
	s.check(t, s.m.SetHost(t.Context(), h))
	s.hosts(t, h, s.host(2))
	s.routes(t, routes...)
}

func testDelete(t *testing.T, s *suite) {
	t.Helper()
	s.check(t, s.m.SetHost(t.Context(), s.host(1)))
	s.check(t, s.m.SetRoutes(t.Context(), []channel.Route{{Addr: netip.MustParseAddr("10.77.0.1"), Host: "host1", State: channel.Open}}))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	s.refused(t, s.m.SetHost(ended, s.host(2)), context.Canceled)
	s.check(t, s.m.Delete(t.Context()))
	s.check(t, s.m.Delete(t.Context()))
	_, err := s.m.Hosts(t.Context())
	s.refused(t, err, fs.ErrClosed)
	s.refused(t, s.m.SetUnderlay(t.Context(), nil), fs.ErrClosed)
	s.refused(t, s.m.SetRoutes(t.Context(), nil), fs.ErrClosed)
	s.m = s.Open(t)
	s.hosts(t)
	s.routes(t)
}

func testManyRoutes(t *testing.T, s *suite) {
	t.Helper()
	s.check(t, s.m.SetHost(t.Context(), s.host(1)))
	var list []channel.Route
	addr := netip.MustParseAddr("10.77.0.1")
	for range 10_000 {
		list = append(list, channel.Route{Addr: addr, Host: "host1", State: channel.Open})
		addr = addr.Next()
	}
	s.check(t, s.m.SetRoutes(t.Context(), list))
	s.routes(t, list...)
	s.check(t, s.m.RemoveHost(t.Context(), "host1"))
	s.routes(t)
}
