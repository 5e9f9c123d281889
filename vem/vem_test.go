package vem

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/address"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/holder"
	"github.com/snapctl/snapctl/vem/netns"
)

// spaces keeps the address spaces of networks in memory.
type spaces struct {
	mu   sync.Mutex
	all  map[string]address.Space
	fail error // of Save
}

func (s *spaces) Load(network string) (address.Space, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a, ok := s.all[network]; ok {
		return a, nil
	}
	return address.Space{}, fmt.Errorf("load %s: %w", network, fs.ErrNotExist)
}

func (s *spaces) Save(network string, a address.Space) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	s.all[network] = a
	return nil
}

func (s *spaces) Count() (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all), nil
}

// fakeFabric notes what is asked of it.
type fakeFabric struct {
	host     *fakeHost
	network  string
	attached map[string]bool
}

// fakeHost is the kernel of a test.
type fakeHost struct {
	mu        sync.Mutex
	fabrics   map[string]*fakeFabric // that are open
	opened    int
	published [][]fabric.Publication
	self      [2]netip.Addr // of the host itself
	gateway   fabric.Gateway
	fail      error         // of whatever is asked next
	entered   chan struct{} // if not nil, Attach tells that it has begun, and
	goOn      chan struct{} // waits for this
}

func (h *fakeHost) open(_ context.Context, network string, _ address.Space) (Fabric, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fail != nil {
		return nil, h.fail
	}
	if h.fabrics[network] != nil {
		return nil, errors.New("open already")
	}
	h.opened++
	h.fabrics[network] = &fakeFabric{host: h, network: network, attached: make(map[string]bool)}
	return h.fabrics[network], nil
}

func (f *fakeFabric) do(fn func()) error {
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	if f.host.fabrics[f.network] != f {
		return errors.New("the fabric is gone")
	}
	if f.host.fail != nil {
		return f.host.fail
	}
	fn()
	return nil
}

func (f *fakeFabric) Attach(_ context.Context, ep fabric.Endpoint, _ *netns.NS) error {
	if f.host.entered != nil {
		f.host.entered <- struct{}{}
		<-f.host.goOn
	}
	return f.do(func() { f.attached[ep.App] = !ep.Apart })
}

func (f *fakeFabric) Isolate(_ context.Context, ep fabric.Endpoint) error {
	return f.do(func() { f.attached[ep.App] = false })
}

func (f *fakeFabric) Rejoin(_ context.Context, ep fabric.Endpoint, _ *netns.NS) error {
	return f.do(func() { f.attached[ep.App] = true })
}

func (f *fakeFabric) Detach(_ context.Context, ep fabric.Endpoint) error {
	return f.do(func() { delete(f.attached, ep.App) })
}

func (f *fakeFabric) SetPublications(_ context.Context, list []fabric.Publication) error {
	return f.do(func() { f.host.published = append(f.host.published, slices.Clone(list)) })
}

func (f *fakeFabric) SetSelf(_ context.Context, a4, a6 netip.Addr) error {
	return f.do(func() { f.host.self = [2]netip.Addr{a4, a6} })
}

func (f *fakeFabric) SetGateway(g fabric.Gateway) error {
	return f.do(func() { f.host.gateway = g })
}

func (f *fakeFabric) Delete(context.Context) error {
	return f.do(func() { delete(f.host.fabrics, f.network) })
}

func (f *fakeFabric) Close() error { return nil }

// world is a manager with its fakes.
type world struct {
	*Manager
	host   *fakeHost
	spaces *spaces
	tasks  sync.WaitGroup // that Run has begun
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{host: &fakeHost{fabrics: make(map[string]*fakeFabric)}, spaces: &spaces{all: make(map[string]address.Space)}}
	w.Manager = newManager(Options{
		Log:     slog.New(slog.DiscardHandler),
		Default: address.Space{Prefix4: netip.MustParsePrefix("10.77.0.0/16"), Prefix6: netip.MustParsePrefix("fd77:736e:6170::/64")},
		Spaces:  w.spaces,
		Run:     func(fn func(context.Context)) { w.tasks.Go(func() { fn(t.Context()) }) },
	}, w.host.open, &fakeHolder{Memory: holder.NewMemory()})
	_, err := w.space(DefaultNetwork)
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() {
		w.tasks.Wait()
		qt.Check(t, qt.IsNil(w.Close()))
	})
	return w
}

// claim claims an endpoint of the default network; an empty address is any.
func (w *world) claim(t *testing.T, app, addr string, ports ...Port) *Endpoint {
	t.Helper()
	c := Claim{App: app, Network: DefaultNetwork, Ports: ports}
	if addr != "" {
		c.Addr4 = netip.MustParseAddr(addr)
	}
	e, err := w.Claim(t.Context(), c)
	qt.Assert(t, qt.IsNil(err))
	return e
}
