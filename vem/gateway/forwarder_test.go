package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/vem/address"
	"github.com/snapctl/snapctl/vem/directory"
)

// world is a host of which a test has the VEM and the directory.
type world struct {
	t    *testing.T
	path string
	log  strings.Builder

	mu     sync.Mutex // guards what follows
	fail   error      // of Reside
	at     map[string]netip.Addr
	far    []Published
	told   chan struct{} // gets a token from each SetFar
	rules  Rules
	beyond map[string]Beyond
	silent map[string]bool
	own    []Published
	known  []directory.Endpoint
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return &world{t: t, path: filepath.Join(t.TempDir(), "gateway.json"), at: make(map[string]netip.Addr), told: make(chan struct{}, 100), beyond: make(map[string]Beyond), silent: make(map[string]bool)}
}

// open is what a daemon does that is started.
func (w *world) open() *Forwarder {
	w.t.Helper()
	f, err := Open(Options{
		Path: w.path, Self: "alpha", VEM: w, Ways: w.setBeyond, Log: slog.New(slog.NewTextHandler(&w.log, nil)),
		Own: func() []Published { return w.own },
		Known: func() Known {
			if w.known == nil {
				return nil
			}
			return w
		},
	})
	qt.Assert(w.t, qt.IsNil(err))
	f.Resume(w.t.Context())
	return f
}

func (w *world) Reside(_ context.Context, network, name string, at netip.Addr) (netip.Addr, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail != nil {
		return at, w.fail
	}
	qt.Check(w.t, qt.Equals(name, "host:alpha:"+network))
	if !w.at[network].IsValid() {
		w.at[network] = at
	}
	if !at.IsValid() {
		w.at[network] = netip.MustParseAddr("10.77.0.66")
	}
	return w.at[network], nil
}

func (w *world) MoveOut(_ context.Context, network string) error {
	delete(w.at, network)
	return nil
}

func (w *world) SetFar(_ context.Context, _ string, list []Published) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.far = list
	w.told <- struct{}{}
	return nil
}

func (w *world) SetGateway(r Rules) { w.rules = r }

func (w *world) setBeyond(_ context.Context, network string, b Beyond) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.beyond[network] = b
	return nil
}

func (w *world) Networks() []directory.Network {
	return []directory.Network{{Name: "lab", Prefix4: netip.MustParsePrefix("10.99.0.0/16")}}
}

func (w *world) Seen(host string) bool { return !w.silent[host] }

func (w *world) Space(string) (address.Space, error) {
	return address.Space{Prefix4: netip.MustParsePrefix("10.77.0.0/16"), Prefix6: netip.MustParsePrefix("fd77:736e:6170::/64")}, nil
}

func (w *world) Endpoints() []directory.Endpoint { return w.known }

func (w *world) Hosts() []directory.Host {
	return []directory.Host{
		{Name: "beta", Underlays: []directory.Underlay{{Addr: netip.MustParseAddr("192.0.2.8")}}},
		{Name: "gone", Removed: true, Underlays: []directory.Underlay{{Addr: netip.MustParseAddr("192.0.2.9")}}},
	}
}

// A host stays where it is, and goes on with what it forwarded, whatever becomes of its daemon and
// of the directory.
func TestForwarder(t *testing.T) {
	testenv.Need(t, testenv.Root) // to look for listeners
	w := newWorld(t)
	f := w.open()
	w.fail = errors.New("no BPF")
	for range 2 {
		qt.Assert(t, qt.IsNil(f.Reside(t.Context(), "default")))
	}
	qt.Check(t, qt.Equals(strings.Count(w.log.String(), "no BPF"), 1))
	w.fail = nil
	qt.Assert(t, qt.IsNil(f.look(t.Context()))) // the directory was not read
	qt.Check(t, qt.HasLen(w.told, 0))

	qt.Assert(t, qt.IsNil(f.Reside(t.Context(), "default")))
	at := netip.MustParseAddr("10.77.0.66")
	qt.Check(t, qt.Equals(f.At("default"), at))
	far := netip.MustParseAddr("10.77.0.130")
	w.known = []directory.Endpoint{
		{Network: "default", Addr: far, App: "web", Owner: "beta", Ports: "8080:80/tcp 53:53/udp"},
		{Network: "default", Addr: at, App: "mine", Owner: "alpha", Ports: "9999:80/tcp"},
		{Network: "default", Addr: far.Next(), App: "odd", Owner: "beta", Ports: "what a newer release has"},
	}
	w.own = []Published{{Port: Port{"udp", 53, 53}, App: "dns"}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.Run(ctx)
	}()
	<-w.told
	f.LookAgain()
	<-w.told
	cancel()
	<-done
	web := Published{Port: Port{"tcp", 8080, 80}, Network: "default", Addr: far, App: "web", Host: "beta"}
	qt.Check(t, qt.IsTrue(slices.Equal(w.far, []Published{web})))
	qt.Check(t, qt.Equals(strings.Count(w.log.String(), "app dns has the port on this host"), 1))

	qt.Assert(t, qt.IsNil(f.Set(t.Context(), Settings{On: true})))
	v, err := f.View()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(v.On))
	qt.Check(t, qt.HasLen(v.Ports, 2))
	qt.Check(t, qt.Equals(v.Networks[0].Addr6.String(), "fd77:736e:6170::42"))
	whats := make(map[string]bool)
	for _, o := range f.Obstacles() {
		whats[o.What] = true
	}
	qt.Check(t, qt.DeepEquals(whats, map[string]bool{"network default": true, "network lab": true, "the underlay of host beta": true}))

	w.far, w.at, w.rules, w.known = nil, make(map[string]netip.Addr), Rules{}, nil
	again := w.open()
	qt.Check(t, qt.Equals(w.at["default"], at))
	qt.Check(t, qt.IsTrue(slices.Equal(w.far, []Published{web})))
	qt.Check(t, qt.IsTrue(w.rules.On && again.Settings().On))

	w.fail = errors.New("no BPF")
	w.open()
	qt.Check(t, qt.StringContains(w.log.String(), "does not reach endpoints of other hosts yet"))
	qt.Assert(t, qt.IsNil(again.MoveOut(t.Context(), "default")))
	qt.Check(t, qt.IsFalse(again.At("default").IsValid()))
}
