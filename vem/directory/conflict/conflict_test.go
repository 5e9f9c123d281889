package conflict_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/address"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/conflict"
	"github.com/snapctl/snapctl/vem/directory/memory"
)

func network(name, p4, p6 string) directory.Network {
	n := directory.Network{Name: name, Prefix4: netip.MustParsePrefix(p4)}
	if p6 != "" {
		n.Prefix6 = netip.MustParsePrefix(p6)
	}
	return n
}

func endpoint(network, addr, app string) directory.Endpoint {
	return directory.Endpoint{Network: network, Addr: netip.MustParseAddr(addr), App: app, ID: "id-" + app, State: directory.Running}
}

func host(name, key string, underlays ...string) directory.Host {
	h := directory.Host{Name: name, Key: key}
	for _, u := range underlays {
		h.Underlays = append(h.Underlays, directory.Underlay{Addr: netip.MustParseAddr(u)})
	}
	return h
}

func TestFind(t *testing.T) {
	now := time.Date(2026, 11, 30, 8, 0, 0, 0, time.UTC)
	d, err := directory.Init(t.Context(), memory.New().Open(), "lab", "a", now)
	qt.Assert(t, qt.IsNil(err))
	for _, h := range []directory.Host{host("a", "key-a", "192.0.2.1"), host("gone", "key-g", "10.91.0.1")} {
		_, err = d.PutHost(t.Context(), h)
		qt.Assert(t, qt.IsNil(err))
	}
	qt.Assert(t, qt.IsNil(d.RemoveHost(t.Context(), "gone")))
	s, err := d.Begin(t.Context(), "a", "key-a", now)
	qt.Assert(t, qt.IsNil(err))
	for _, n := range []directory.Network{network("default", "10.77.0.0/16", "fd77::/64"), network("lab", "10.78.0.0/16", "")} {
		_, err = s.PutNetwork(t.Context(), n.Name, address.Space{Prefix4: n.Prefix4, Prefix6: n.Prefix6}, now)
		qt.Assert(t, qt.IsNil(err))
	}
	_, err = s.LeaseBlock(t.Context(), "default", now)
	qt.Assert(t, qt.IsNil(err))
	for _, o := range s.Claim(t.Context(), []directory.Endpoint{endpoint("default", "10.77.0.2", "cache"), endpoint("lab", "10.78.5.5", "db")}) {
		qt.Assert(t, qt.IsNil(o.Err))
	}
	found := func(alone conflict.Alone) (list []string) {
		t.Helper()
		all, err := conflict.Find(t.Context(), d, alone)
		qt.Assert(t, qt.IsNil(err))
		for _, c := range all {
			qt.Check(t, qt.IsTrue(c.Text != "" && len(c.Choices) > 0), qt.Commentf("%+v", c))
			list = append(list, fmt.Sprintf("%s %s %s %s", c.Kind, c.Mine, c.There, c.Choices))
		}
		return list
	}
	qt.Check(t, qt.HasLen(found(conflict.Alone{Host: host("b", "key-b", "192.0.2.2")}), 0))
	// A host that has nothing which others have.
	qt.Check(t, qt.HasLen(found(conflict.Alone{
		Host:      host("b", "key-b", "192.0.2.2"),
		Networks:  []directory.Network{network("default", "10.77.0.0/16", "fd77::/64"), network("mine", "10.91.0.0/16", "")},
		Endpoints: []directory.Endpoint{endpoint("default", "10.77.0.200", "x"), endpoint("mine", "10.91.0.2", "y")},
	}), 0))
	// One that has joined halfway before.
	mine := endpoint("default", "10.77.0.2", "cache")
	qt.Check(t, qt.HasLen(found(conflict.Alone{Host: host("a", "key-a"), Endpoints: []directory.Endpoint{mine}}), 0))
	// One that has all there is.
	qt.Check(t, qt.DeepEquals(found(conflict.Alone{
		Host: host("a", "key-b", "10.77.5.5"),
		Networks: []directory.Network{
			network("default", "10.79.0.0/16", "fd77::/64"), network("mine", "10.78.128.0/17", ""), network("real", "192.0.0.0/16", ""),
		},
		Endpoints: []directory.Endpoint{endpoint("default", "10.77.0.2", "web"), endpoint("real", "192.0.0.2", "cache")},
	}), []string{
		"host-name a a [rename-host remove-other-host]",
		"prefixes default default [rename-network renumber-network]",
		"overlap mine lab [renumber-network]",
		"underlay 10.77.5.5 default [other-underlay]",
		"address web cache [new-address remove-app]",
		"app-name cache cache [rename-app remove-app]",
	}))
	qt.Check(t, qt.DeepEquals(found(conflict.Alone{
		Host:      host("gone", "key-g"),
		Networks:  []directory.Network{network("real", "192.0.0.0/16", ""), network("free", "10.91.0.0/16", "")},
		Endpoints: []directory.Endpoint{endpoint("default", "10.77.0.9", "x")},
	}), []string{
		"host-name gone gone [rename-host]",
		"underlay 192.0.2.1 real [renumber-network]",
		"block x 10.77.0.0/26 [new-address remove-app]",
	}))
}
