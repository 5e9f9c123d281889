package slowpath_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/netns"
	"github.com/snapctl/snapctl/vem/slowpath"
)

// patience bounds what a test waits for; nothing takes as long unless it is broken.
const patience = 20 * time.Second

var (
	prefix4 = netip.MustParsePrefix("10.77.0.0/16")
	prefix6 = netip.MustParsePrefix("fd77::/64")
)

// appEndpoint is that of a site's app.
var appEndpoint = fabric.Endpoint{App: "app", Addr4: addr("10.77.0.2"), Addr6: addr("fd77::2")}

// site is a network on a scratch host, with an app in it and a machine beyond it that has all
// addresses of 10.77.1.0/24 and fd77::1:0/112. Nothing leads there but the ways that a test opens.
//
//	app 10.77.0.2, fd77::2 ── fabric ── far (198.51.100.2 on the link)
type site struct {
	tb     testing.TB
	config fabric.Config
	fabric *fabric.Fabric
	nl     *netlink.Handle // in the fabric
	app    *netns.NS
	far    *netns.NS
	link   int // to far

	mu      sync.Mutex
	resolve func(ctx context.Context, q slowpath.Query) (slowpath.Way, error)
	queries []slowpath.Query
}

func newSite(tb testing.TB) *site {
	tb.Helper()
	s := &site{tb: tb, app: newNS(tb), far: newNS(tb)}
	s.config = fabric.Config{Network: "default", Prefix4: prefix4, Prefix6: prefix6, Dir: tb.TempDir(), Host: newNS(tb)}
	var err error
	s.fabric, err = fabric.Open(tb.Context(), s.config)
	qt.Assert(tb, qt.IsNil(err))
	tb.Cleanup(func() {
		qt.Check(tb, qt.IsNil(s.fabric.Delete(context.WithoutCancel(tb.Context()))))
		qt.Check(tb, qt.IsNil(s.fabric.Close()))
	})
	qt.Assert(tb, qt.IsNil(s.fabric.Attach(tb.Context(), appEndpoint, s.app)))
	s.nl = handle(tb, s.fabric.Namespace())
	s.join()
	return s
}

// join connects the far machine to the fabric.
func (s *site) join() {
	s.tb.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "far0"
	v := netlink.NewVeth(attrs)
	v.PeerName, v.PeerNamespace = "eth0", netlink.NsFd(s.far.File().Fd())
	qt.Assert(s.tb, qt.IsNil(s.nl.LinkAdd(v)))
	farNL := handle(s.tb, s.far)
	near, err := s.nl.LinkByName("far0")
	qt.Assert(s.tb, qt.IsNil(err))
	eth, err := farNL.LinkByName("eth0")
	qt.Assert(s.tb, qt.IsNil(err))
	lo, err := farNL.LinkByName("lo")
	qt.Assert(s.tb, qt.IsNil(err))
	s.link = near.Attrs().Index
	sysctl(s.tb, s.fabric.Namespace(), "ipv4/conf/far0/rp_filter", "0") // it answers before its way is open to all
	for _, set := range []struct {
		nl   *netlink.Handle
		link netlink.Link
		addr string
	}{
		{s.nl, near, "198.51.100.1/30"},
		{farNL, eth, "198.51.100.2/30"},
		{s.nl, near, "2001:db8::1/64"},
		{farNL, eth, "2001:db8::2/64"},
		{farNL, lo, "10.77.1.0/24"},
	} {
		a, err := netlink.ParseAddr(set.addr)
		qt.Assert(s.tb, qt.IsNil(err))
		a.Flags = unix.IFA_F_NODAD
		qt.Assert(s.tb, qt.IsNil(set.nl.AddrAdd(set.link, a)))
	}
	qt.Assert(s.tb, qt.IsNil(s.nl.LinkSetUp(near)))
	qt.Assert(s.tb, qt.IsNil(farNL.LinkSetUp(eth)))
	for _, set := range []struct {
		nl     *netlink.Handle
		link   netlink.Link
		far    netlink.Link
		v4, v6 string
	}{{s.nl, near, eth, "198.51.100.2", "2001:db8::2"}, {farNL, eth, near, "198.51.100.1", "2001:db8::1"}} {
		// So that it can send at once: see what package fabric does with its own.
		qt.Assert(s.tb, qt.IsNil(set.nl.QdiscReplace(&netlink.GenericQdisc{
			QdiscAttrs: netlink.QdiscAttrs{LinkIndex: set.link.Attrs().Index, Parent: netlink.HANDLE_ROOT}, QdiscType: "noqueue",
		})))
		for _, a := range []string{set.v4, set.v6} {
			qt.Assert(s.tb, qt.IsNil(set.nl.NeighSet(&netlink.Neigh{
				LinkIndex: set.link.Attrs().Index, Family: family(addr(a)), State: netlink.NUD_PERMANENT,
				IP: net.ParseIP(a), HardwareAddr: set.far.Attrs().HardwareAddr,
			})))
		}
	}
	local := &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: ipNet("fd77::1:0/112"), Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL}
	qt.Assert(s.tb, qt.IsNil(farNL.RouteAdd(local)))
	for dst, via := range map[string]string{"10.77.0.0/16": "198.51.100.1", "fd77::/64": "2001:db8::1"} {
		qt.Assert(s.tb, qt.IsNil(farNL.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Dst: ipNet(dst), Gw: net.ParseIP(via)})))
	}
}

// Resolve implements slowpath.Resolver: the far machine has what it has, and nobody the rest,
// unless the test says otherwise.
func (s *site) Resolve(ctx context.Context, q slowpath.Query) (slowpath.Way, error) {
	s.mu.Lock()
	s.queries = append(s.queries, q)
	fn := s.resolve
	s.mu.Unlock()
	if fn != nil {
		return fn(ctx, q)
	}
	return s.wayTo(q.Destination)
}

func (s *site) wayTo(a netip.Addr) (slowpath.Way, error) {
	if netip.MustParsePrefix("10.77.1.0/24").Contains(a) || netip.MustParsePrefix("fd77::1:0/112").Contains(a) {
		return way{s, a}, nil
	}
	return nil, slowpath.ErrNobody
}

// setResolve replaces what Resolve does.
func (s *site) setResolve(fn func(ctx context.Context, q slowpath.Query) (slowpath.Way, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resolve = fn
}

func (s *site) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queries)
}

// way leads to the far machine. What comes out of the slow path's device takes the routes of a
// table of its own first. Not so in IPv6, where the fabric would drop the answers.
type way struct {
	s *site
	a netip.Addr
}

// aside is the table that only packets from the slow path's device look into.
const aside = 77

func (y way) Prepare(context.Context) error {
	if y.a.Is6() {
		return y.route(unix.RT_TABLE_MAIN)
	}
	return y.route(aside)
}

func (y way) Open(context.Context) error { return y.route(unix.RT_TABLE_MAIN) }

func (y way) route(table int) error {
	gw := net.ParseIP("198.51.100.2")
	if y.a.Is6() {
		gw = net.ParseIP("2001:db8::2")
	}
	return y.s.nl.RouteReplace(&netlink.Route{LinkIndex: y.s.link, Dst: single(y.a), Gw: gw, Table: table})
}

// closeWay takes the way away from everybody, as far as it is there.
func (s *site) closeWay(a netip.Addr) {
	s.tb.Helper()
	for _, table := range []int{unix.RT_TABLE_MAIN, aside} {
		err := s.nl.RouteDel(&netlink.Route{LinkIndex: s.link, Dst: single(a), Table: table})
		qt.Assert(s.tb, qt.IsTrue(err == nil || errors.Is(err, unix.ESRCH)), qt.Commentf("%v", err))
	}
}

// hasWay tells whether a way is open to everybody.
func (s *site) hasWay(a netip.Addr) bool {
	s.tb.Helper()
	routes, err := s.nl.RouteListFiltered(family(a), &netlink.Route{Dst: single(a)}, netlink.RT_FILTER_DST)
	qt.Assert(s.tb, qt.IsNil(err))
	return len(routes) > 0
}

// options are those of the site's slow path.
func (s *site) options() slowpath.Options {
	return slowpath.Options{
		Network: "default", NS: s.fabric.Namespace(), Prefixes: []netip.Prefix{prefix4, prefix6}, MTU: fabric.DefaultMTU,
		Resolver: s, Log: slog.New(slog.DiscardHandler),
	}
}

// open opens the slow path, and closes it when the test ends.
func (s *site) open(o slowpath.Options) *slowpath.Path {
	s.tb.Helper()
	p, err := slowpath.Open(s.tb.Context(), o)
	qt.Assert(s.tb, qt.IsNil(err))
	s.tb.Cleanup(func() { qt.Check(s.tb, qt.IsNil(p.Close())) })
	rule := netlink.NewRule()
	rule.IifName, rule.Table, rule.Family, rule.Priority = "slow0", aside, netlink.FAMILY_V4, 100
	if err := s.nl.RuleAdd(rule); err != nil {
		qt.Assert(s.tb, qt.ErrorIs(err, unix.EEXIST))
	}
	return p
}

func newNS(tb testing.TB) *netns.NS {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("needs root: makes network namespaces and devices")
	}
	ns, err := netns.New()
	qt.Assert(tb, qt.IsNil(err))
	tb.Cleanup(func() { ns.Close() })
	return ns
}

func handle(tb testing.TB, ns *netns.NS) (h *netlink.Handle) {
	tb.Helper()
	qt.Assert(tb, qt.IsNil(ns.Do(func() (err error) {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})))
	tb.Cleanup(h.Close)
	return h
}

func sysctl(tb testing.TB, ns *netns.NS, path, value string) {
	tb.Helper()
	qt.Assert(tb, qt.IsNil(ns.Do(func() error { return os.WriteFile("/proc/sys/net/"+path, []byte(value), 0) })))
}

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

func single(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

func ipNet(text string) *net.IPNet {
	p := netip.MustParsePrefix(text)
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
