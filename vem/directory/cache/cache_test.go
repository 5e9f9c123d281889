package cache_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/address"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/cache"
	"github.com/snapctl/snapctl/vem/directory/codec"
	"github.com/snapctl/snapctl/vem/directory/memory"
)

var now = time.Date(2026, 11, 30, 8, 0, 0, 0, time.UTC)

// fixture is an installation with host a, which writes, and a cache of host b.
type fixture struct {
	*testing.T
	server *memory.Server
	a      *directory.Session
	store  *memory.Store // of b
	d      *directory.Directory
	c      *cache.Cache
	told   chan string
	end    context.CancelFunc
	ended  chan error
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{T: t, server: memory.New(), told: make(chan string, 100), ended: make(chan error, 1)}
	d, err := directory.Init(t.Context(), f.server.Open(), "lab", "a", now)
	qt.Assert(t, qt.IsNil(err))
	for _, name := range []string{"a", "b"} {
		_, err = d.PutHost(t.Context(), directory.Host{Name: name, Key: "key"})
		qt.Assert(t, qt.IsNil(err))
	}
	f.a, err = d.Begin(t.Context(), "a", "key", now)
	qt.Assert(t, qt.IsNil(err))
	_, err = f.a.PutNetwork(t.Context(), "default", address.Space{Prefix4: netip.MustParsePrefix("10.77.0.0/16"), Prefix6: netip.MustParsePrefix("fd77::/64")}, now)
	qt.Assert(t, qt.IsNil(err))
	f.store = f.server.Open()
	f.d, err = directory.Open(t.Context(), f.store, "lab", directory.Known{})
	qt.Assert(t, qt.IsNil(err))
	f.c = cache.New(f.d, cache.Options{
		Retry: time.Millisecond, Probe: time.Millisecond,
		Endpoint: func(before, after *directory.Endpoint) { f.told <- fmt.Sprint(owner(before), " -> ", owner(after)) },
		Host: func(before, after *directory.Host) {
			if before != nil || after == nil {
				f.told <- "host"
			}
		},
		Seen: func(host string, alive bool) { f.told <- fmt.Sprint(host, " seen: ", alive) },
	})
	qt.Check(t, qt.ErrorIs(f.c.Freshness().Err, directory.ErrUnavailable))
	ctx, end := context.WithCancel(context.WithoutCancel(t.Context()))
	f.end = end
	go func() { f.ended <- f.c.Run(ctx) }()
	t.Cleanup(func() {
		end()
		qt.Check(t, qt.ErrorIs(<-f.ended, context.Canceled))
	})
	f.await(func(fresh cache.Freshness) bool { return fresh.Err == nil && !fresh.At.IsZero() })
	return f
}

func owner(e *directory.Endpoint) string {
	if e == nil {
		return "nobody"
	}
	return fmt.Sprint(e.App, " of ", e.Owner)
}

func (f *fixture) await(what func(cache.Freshness) bool) {
	f.Helper()
	for tick := time.NewTicker(time.Millisecond); !what(f.c.Freshness()); {
		select {
		case <-f.Context().Done():
			f.Fatal("it did not happen")
		case <-tick.C:
		}
	}
}

func (f *fixture) claim(app, addr string) directory.Endpoint {
	f.Helper()
	out := f.a.Claim(f.Context(), []directory.Endpoint{{Network: "default", Addr: netip.MustParseAddr(addr), ID: app, App: app, State: directory.Running}})
	qt.Assert(f, qt.IsNil(out[0].Err))
	return out[0].Endpoint
}

func (f *fixture) lookup(addr string) (string, error) {
	e, err := f.c.Lookup(f.Context(), "default", netip.MustParseAddr(addr))
	return owner(&e), err
}

func TestCache(t *testing.T) {
	f := newFixture(t)
	e := f.claim("cache", "10.77.0.2")
	qt.Check(t, qt.Equals(<-f.told, "nobody -> cache of a"))
	f.store.Set(memory.Cut)
	f.await(func(fresh cache.Freshness) bool { return fresh.Err != nil })
	qt.Check(t, qt.ErrorIs(f.c.Freshness().Err, directory.ErrUnavailable))
	// What is known is answered; that nobody is there is not said.
	for _, addr := range []string{"10.77.0.2", "fd77::2"} {
		got, err := f.lookup(addr)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(got, "cache of a"))
	}
	got, err := f.c.LookupApp(t.Context(), "cache")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(got, e))
	_, err = f.lookup("10.77.0.3")
	qt.Check(t, qt.ErrorIs(err, directory.ErrUnavailable))
	_, err = f.c.LookupApp(t.Context(), "other")
	qt.Check(t, qt.ErrorIs(err, directory.ErrUnavailable))
	qt.Check(t, qt.HasLen(f.c.Hosts(), 2))
	qt.Check(t, qt.HasLen(f.c.Networks(), 1))
	qt.Check(t, qt.HasLen(f.c.Endpoints(), 1))
	qt.Check(t, qt.HasLen(f.c.Blocks(), 0))
	_, err = f.c.Host("a")
	qt.Check(t, qt.IsNil(err))
	_, err = f.c.Host("none")
	qt.Check(t, qt.IsNotNil(err))
	_, err = f.c.Network("default")
	qt.Check(t, qt.IsNil(err))
	_, err = f.c.Network("none")
	qt.Check(t, qt.ErrorIs(err, directory.ErrNotFound))
	qt.Check(t, qt.IsFalse(f.c.Seen("a")))

	f.claim("other", "10.77.0.3")
	old := f.c.Freshness()
	f.store.Set(memory.None)
	qt.Check(t, qt.Equals(<-f.told, "nobody -> other of a"))
	f.await(func(fresh cache.Freshness) bool {
		return fresh.Err == nil && fresh.At.After(old.At) && fresh.Revision == f.server.Revision()
	})
	_, err = f.lookup("10.77.0.9")
	qt.Check(t, qt.ErrorIs(err, directory.ErrNotFound))
	qt.Assert(t, qt.IsNil(f.a.Release(t.Context(), []directory.Endpoint{e})[0].Err))
	qt.Check(t, qt.Equals(<-f.told, "cache of a -> nobody"))
	_, err = f.c.LookupApp(t.Context(), "cache")
	qt.Check(t, qt.ErrorIs(err, directory.ErrNotFound))
	// Its name is that of another one.
	f.claim("cache", "10.77.0.4")
	qt.Check(t, qt.Equals(<-f.told, "nobody -> cache of a"))
	got, err = f.c.LookupApp(t.Context(), "cache")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(got.Addr.String(), "10.77.0.4"))
}

// A compaction while the cache was cut off makes it list again, and it misses no change of owner.
func TestCompacted(t *testing.T) {
	f := newFixture(t)
	e, gone := f.claim("cache", "10.77.0.2"), f.claim("gone", "10.77.0.3")
	qt.Check(t, qt.Equals(<-f.told, "nobody -> cache of a"))
	qt.Check(t, qt.Equals(<-f.told, "nobody -> gone of a"))
	f.store.Set(memory.Cut)
	b, err := directory.Open(t.Context(), f.server.Open(), "lab", directory.Known{})
	qt.Assert(t, qt.IsNil(err))
	s, err := b.Begin(t.Context(), "b", "key", now)
	qt.Assert(t, qt.IsNil(err))
	_, err = s.Takeover(t.Context(), e)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(f.a.Release(t.Context(), []directory.Endpoint{gone})[0].Err))
	f.claim("new", "10.77.0.4")
	f.server.Compact()
	f.store.Set(memory.None)
	told := map[string]bool{<-f.told: true, <-f.told: true, <-f.told: true}
	qt.Check(t, qt.DeepEquals(told, map[string]bool{"cache of a -> cache of b": true, "gone of a -> nobody": true, "nobody -> new of a": true}))
}

// A directory that came back empty takes nothing from the cache, until the right one is back.
func TestEmptied(t *testing.T) {
	for name, cut := range map[string]bool{"while it follows": false, "while it was cut off": true} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.claim("cache", "10.77.0.2")
			qt.Check(t, qt.Equals(<-f.told, "nobody -> cache of a"))
			backup := f.server.Backup()
			if cut {
				f.store.Set(memory.Cut)
				f.await(func(fresh cache.Freshness) bool { return fresh.Err != nil })
			}
			f.server.Restore(memory.Backup{})
			f.store.Set(memory.None)
			var lost *directory.LostError
			f.await(func(fresh cache.Freshness) bool { return errors.As(fresh.Err, &lost) })
			got, err := f.lookup("10.77.0.2")
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(got, "cache of a"))
			_, err = f.lookup("10.77.0.3")
			qt.Check(t, qt.ErrorAs(err, &lost))
			f.server.Restore(backup)
			f.await(func(fresh cache.Freshness) bool { return fresh.Err == nil })
			f.claim("other", "10.77.0.3")
			qt.Check(t, qt.Equals(<-f.told, "nobody -> other of a"))
		})
	}
}

func TestSeenAndHosts(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- f.d.BeSeen(ctx, "b", time.Second) }()
	qt.Check(t, qt.Equals(<-f.told, "b seen: true"))
	qt.Check(t, qt.IsTrue(f.c.Seen("b")))
	cancel()
	<-done
	qt.Check(t, qt.Equals(<-f.told, "b seen: false"))
	qt.Check(t, qt.IsFalse(f.c.Seen("b")))
	qt.Assert(t, qt.IsNil(f.d.RemoveHost(t.Context(), "b")))
	qt.Check(t, qt.Equals(<-f.told, "host"))
	h, err := f.c.Host("b")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(h.Removed))
}

// A record that a newer snapctl has written is not taken for one that is gone.
func TestNewer(t *testing.T) {
	f := newFixture(t)
	f.claim("cache", "10.77.0.2")
	qt.Check(t, qt.Equals(<-f.told, "nobody -> cache of a"))
	_, err := f.server.Open().Commit(t.Context(), directory.Txn{Puts: []directory.Put{{Key: "/snapctl/lab/endpoint/default/10.77.0.2", Value: []byte(`{"version":2}`)}}})
	qt.Assert(t, qt.IsNil(err))
	f.claim("other", "10.77.0.3")
	qt.Check(t, qt.Equals(<-f.told, "nobody -> other of a"))
	_, err = f.lookup("10.77.0.2")
	qt.Check(t, qt.ErrorIs(err, codec.ErrNewer))
}
