package registrar

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/address"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/cache"
	"github.com/snapctl/snapctl/vem/directory/memory"
	"github.com/snapctl/snapctl/vem/gateway"
	"github.com/snapctl/snapctl/vem/mesh"
	"github.com/snapctl/snapctl/vem/ownership"
	"github.com/snapctl/snapctl/vem/pause"
	"github.com/snapctl/snapctl/vem/slowpath"
)

// fakeNetworks is a VEM without a kernel.
type fakeNetworks struct {
	mesh.Queues

	mu      sync.Mutex
	all     []Endpoint
	waiting []Endpoint // that are in no network
	homes   []Endpoint // of the host itself
	open    bool       // Reside works
	moves   int        // how often MoveOut was called
	ranges  map[string][]netip.Prefix
}

func (f *fakeNetworks) put(list ...Endpoint) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = list
}

func (f *fakeNetworks) Present() []Endpoint {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Concat(f.all, f.homes)
}

// Reside gives the host the last address of its first range that it did not have before.
func (f *fakeNetworks) Reside(_ context.Context, network, name string, at netip.Addr) (netip.Addr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.open {
		return at, errors.New("no BPF")
	}
	if len(f.homes) > 0 {
		return f.homes[0].Addr4, nil
	}
	if !at.IsValid() {
		raw := f.ranges[network][0].Addr().As4()
		raw[3] += byte(63 - f.moves)
		at = netip.AddrFrom4(raw)
	}
	f.homes = []Endpoint{{Network: network, App: name, Addr4: at}}
	return at, nil
}

func (f *fakeNetworks) MoveOut(context.Context, string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.homes, f.moves = nil, f.moves+1
	return nil
}

func (f *fakeNetworks) SetGateway(gateway.Rules) {}

func (f *fakeNetworks) SetFar(context.Context, string, []gateway.Published) error { return nil }

func (f *fakeNetworks) Wanted() []Endpoint {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Concat(f.all, f.waiting, f.homes)
}

func (f *fakeNetworks) Find(network string, a netip.Addr) (Endpoint, bool) {
	for _, e := range f.Present() {
		if e.Network == network && e.Addr4 == a {
			return e, true
		}
	}
	return Endpoint{}, false
}

func (f *fakeNetworks) Away(string, netip.Addr) bool { return false }

func (f *fakeNetworks) Holding() map[string]bool { return map[string]bool{"sleeper": true} }

func (f *fakeNetworks) Space(string) (address.Space, error) {
	return address.Space{Prefix4: netip.MustParsePrefix("10.77.0.0/16"), Prefix6: netip.MustParsePrefix("fd77:736e:6170::/64")}, nil
}

func (f *fakeNetworks) SetRanges(network string, list []netip.Prefix) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ranges == nil {
		f.ranges = make(map[string][]netip.Prefix)
	}
	f.ranges[network] = list
}

// site is one host of a test's installation.
type site struct {
	*Registrar
	vem      *fakeNetworks
	log      *strings.Builder
	outside  strings.Builder // what the forwarder logs
	dir      string
	way      *memory.Store
	end      context.CancelFunc // of the host
	admitted int                // how often it was told that
	steps    map[string]error   // that fail, by their names
}

func newSite(t *testing.T, store *memory.Server, name string) *site {
	t.Helper()
	return startSite(t, store, name, t.TempDir(), "boot")
}

// startSite is what a daemon does that is started.
func startSite(t *testing.T, store *memory.Server, name, dir, boot string) *site {
	t.Helper()
	s := store.Open()
	d, err := directory.Init(t.Context(), s, "test", name, time.Now())
	if errors.Is(err, directory.ErrInstalled) {
		d, err = directory.Open(t.Context(), s, "test", directory.Known{})
	}
	qt.Assert(t, qt.IsNil(err))
	_, err = d.PutHost(t.Context(), directory.Host{Name: name, Key: "key of " + name})
	qt.Assert(t, qt.IsNil(err))
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	h := &site{vem: &fakeNetworks{}, log: &strings.Builder{}, dir: dir, way: s, end: cancel}
	c := cache.New(d, cache.Options{Retry: time.Millisecond, Probe: time.Millisecond})
	go c.Run(ctx)
	go d.BeSeen(ctx, name, time.Hour)
	rs, err := ownership.LoadRanges(dir, h.vem.SetRanges)
	qt.Assert(t, qt.IsNil(err))
	ledger, err := ownership.Open(dir)
	qt.Assert(t, qt.IsNil(err))
	recovered := make(chan struct{})
	close(recovered)
	gw, err := gateway.Open(gateway.Options{
		Path: filepath.Join(dir, "gateway.json"), Self: name, VEM: h.vem, Own: func() []gateway.Published { return nil },
		Known: func() gateway.Known { return c }, Log: slog.New(slog.NewTextHandler(&h.outside, nil)),
	})
	qt.Assert(t, qt.IsNil(err))
	h.Registrar = New(Options{
		Self: name, Key: "key of " + name, Directory: d, Cache: c, Ranges: rs, Local: h.vem, Ledger: ledger, Boot: boot, Private: func(string) bool { return false }, Recovered: recovered,
		Admitted: func() { h.admitted++ }, Gateway: gw, Step: func(_ context.Context, name string) error { return h.steps[name] }, Log: slog.New(slog.NewTextHandler(h.log, nil)),
	})
	return h
}

// known waits until the host knows all that is in the directory.
func (h *site) known(t *testing.T) {
	t.Helper()
	rev, err := h.opt.Directory.Check(t.Context())
	qt.Assert(t, qt.IsNil(err))
	for h.opt.Cache.Freshness().Revision < rev || h.opt.Cache.Freshness().Err != nil {
		qt.Assert(t, qt.IsNil(t.Context().Err()))
		pause.For(t.Context(), time.Millisecond, nil)
	}
}

func app(name, addr string) Endpoint {
	return Endpoint{Network: "default", App: name, Addr4: netip.MustParseAddr(addr)}
}

// What a host has is in the directory, and what it does not have any more is not.
func TestRegistrar(t *testing.T) {
	store := memory.New()
	a, b := newSite(t, store, "a"), newSite(t, store, "b")
	sa, err := a.begin(t.Context())
	qt.Assert(t, qt.IsNil(err))
	sb, err := b.begin(t.Context())
	qt.Assert(t, qt.IsNil(err))
	a.vem.put(app("web", "10.77.0.7"))
	qt.Assert(t, qt.IsNil(a.sync(t.Context(), sa)))
	qt.Assert(t, qt.IsNil(b.sync(t.Context(), sb)))
	qt.Check(t, qt.HasLen(a.vem.ranges["default"], 1))
	qt.Check(t, qt.Not(qt.Equals(a.vem.ranges["default"][0], b.vem.ranges["default"][0])))
	o, err := b.Owner(t.Context(), "default", netip.MustParseAddr("10.77.0.7"))
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(o.Host, "a"))
	qt.Check(t, qt.Equals(a.Epoch(app("web", "10.77.0.7")), o.Epoch))
	_, err = b.Owner(t.Context(), "default", netip.MustParseAddr("10.77.0.8"))
	qt.Check(t, qt.ErrorIs(err, slowpath.ErrNobody))

	// What another host has, by address or by name, stays its own. It is said once.
	b.vem.put(app("other", "10.77.0.7"), app("web", "10.77.0.9"), app("free", "10.77.0.10"))
	for range 2 {
		qt.Assert(t, qt.IsNil(b.sync(t.Context(), sb)))
	}
	qt.Check(t, qt.Equals(strings.Count(b.log.String(), "other hosts can't reach"), 2), qt.Commentf("%s", b.log))
	o, err = a.Owner(t.Context(), "default", netip.MustParseAddr("10.77.0.10"))
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(o.Host, "b"))

	// Another app gets the address, and another one the name, of an app that is gone.
	a.vem.put(app("next", "10.77.0.7"), app("web", "10.77.0.11"))
	qt.Assert(t, qt.IsNil(a.sync(t.Context(), sa)))
	for name, addr := range map[string]string{"next": "10.77.0.7", "web": "10.77.0.11"} {
		e, err := a.opt.Directory.LookupApp(t.Context(), name)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(e.Addr.String(), addr))
	}
	qt.Check(t, qt.Equals(a.log.String(), ""))

	a.vem.put()
	qt.Assert(t, qt.IsNil(a.sync(t.Context(), sa)))
	qt.Assert(t, qt.IsNil(b.sync(t.Context(), sb)))
	all, err := a.opt.Directory.Endpoints(t.Context())
	qt.Assert(t, qt.IsNil(err))
	for _, e := range all {
		qt.Check(t, qt.Equals(e.Owner, "b"), qt.Commentf("%v", e))
	}

	// A daemon that was started anew goes on with what it owns.
	again := newSite(t, store, "b")
	again.vem.put(b.vem.Present()...)
	s, err := again.begin(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(again.opt.Ledger.All(), len(all)))
	qt.Assert(t, qt.IsNil(again.sync(t.Context(), s)))
}

// A host itself is in the directory, at the address that it had before, and what keeps it out is
// said once.
func TestHostItself(t *testing.T) {
	store := memory.New()
	a, b := newSite(t, store, "a"), newSite(t, store, "b")
	b.vem.open = true
	for range 2 {
		a.work(t)
		b.work(t)
	}
	qt.Check(t, qt.Equals(strings.Count(a.outside.String(), "no BPF"), 1))
	at := b.opt.Gateway.At("default")
	o, err := a.Owner(t.Context(), "default", at)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(o.Host, "b"))
	_, err = a.opt.Directory.LookupApp(t.Context(), "host:b:default")
	qt.Check(t, qt.IsNotNil(err)) // it is no app

	dir := b.dir
	for _, lost := range []string{"", "gateway.json"} {
		if lost != "" {
			qt.Assert(t, qt.IsNil(os.Remove(filepath.Join(dir, lost))))
		}
		b = b.again(t, store, "second boot")
		b.vem.open = true
		b.work(t)
		qt.Check(t, qt.Equals(b.opt.Gateway.At("default"), at))
		qt.Check(t, qt.IsTrue(b.allowed(b.vem.homes[0])))
	}

	// An old backup of the directory knows nothing of it, or has given the address to somebody else.
	c, _ := b.opt.Ledger.Get(b.vem.homes[0].Spot())
	qt.Assert(t, qt.IsNil(b.release(t.Context(), b.session.Load(), []ownership.Copy{c})))
	qt.Assert(t, qt.IsNil(b.opt.Ledger.Put(c)))
	b.work(t)
	b.work(t)
	o, err = b.Owner(t.Context(), "default", at)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(o.Host, "b"))
	c, _ = b.opt.Ledger.Get(b.vem.homes[0].Spot())
	qt.Assert(t, qt.IsNil(b.release(t.Context(), b.session.Load(), []ownership.Copy{c})))
	c.State, c.Now = ownership.Lost, &directory.Endpoint{Owner: "a"}
	qt.Assert(t, qt.IsNil(b.opt.Ledger.Put(c)))
	b.work(t)
	qt.Check(t, qt.Not(qt.Equals(b.opt.Gateway.At("default"), at)))
	o, err = a.Owner(t.Context(), "default", b.opt.Gateway.At("default"))
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(o.Host, "b"))
}

// Other hosts know which ports an app publishes, and what it publishes later.
func TestPorts(t *testing.T) {
	store, web := memory.New(), app("web", "10.77.0.7")
	a, b := newSite(t, store, "a"), newSite(t, store, "b")
	b.work(t)
	for _, ports := range []string{"", "8080:80/tcp", "8080:80/tcp 53:53/udp", ""} {
		web.Ports = ports
		a.vem.put(web)
		a.work(t)
		e, err := b.opt.Directory.LookupApp(t.Context(), "web")
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(e.Ports, ports))
		qt.Check(t, qt.Equals(e.Epoch, 1))
		c, _ := a.opt.Ledger.Get(web.Spot())
		qt.Check(t, qt.Equals(c.Endpoint.Ports, ports))
	}
}

// A change is in the directory soon, and the first one is waited for.
func TestRegistrarRuns(t *testing.T) {
	store := memory.New()
	a := newSite(t, store, "a")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.Run(ctx)
	}()
	<-a.ready
	a.vem.put(app("web", "10.77.0.7"))
	a.Changed()
	for {
		if o, err := a.Owner(t.Context(), "default", netip.MustParseAddr("10.77.0.7")); err == nil {
			qt.Check(t, qt.Equals(o.Host, "a"))
			break
		}
	}
	cancel()
	<-done
}
