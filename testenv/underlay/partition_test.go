package underlay_test

import (
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv/underlay"
)

func TestPartition(t *testing.T) {
	h := hosts(t, "alpha", "beta", "gamma")
	u := underlay.New(t)
	lan := network(t, u, underlay.NetworkConfig{Prefixes: []netip.Prefix{lan4, lan6}})
	wan := network(t, u, underlay.NetworkConfig{Prefixes: []netip.Prefix{wan4}})
	var onLan, onWan []*underlay.Port
	for _, h := range h {
		onLan = append(onLan, attach(t, lan, h, underlay.PortConfig{}))
		onWan = append(onWan, attach(t, wan, h, underlay.PortConfig{Line: h.Name() == "beta"}))
	}
	whole := func() {
		t.Helper()
		for i, from := range h {
			for j, to := range h {
				if i != j {
					reaches(t, from, to, onLan[j].Addr6())
					reaches(t, from, to, onWan[j].Addr4())
				}
			}
		}
	}
	whole()
	qt.Assert(t, qt.IsNil(u.Partition(underlay.Group{h[0]}, underlay.Group{h[1], h[2]})))
	silent(t, h[0], h[1], onLan[1].Addr4())
	silent(t, h[0], h[1], onWan[1].Addr4())
	silent(t, h[2], h[0], onLan[0].Addr6())
	reaches(t, h[1], h[2], onLan[2].Addr4())
	reaches(t, h[2], h[1], onWan[1].Addr4())

	qt.Assert(t, qt.IsNil(u.Partition(underlay.Group{h[1]}, underlay.Group{h[2]})))
	silent(t, h[1], h[2], onLan[2].Addr4())
	reaches(t, h[0], h[1], onLan[1].Addr6())
	reaches(t, h[0], h[2], onLan[2].Addr6())

	qt.Assert(t, qt.IsNil(u.Partition()))
	whole()
	qt.Check(t, qt.ErrorMatches(u.Partition(underlay.Group{h[1]}, underlay.Group{h[1]}), "partition: beta is in two groups"))
	whole()
}

func TestPartitionWithRouter(t *testing.T) {
	r := newRouted(t)
	err := r.u.Partition(underlay.Group{r.h[0]}, underlay.Group{r.h[1]})
	qt.Check(t, qt.ErrorMatches(err, "partition: router (edge|core) leads from one group to another: put it in one"))
	reaches(t, r.h[0], r.h[1], r.b.Addr4())
	qt.Assert(t, qt.IsNil(r.u.Partition(underlay.Group{r.h[0]}, underlay.Group{r.h[1], r.edge})))
	silent(t, r.h[0], r.h[1], r.b.Addr4())
	qt.Assert(t, qt.IsNil(r.u.Heal(t.Context())))
	reaches(t, r.h[0], r.h[1], r.b.Addr4())
}
