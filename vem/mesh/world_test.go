package mesh

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/testenv/underlay"
	"github.com/snapctl/snapctl/vem/channel/wireguard"
	"github.com/snapctl/snapctl/vem/control/message"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/netns"
	"github.com/snapctl/snapctl/vem/peering"
	"github.com/snapctl/snapctl/vem/probe"
	"github.com/snapctl/snapctl/vem/slowpath"
)

var (
	prefix4 = netip.MustParsePrefix("10.77.0.0/16")
	prefix6 = netip.MustParsePrefix("fd77::/64")
)

// world is two scratch hosts on two networks, or three, whose control channel is function calls.
// All else is real.
type world struct {
	t                  *testing.T
	alpha, beta, gamma *place // gamma is nil where there are two
	all                []*place
	under              *underlay.Underlay
	nets               [2]*underlay.Network

	mu    sync.Mutex // guards what follows
	owner map[netip.Addr]peering.Owner
	calls int // from host to host
	// answered is called once, when a host has answered that was asked for a channel, and before the one that asked
	// knows of it; nil: nobody wants to know.
	answered func()
	// agrees tells whether a host agrees to another way; nil: it does.
	agrees func() error
}

// place is one of the hosts.
type place struct {
	w   *world
	h   *host.Host
	cfg fabric.Config
	f   *fabric.Fabric
	*Mesh
	net   *Network
	away  map[netip.Addr]bool // endpoints that are withdrawn
	queue *os.File            // that the holder keeps

	log   said             // what was logged
	ports []*underlay.Port // one on each network
	end   context.CancelFunc
	wait  sync.WaitGroup // what goes on beside
}

func newWorld(t *testing.T, plain ...string) *world {
	t.Helper()
	return newWorldOf(t, [2]int{1500, 1500}, plain...)
}

// newWorldOf has networks of some MTU.
func newWorldOf(t *testing.T, mtus [2]int, plain ...string) *world {
	t.Helper()
	return newWorldWith(t, []string{"alpha", "beta"}, mtus, plain...)
}

// newWorldWith has these hosts.
func newWorldWith(t *testing.T, names []string, mtus [2]int, plain ...string) *world {
	t.Helper()
	w := &world{t: t, under: underlay.New(t), owner: make(map[netip.Addr]peering.Owner)}
	for _, name := range names {
		w.all = append(w.all, w.place(name, plain))
	}
	w.alpha, w.beta = w.all[0], w.all[1]
	if len(w.all) > 2 {
		w.gamma = w.all[2]
	}
	for i, prefix := range []string{"192.0.2.0/24", "198.51.100.0/24"} {
		var err error
		w.nets[i], err = w.under.Network(underlay.NetworkConfig{Prefixes: []netip.Prefix{netip.MustParsePrefix(prefix)}, MTU: mtus[i]})
		qt.Assert(t, qt.IsNil(err))
		for _, p := range w.all {
			port, err := w.nets[i].Attach(t.Context(), p.h, underlay.PortConfig{})
			qt.Assert(t, qt.IsNil(err))
			p.ports = append(p.ports, port)
		}
	}
	for _, p := range w.all {
		p.open()
		t.Cleanup(func() {
			p.stop()
			ctx := context.WithoutCancel(t.Context())
			qt.Check(t, qt.IsNil(p.net.Close(ctx)))
			qt.Check(t, qt.IsNil(p.f.Delete(ctx)))
			qt.Check(t, qt.IsNil(p.f.Close()))
			qt.Check(t, qt.IsNil(p.queue.Close()))
		})
	}
	w.meet()
	return w
}

// meet gives all hosts keys by which they probe each other, as a connection between them does.
func (w *world) meet() {
	for _, p := range w.all {
		for _, o := range p.others() {
			client, server := handshake(w.t)
			ask, err := probe.NewKey(client)
			qt.Assert(w.t, qt.IsNil(err))
			answer, err := probe.NewKey(server)
			qt.Assert(w.t, qt.IsNil(err))
			o.AnswerTo(p.h.Name(), answer)
			p.AskBy(o.h.Name(), ask)
		}
	}
}

// handshake returns both ends of a connection.
func handshake(t *testing.T) (client, server tls.ConnectionState) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	qt.Assert(t, qt.IsNil(err))
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	qt.Assert(t, qt.IsNil(err))
	a, b := net.Pipe()
	c := tls.Client(a, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}) //nolint:gosec // who it is does not matter here
	s := tls.Server(b, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}}, MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true})
	done := make(chan error, 1)
	go func() { done <- s.HandshakeContext(t.Context()) }()
	qt.Assert(t, qt.IsNil(c.HandshakeContext(t.Context())))
	qt.Assert(t, qt.IsNil(<-done))
	t.Cleanup(func() { a.Close(); b.Close() })
	return c.ConnectionState(), s.ConnectionState()
}

// place makes a host, without BPF if it is named in plain.
func (w *world) place(name string, plain []string) *place {
	w.t.Helper()
	h := host.New(w.t, host.Config{Name: name})
	return &place{w: w, h: h, cfg: fabric.Config{
		Network: "default", Prefix4: prefix4, Prefix6: prefix6, Dir: w.t.TempDir(), Host: h.Net(), Plain: slices.Contains(plain, name),
	}}
}

func (p *place) others() []*place {
	return slices.DeleteFunc(slices.Clone(p.w.all), func(o *place) bool { return o == p })
}

// other is the other one of two hosts.
func (w *world) other(p *place) *place {
	if p == w.alpha {
		return w.beta
	}
	return w.alpha
}

// open does what a daemon does that is started.
func (p *place) open() {
	t := p.w.t
	t.Helper()
	var err error
	p.f, err = fabric.Open(t.Context(), p.cfg)
	qt.Assert(t, qt.IsNil(err))
	ctx, end := context.WithCancel(t.Context())
	p.end = end
	exe, err := os.Executable()
	qt.Assert(t, qt.IsNil(err))
	p.Mesh = New(Options{
		Self: p.h.Name(), Log: slog.New(&p.log), Peers: p, Owners: p.w, Locals: p, Queues: p, Run: func(f func(context.Context)) { p.wait.Go(func() { f(ctx) }) },
		Probe:     probe.Options{Port: 7077 + ProbePort, Interval: interval, NS: p.h.Net()},
		WireGuard: wireguard.Local{Secret: wireguard.Secret{p.h.Name()[0]}, Exe: exe, LogPath: filepath.Join(p.cfg.Dir, "wireguard.log")},
	})
	p.wait.Go(func() { p.Run(ctx) })
	p.look()
	for _, o := range p.others() {
		p.SetHost(o.h.Name(), o.remotes())
	}
	p.net, err = p.Open(t.Context(), "default", p.f, []netip.Prefix{prefix4, prefix6})
	qt.Assert(t, qt.IsNil(err))
}

// interval is how often the hosts probe.
const interval = 250 * time.Millisecond

// look tells the mesh where the host is now, as a daemon does: the first network is the better one.
func (p *place) look() {
	t := p.w.t
	t.Helper()
	var at []Underlay
	qt.Assert(t, qt.IsNil(p.h.Do(func() error {
		for i, port := range p.ports {
			d, err := net.InterfaceByName(port.Device())
			if err != nil {
				return err
			}
			if d.Flags&net.FlagRunning != 0 {
				at = append(at, Underlay{Device: d.Name, Index: d.Index, MTU: d.MTU, Prefix: netip.PrefixFrom(port.Addr4(), 24), Priority: 10 * i})
			}
		}
		return nil
	})))
	qt.Assert(t, qt.IsNil(p.SetUnderlay(t.Context(), at)))
}

// remotes are where others find the host.
func (p *place) remotes() (list []Remote) {
	for i, port := range p.ports {
		list = append(list, Remote{Addr: netip.AddrPortFrom(port.Addr4(), 7077), Priority: 10 * i})
	}
	return list
}

// stop ends what goes on beside.
func (p *place) stop() {
	p.end()
	p.wait.Wait()
	p.prober.Close()
}

// leave is the daemon's end.
func (p *place) leave() {
	p.w.t.Helper()
	p.stop()
	qt.Assert(p.w.t, qt.IsNil(p.net.Leave()))
	qt.Assert(p.w.t, qt.IsNil(p.f.Close()))
}

// Owner implements [peering.Owners].
func (w *world) Owner(_ context.Context, _ string, a netip.Addr) (peering.Owner, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o, ok := w.owner[a]
	if !ok {
		return o, fmt.Errorf("%s: %w", a, slowpath.ErrNobody)
	}
	return o, nil
}

// Known implements [peering.Owners].
func (w *world) Known(_ string, a netip.Addr) (peering.Owner, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o, ok := w.owner[a]
	return o, ok
}

// Epoch implements [peering.Locals].
func (p *place) Epoch(_ string, a netip.Addr) (uint64, bool) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	o, ok := p.w.owner[a]
	return o.Epoch, ok && o.Host == p.h.Name() && !p.away[a]
}

// Away implements [Locals].
func (p *place) Away(_ string, a netip.Addr) bool {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	return p.away[a]
}

// All implements [peering.Locals].
func (p *place) All(string) (list []message.Endpoint) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	for a, o := range p.w.owner {
		if o.Host == p.h.Name() {
			list = append(list, message.Endpoint{Address: a, Epoch: o.Epoch})
		}
	}
	return list
}

// app is an endpoint's namespace.
type app struct {
	*netns.NS
	p  *place
	ep fabric.Endpoint
}

// KeepQueue implements [Queues].
func (p *place) KeepQueue(_ context.Context, _ string, f *os.File) error {
	before := p.queue
	p.queue = f
	if before == nil {
		return nil
	}
	return before.Close()
}

// KeptQueue implements [Queues].
func (p *place) KeptQueue(context.Context, string) (*os.File, error) {
	if p.queue == nil {
		return nil, nil
	}
	fd, err := unix.FcntlInt(p.queue.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	return os.NewFile(uintptr(fd), "queue"), err
}

// attach makes the n-th endpoint of the network on a host.
func (p *place) attach(n byte) app {
	t := p.w.t
	t.Helper()
	a6 := prefix6.Addr().As16()
	a6[15] = n
	ep := fabric.Endpoint{App: fmt.Sprint("app", n), Addr4: netip.AddrFrom4([4]byte{10, 77, 0, n}), Addr6: netip.AddrFrom16(a6)}
	ns, err := netns.New()
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { ns.Close() })
	qt.Assert(t, qt.IsNil(p.f.Attach(t.Context(), ep, ns)))
	p.w.mu.Lock()
	p.w.owner[ep.Addr4], p.w.owner[ep.Addr6] = peering.Owner{Host: p.h.Name(), Epoch: 1}, peering.Owner{Host: p.h.Name(), Epoch: 1}
	p.w.mu.Unlock()
	for _, a := range []netip.Addr{ep.Addr4, ep.Addr6} {
		p.net.Here(a)
	}
	p.net.Told(t.Context())
	return app{ns, p, ep}
}

// serve echoes what is sent to a port of the app.
func (a app) serve() {
	t := a.p.w.t
	t.Helper()
	qt.Assert(t, qt.IsNil(a.Do(func() error {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", ":7")
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					_, _ = io.Copy(c, c)
				}()
			}
		}()
		return nil
	})))
}

// dial connects to a port of another app.
func (a app) dial(to netip.Addr) (conn net.Conn, err error) {
	err = a.Do(func() error {
		d := net.Dialer{Timeout: 20 * time.Second}
		conn, err = d.DialContext(a.p.w.t.Context(), "tcp", netip.AddrPortFrom(to, 7).String())
		return err
	})
	return conn, err
}

// echo proves that a connection works.
func (w *world) echo(c net.Conn, text string) {
	w.t.Helper()
	qt.Assert(w.t, qt.IsNil(c.SetDeadline(time.Now().Add(20*time.Second))))
	written := make(chan error, 1)
	go func() {
		_, err := io.WriteString(c, text)
		written <- err
	}()
	got := make([]byte, len(text))
	_, err := io.ReadFull(c, got)
	qt.Assert(w.t, qt.IsNil(err))
	qt.Assert(w.t, qt.IsNil(<-written))
	qt.Check(w.t, qt.IsTrue(string(got) == text))
}
