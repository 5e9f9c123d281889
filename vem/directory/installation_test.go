package directory_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/address"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/memory"
)

func TestInit(t *testing.T) {
	server := memory.New()
	s := server.Open()
	_, err := directory.Open(t.Context(), s, "lab", directory.Known{})
	qt.Check(t, qt.ErrorIs(err, directory.ErrNoInstallation))
	_, err = directory.Init(t.Context(), s, "a/b", "a", now)
	qt.Check(t, qt.IsNotNil(err))
	d, err := directory.Init(t.Context(), s, "lab", "a", now)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(d.Installation(), "lab"))
	qt.Check(t, qt.Equals(d.Meta().MadeBy, "a"))
	_, err = directory.Init(t.Context(), s, "lab", "b", now)
	qt.Check(t, qt.ErrorIs(err, directory.ErrInstalled))
	_, err = directory.Init(t.Context(), s, "other", "b", now)
	qt.Check(t, qt.IsNil(err))
	s.Next(memory.Lost)
	_, err = directory.Init(t.Context(), s, "third", "b", now)
	qt.Check(t, qt.ErrorIs(err, directory.ErrUnsure))
	_, err = directory.Open(t.Context(), s, "third", directory.Known{})
	qt.Check(t, qt.IsNil(err))
	again, err := directory.Open(t.Context(), s, "lab", d.Known())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(again.Meta(), d.Meta()))
}

// A directory that came back without what this host has seen is refused, in all that is asked.
func TestLost(t *testing.T) {
	for name, test := range map[string]struct {
		bad  func(w *world)
		text string
	}{
		"empty": {func(w *world) { w.server.Restore(memory.Backup{}) }, "it came back empty"},
		"anew": {func(w *world) {
			w.server.Restore(memory.Backup{})
			for i := range 20 {
				_, err := w.server.Open().Commit(w.Context(), directory.Txn{Puts: []directory.Put{{Key: fmt.Sprint("/other/", i)}}})
				qt.Assert(w, qt.IsNil(err))
			}
			_, err := directory.Init(w.Context(), w.server.Open(), "lab", "a", now)
			qt.Assert(w, qt.IsNil(err))
		}, "it was set up anew"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "a")
			a := w.hosts["a"]
			e := a.mustClaim("cache", "10.77.0.2")
			known := a.d.Known()
			test.bad(w)
			var lost *directory.LostError
			_, err := directory.Open(t.Context(), a.store, "lab", known)
			qt.Assert(t, qt.ErrorAs(err, &lost))
			qt.Check(t, qt.ErrorMatches(err, ".*refuse the directory of installation lab: "+test.text+". Restore it from its newest snapshot.*"))
			_, err = a.d.Check(t.Context())
			qt.Check(t, qt.ErrorAs(err, &lost))
			_, err = a.lookup("10.77.0.2")
			qt.Check(t, qt.ErrorAs(err, &lost))
			_, err = a.d.LookupApp(t.Context(), "cache")
			qt.Check(t, qt.ErrorAs(err, &lost))
			_, err = a.claim("other", "10.77.0.3")
			qt.Check(t, qt.IsNotNil(err))
			_, err = a.s.Update(t.Context(), e, directory.Held, "")
			qt.Check(t, qt.IsNotNil(err))
			_, err = a.s.Confirm(t.Context(), []directory.Endpoint{e}, "boot")
			qt.Check(t, qt.IsNotNil(err))
			_, _, _, err = a.d.Follow(t.Context())
			qt.Check(t, qt.ErrorAs(err, &lost))
		})
	}
}

// An older directory is refused, unless the host forgets what it has seen.
func TestOlder(t *testing.T) {
	w := newWorld(t, "a", "b")
	a := w.hosts["a"]
	backup := w.server.Backup()
	a.mustClaim("cache", "10.77.0.2")
	known := a.d.Known()
	w.server.Restore(backup)
	var lost *directory.LostError
	_, err := directory.Open(t.Context(), a.store, "lab", known)
	qt.Assert(t, qt.ErrorAs(err, &lost))
	qt.Check(t, qt.ErrorMatches(err, ".*it is older than what this host has seen.*"))
	_, err = a.d.Check(t.Context())
	qt.Check(t, qt.ErrorAs(err, &lost))
	a.d, err = directory.Open(t.Context(), a.store, "lab", directory.Known{})
	qt.Assert(t, qt.IsNil(err))
	a.begin()
	a.mustClaim("cache", "10.77.0.2")
	known = a.d.Known()
	_, err = directory.Open(t.Context(), a.store, "lab", known)
	qt.Check(t, qt.IsNil(err))
}

func TestHosts(t *testing.T) {
	w := newWorld(t, "a", "b")
	d := w.hosts["a"].d
	h := directory.Host{
		Name: "c", Key: "key-c", Release: "1.2.0", Protocols: [2]int{1, 3}, JoinedAt: now,
		Underlays: []directory.Underlay{{Addr: netip.MustParseAddr("192.0.2.7"), Interface: "eth1", Priority: 10}, {Addr: netip.MustParseAddr("2001:db8::7")}},
	}
	h, err := d.PutHost(t.Context(), h)
	qt.Assert(t, qt.IsNil(err))
	got, err := w.hosts["b"].d.Host(t.Context(), "c")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, same(got, h))
	list, err := d.Hosts(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(list, 3))
	// Its addresses change; when it joined does not.
	h.Underlays, h.JoinedAt = h.Underlays[:1], now.AddDate(1, 0, 0)
	h, err = d.PutHost(t.Context(), h)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(h.JoinedAt, now))
	// It is cordoned until it is said otherwise, whatever else it says of itself.
	for _, cordoned := range []bool{true, false} {
		qt.Assert(t, qt.IsNil(w.hosts["b"].d.SetCordoned(t.Context(), "c", cordoned)))
		h.Cordoned = !cordoned
		h, err = d.PutHost(t.Context(), h)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(h.Cordoned, cordoned))
		got, err = d.Host(t.Context(), "c")
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, same(got, h))
	}
	var host *directory.HostError
	_, err = d.PutHost(t.Context(), directory.Host{Name: "c", Key: "key-d"})
	qt.Assert(t, qt.ErrorAs(err, &host))
	qt.Check(t, qt.Equals(host.Why, directory.HostOther))
	qt.Assert(t, qt.IsNil(d.RemoveHost(t.Context(), "c")))
	_, err = d.PutHost(t.Context(), h)
	qt.Assert(t, qt.ErrorAs(err, &host))
	qt.Check(t, qt.Equals(host.Why, directory.HostRemoved))
	qt.Assert(t, qt.ErrorAs(d.RemoveHost(t.Context(), "none"), &host))
	qt.Assert(t, qt.ErrorAs(d.SetCordoned(t.Context(), "none", true), &host))
	qt.Check(t, qt.Equals(host.Why, directory.HostUnknown))
	qt.Assert(t, qt.ErrorAs(d.SetCordoned(t.Context(), "c", true), &host))
	qt.Check(t, qt.Equals(host.Why, directory.HostRemoved))
	for _, bad := range []directory.Host{
		{Name: "", Key: "k"},
		{Name: "x/y", Key: "k"},
		{Name: "x"},
		{Name: "x", Key: "k", Protocols: [2]int{2, 1}},
		{Name: "x", Key: "k", Underlays: make([]directory.Underlay, 1)},
		{Name: "x", Key: "k", Underlays: make([]directory.Underlay, 65)},
	} {
		_, err := d.PutHost(t.Context(), bad)
		qt.Check(t, qt.IsNotNil(err), qt.Commentf("%+v", bad))
	}
}

// Of two hosts that join under one name at the same time, one is refused.
func TestOneName(t *testing.T) {
	w := newWorld(t, "a", "b")
	errs := make([]error, 8)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() {
			_, errs[i] = w.hosts[[]string{"a", "b"}[i%2]].d.PutHost(t.Context(), directory.Host{Name: "c", Key: fmt.Sprint("key-", i)})
		})
	}
	all.Wait()
	joined := 0
	for _, err := range errs {
		var host *directory.HostError
		if err == nil {
			joined++
		} else {
			qt.Check(t, qt.ErrorAs(err, &host))
		}
	}
	qt.Check(t, qt.Equals(joined, 1))
}

func TestSeen(t *testing.T) {
	w := newWorld(t, "a", "b")
	stop := w.hosts["a"].alive()
	w.server.Drop() // the lease is gone; the host is seen again as soon as it notices
	w.await(func() bool {
		seen, err := w.hosts["b"].d.Seen(t.Context())
		qt.Assert(t, qt.IsNil(err))
		return seen["a"] && !seen["b"]
	})
	stop()
	seen, err := w.hosts["b"].d.Seen(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(seen, 0))
}

func TestNetworks(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.hosts["a"], w.hosts["b"]
	of := func(p4, p6 string) address.Space {
		s := address.Space{Prefix4: netip.MustParsePrefix(p4)}
		if p6 != "" {
			s.Prefix6 = netip.MustParsePrefix(p6)
		}
		return s
	}
	n, err := b.s.PutNetwork(t.Context(), "default", space, now)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(n.MadeBy, "a"))
	small, err := b.s.PutNetwork(t.Context(), "small", of("10.80.0.0/29", ""), now)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(small.BlockBits, 32))
	for name, test := range map[string]struct {
		name  string
		space address.Space
		text  string
	}{
		"other prefix":    {"default", of("10.78.0.0/16", "fd77::/64"), ".*network default has the prefixes 10.77.0.0/16 and fd77::/64 in this installation, not 10.78.0.0/16 and fd77::/64"},
		"no IPv6":         {"default", of("10.77.0.0/16", ""), ".*not 10.77.0.0/16"},
		"inside":          {"x", of("10.77.5.0/24", ""), ".*the prefixes of network x, 10.77.5.0/24, overlap those of network default.*"},
		"around":          {"x", of("10.0.0.0/8", ""), ".*overlap.*"},
		"IPv6":            {"x", of("10.90.0.0/16", "fd77::/48"), ".*overlap.*"},
		"not the default": {"x", of("10.80.0.4/30", ""), ".*overlap those of network small.*"},
	} {
		_, err := a.s.PutNetwork(t.Context(), test.name, test.space, now)
		var conflict *directory.NetworkError
		qt.Assert(t, qt.ErrorAs(err, &conflict), qt.Commentf("%s", name))
		qt.Check(t, qt.ErrorMatches(err, test.text), qt.Commentf("%s", name))
	}
	_, err = a.s.PutNetwork(t.Context(), "bad", of("10.90.0.1/16", ""), now)
	qt.Check(t, qt.ErrorIs(err, address.ErrPrefix))
	list, err := a.d.Networks(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(list, 2))
	a.store.Next(memory.Lost)
	_, err = a.s.PutNetwork(t.Context(), "lost", of("10.91.0.0/16", ""), now)
	qt.Check(t, qt.IsNil(err))
}

// Of networks that overlap and are made at the same time, one is made.
func TestNetworksAtOnce(t *testing.T) {
	w := newWorld(t, "a", "b")
	errs := make([]error, 8)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() {
			s := address.Space{Prefix4: netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/%d", 80+i/2*2, 15+i%2))}
			_, errs[i] = w.hosts[[]string{"a", "b"}[i%2]].s.PutNetwork(t.Context(), fmt.Sprint("n", i), s, now)
		})
	}
	all.Wait()
	for i := 0; i < len(errs); i += 2 {
		qt.Check(t, qt.Equals(errs[i] == nil, errs[i+1] != nil), qt.Commentf("%v, %v", errs[i], errs[i+1]))
	}
}

func TestBlocks(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.hosts["a"], w.hosts["b"]
	n, err := a.d.Network(t.Context(), "default")
	qt.Assert(t, qt.IsNil(err))
	var blocks directory.Blocks
	used := make(map[netip.Addr]bool)
	isUsed := func(a netip.Addr) bool { return used[a] }
	_, err = blocks.Next(n, isUsed)
	qt.Check(t, qt.ErrorIs(err, address.ErrExhausted))
	qt.Check(t, qt.IsTrue(blocks.Low(n, isUsed)))
	lease := func(h *host) directory.Block {
		t.Helper()
		got, err := h.s.LeaseBlock(t.Context(), "default", now)
		qt.Assert(t, qt.IsNil(err))
		return got
	}
	blocks = blocks.With(lease(a))
	qt.Check(t, qt.Equals(blocks[0].Prefix.String(), "10.77.0.0/26"))
	qt.Check(t, qt.IsFalse(blocks.Low(n, isUsed)))
	qt.Check(t, qt.Equals(lease(b).Prefix.String(), "10.77.0.64/26"))
	// Addresses are given out until it is time to lease another block.
	for range 62 {
		next, err := blocks.Next(n, isUsed)
		qt.Assert(t, qt.IsNil(err))
		used[next] = true
		if blocks.Low(n, isUsed) {
			blocks = blocks.With(lease(a))
		}
	}
	qt.Check(t, qt.HasLen(blocks, 2))
	next, err := blocks.Next(n, isUsed)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(next.String(), "10.77.0.128"))
	qt.Check(t, qt.HasLen(blocks.Idle(n, isUsed), 0))
	got, err := a.d.Blocks(t.Context(), "a")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, same(got, blocks))
	// All apps of the first block end: it is idle.
	clear(used)
	idle := blocks.Idle(n, isUsed)
	qt.Assert(t, qt.HasLen(idle, 1))
	for range 2 {
		qt.Assert(t, qt.IsNil(a.s.ReturnBlock(t.Context(), idle[0])))
	}
	blocks = blocks.Without(idle[0])
	qt.Check(t, qt.HasLen(blocks, 1))
	qt.Check(t, qt.IsNil(b.s.ReturnBlock(t.Context(), blocks[0]))) // not its own: nothing is done

	// An address that somebody wants.
	own, err := a.s.LeaseBlockOf(t.Context(), "default", netip.MustParseAddr("10.77.9.9"), now)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(own.Prefix.String(), "10.77.9.0/26"))
	again, err := a.s.LeaseBlockOf(t.Context(), "default", netip.MustParseAddr("10.77.9.10"), now)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, same(again, own))
	_, err = b.s.LeaseBlockOf(t.Context(), "default", netip.MustParseAddr("10.77.9.10"), now)
	var other *directory.BlockError
	qt.Assert(t, qt.ErrorAs(err, &other))
	qt.Check(t, qt.Equals(other.Addr.String(), "10.77.9.10"))
	qt.Check(t, qt.Equals(other.Block.Host, "a"))
	_, err = b.s.LeaseBlockOf(t.Context(), "default", netip.MustParseAddr("10.77.0.1"), now)
	qt.Check(t, qt.ErrorIs(err, address.ErrReserved))
	_, err = b.s.LeaseBlock(t.Context(), "none", now)
	qt.Check(t, qt.ErrorIs(err, directory.ErrNotFound))
}

// Blocks that hosts lease at the same time, with answers that get lost, are never the same, and
// a network runs out of them.
func TestBlocksAtOnce(t *testing.T) {
	w := newWorld(t, "a", "b")
	_, err := w.hosts["a"].s.PutNetwork(t.Context(), "small", address.Space{Prefix4: netip.MustParsePrefix("10.80.0.0/24")}, now)
	qt.Assert(t, qt.IsNil(err))
	var all sync.WaitGroup
	for _, h := range w.hosts {
		h.store.Next(memory.Lost, memory.None, memory.Late)
		all.Go(func() {
			for {
				_, err := h.s.LeaseBlock(t.Context(), "small", now)
				if errors.Is(err, address.ErrExhausted) {
					return
				}
				if err != nil {
					t.Errorf("lease: %v", err)
					return
				}
			}
		})
	}
	all.Wait()
	blocks, err := w.hosts["a"].d.Blocks(t.Context(), "")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(blocks, 16)) // of 16 addresses each
}

func TestFollow(t *testing.T) {
	w := newWorld(t, "a", "b")
	a := w.hosts["a"]
	ctx, cancel := context.WithCancel(t.Context())
	records, rev, next, err := w.hosts["b"].d.Follow(ctx)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(rev, w.server.Revision()))
	kinds := make(map[directory.Kind]int)
	for _, r := range records {
		kinds[r.Kind]++
	}
	qt.Check(t, qt.DeepEquals(kinds, map[directory.Kind]int{
		directory.KindMeta: 1, directory.KindHost: 2, directory.KindSession: 2, directory.KindNetwork: 1, directory.KindNetworks: 1,
		directory.KindMade: 1,
	}))
	e := a.mustClaim("cache", "10.77.0.2")
	changes, err := next()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(changes, 3))
	for _, c := range changes {
		if c.Kind == directory.KindEndpoint {
			qt.Check(t, qt.Equals(c.Name, "default/10.77.0.2"))
			qt.Check(t, same(c.Value, any(&e)))
		}
	}
	cancel()
	_, err = next()
	qt.Check(t, qt.ErrorIs(err, context.Canceled))
	// Somebody deletes all of it.
	_, _, next, err = w.hosts["b"].d.Follow(t.Context())
	qt.Assert(t, qt.IsNil(err))
	_, err = w.server.Open().Commit(t.Context(), directory.Txn{Deletes: []string{"/snapctl/lab/meta"}})
	qt.Assert(t, qt.IsNil(err))
	_, err = next()
	var lost *directory.LostError
	qt.Check(t, qt.ErrorAs(err, &lost))
}
