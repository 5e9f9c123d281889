package fabric_test

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/netns"
)

// What Delete leaves: nothing.
func TestDelete(t *testing.T) {
	cfg := testConfig(t)
	cfg.Outside = fabric.OutsideDual
	f, err := fabric.Open(t.Context(), cfg)
	qt.Assert(t, qt.IsNil(err))
	app := attach(t, f, ep(2))
	qt.Assert(t, qt.IsNil(f.SetPublications(t.Context(), []fabric.Publication{
		{Proto: "tcp", HostPort: 8080, Addr: ep(2).Addr4, Port: 80},
	})))
	qt.Check(t, qt.Equals(sysctl(t, cfg.Host, "ipv4/ip_forward"), "1"))
	qt.Assert(t, qt.IsNil(f.Delete(t.Context())))
	qt.Check(t, qt.IsNil(f.Delete(t.Context())))
	qt.Assert(t, qt.IsNil(f.Close()))
	qt.Assert(t, qt.IsNil(f.Close()))
	checkClean(t, cfg)
	_, err = handle(t, app).LinkByName("eth0")
	_, none := errors.AsType[netlink.LinkNotFoundError](err)
	qt.Check(t, qt.IsTrue(none))
}

// checkClean fails if anything of a fabric is left in its host or folder.
func checkClean(t *testing.T, cfg fabric.Config) {
	t.Helper()
	h := handle(t, cfg.Host)
	links, err := h.LinkList()
	qt.Assert(t, qt.IsNil(err))
	for _, l := range links {
		qt.Check(t, qt.Equals(l.Type(), "device"), qt.Commentf(l.Attrs().Name))
	}
	routes, err := h.RouteList(nil, netlink.FAMILY_ALL)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(routes, 0))
	c, err := nftables.New(nftables.WithNetNSFd(int(cfg.Host.File().Fd())))
	qt.Assert(t, qt.IsNil(err))
	tables, err := c.ListTables()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(tables, 0))
	files, err := os.ReadDir(cfg.Dir)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(files, 0))
	qt.Check(t, qt.Equals(sysctl(t, cfg.Host, "ipv4/ip_forward"), "0"))
	qt.Check(t, qt.Equals(sysctl(t, cfg.Host, "ipv6/conf/all/forwarding"), "0"))
}

// A failed Open leaves what was there before: nothing.
func TestOpenUndoes(t *testing.T) {
	cfg := testConfig(t)
	h := handle(t, cfg.Host)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "snap-default"
	foreign := &netlink.Dummy{LinkAttrs: attrs}
	if err := h.LinkAdd(foreign); errors.Is(err, unix.EOPNOTSUPP) {
		v := netlink.NewVeth(attrs)
		v.PeerName = "other"
		qt.Assert(t, qt.IsNil(h.LinkAdd(v)))
	} else {
		qt.Assert(t, qt.IsNil(err))
	}
	_, err := fabric.Open(t.Context(), cfg)
	qt.Assert(t, qt.ErrorIs(err, fabric.ErrForeign))
	link, err := h.LinkByName("snap-default")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(h.LinkDel(link)))
	checkClean(t, cfg)
}

// Two networks with the same prefix: apart from each other, and only the first one
// has a path to the host.
func TestSamePrefix(t *testing.T) {
	cfg := testConfig(t)
	first := open(t, cfg)
	qt.Check(t, qt.IsNil(first.HostPath()))
	cfg.Network = "another-network-with-a-long-name"
	second := open(t, cfg)
	qt.Check(t, qt.ErrorIs(second.HostPath(), fabric.ErrPrefixInUse))
	qt.Check(t, qt.ErrorMatches(second.HostPath(), ".*route 10.77.0.0/16 through snap-default"))

	one, twin := attach(t, first, ep(2)), attach(t, second, ep(2))
	peer := attach(t, second, ep(3))
	serve(t, one, "10.77.0.2:80")
	_, err := dial(t, cfg.Host, netip.MustParseAddrPort("10.77.0.2:80"))
	qt.Check(t, qt.IsNil(err))
	_, err = dial(t, peer, netip.MustParseAddrPort("10.77.0.2:80"))
	qt.Check(t, qt.ErrorIs(err, unix.ECONNREFUSED), qt.Commentf("its own network's 10.77.0.2 does not listen"))
	serve(t, twin, "10.77.0.2:80")
	_, err = dial(t, peer, netip.MustParseAddrPort("10.77.0.2:80"))
	qt.Check(t, qt.IsNil(err))
	err = second.SetPublications(t.Context(), []fabric.Publication{{Proto: "tcp", HostPort: 80, Addr: ep(2).Addr4, Port: 80}})
	qt.Check(t, qt.ErrorIs(err, fabric.ErrPrefixInUse))
	qt.Check(t, qt.HasLen(second.HostDevice(), 15))
}

// Two daemons in one namespace, each with a network of the same name.
func TestForeignNetwork(t *testing.T) {
	cfg := testConfig(t)
	open(t, cfg)
	cfg.Dir = t.TempDir()
	_, err := fabric.Open(t.Context(), cfg)
	qt.Check(t, qt.ErrorIs(err, fabric.ErrForeign))
	_, err = os.Stat(filepath.Join(cfg.Dir, "default"))
	qt.Check(t, qt.ErrorIs(err, os.ErrNotExist))
}

// A closed fabric refuses, and above all does not act on the process's own
// namespace.
func TestClosed(t *testing.T) {
	f := open(t, testConfig(t))
	app := newNS(t)
	qt.Assert(t, qt.IsNil(f.Close()))
	qt.Check(t, qt.ErrorIs(f.Attach(t.Context(), ep(2), app), fs.ErrClosed))
	qt.Check(t, qt.ErrorIs(f.Detach(t.Context(), ep(2)), fs.ErrClosed))
	qt.Check(t, qt.ErrorIs(f.SetPublications(t.Context(), nil), fs.ErrClosed))
	qt.Check(t, qt.ErrorIs(f.Delete(t.Context()), fs.ErrClosed))
}

// A whole life leaves no descriptor and no mount behind.
func TestLeaks(t *testing.T) {
	cfg := testConfig(t)
	life := func() {
		f, err := fabric.Open(t.Context(), cfg)
		qt.Assert(t, qt.IsNil(err))
		defer f.Close()
		app, err := netns.New()
		qt.Assert(t, qt.IsNil(err))
		defer app.Close()
		qt.Assert(t, qt.IsNil(f.Attach(t.Context(), ep(2), app)))
		qt.Assert(t, qt.IsNotNil(f.Attach(t.Context(), ep(3), app)))
		qt.Assert(t, qt.IsNil(f.SetPublications(t.Context(), []fabric.Publication{
			{Proto: "udp", HostPort: 80, Addr: ep(2).Addr4, Port: 80},
		})))
		copied, err := netns.New()
		qt.Assert(t, qt.IsNil(err))
		defer copied.Close()
		qt.Assert(t, qt.IsNil(f.Attach(t.Context(), clone(4), copied)))
		qt.Assert(t, qt.IsNil(f.Detach(t.Context(), ep(2))))
		qt.Assert(t, qt.IsNil(f.Delete(t.Context())))
	}
	life() // what the runtime and the libraries open once
	before := descriptors(t)
	for range 5 {
		life()
	}
	qt.Check(t, qt.DeepEquals(descriptors(t), before))
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsFalse(strings.Contains(string(mounts), cfg.Dir)))
}

// descriptors counts the process's open files by what they are.
func descriptors(t *testing.T) map[string]int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	qt.Assert(t, qt.IsNil(err))
	count := map[string]int{}
	for _, e := range list {
		link, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil {
			continue // the folder itself
		}
		kind, _, _ := strings.Cut(link, ":")
		count[kind]++
	}
	return count
}
