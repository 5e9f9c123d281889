package membership

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/memory"
	"github.com/snapctl/snapctl/vem/trust"
)

// world is hosts with one directory, in memory, and with real TLS on loopback.
type world struct {
	directory *memory.Server
	mu        sync.Mutex
	clock     time.Duration // how far all clocks are ahead
	removed   []string
}

func newWorld() *world { return &world{directory: memory.New()} }

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.clock)
}

func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clock += d
}

// machine is a host that can be restarted.
type machine struct {
	*Membership
	w      *world
	t      *testing.T
	dir    string
	name   string
	store  *memory.Store
	at     string // where it lets others in
	broken map[string]error
	ca     *machine // who renews this host's certificate

	leaving   error
	leftTimes int
}

func (w *world) host(t *testing.T, name string) *machine {
	t.Helper()
	h := &machine{w: w, t: t, dir: filepath.Join(t.TempDir(), "membership"), name: name, store: w.directory.Open(), broken: make(map[string]error)}
	h.restart()
	return h
}

// restart is what a new daemon does, after a crash.
func (h *machine) restart() {
	h.t.Helper()
	m, err := Open(h.t.Context(), Options{
		Dir: h.dir, Self: directory.Host{Release: "1.0", Protocols: [2]int{1, 1}}, Port: 7077,
		Directories: h, Gate: h, Log: slog.New(slog.DiscardHandler), Now: h.w.now,
		Addresses: func() ([]Address, error) {
			return []Address{{Addr: netip.MustParseAddr("192.0.2.7"), Device: "eth0"}}, h.broken["addresses"]
		},
		Leaving: func(context.Context, directory.Host) error { return h.leaving },
		Left:    func(context.Context) error { h.leftTimes++; return nil },
		Removed: func(host string) { h.w.removed = append(h.w.removed, host) },
	})
	qt.Assert(h.t, qt.IsNil(err))
	h.Membership = m
}

// unclosed is a store that outlives daemons, as that of etcd does.
type unclosed struct{ *memory.Store }

func (unclosed) Close() error { return nil }

func (h *machine) Make(_ context.Context, _ *trust.Identity, given []string) (directory.Store, []string, error) {
	if given == nil {
		given = []string{"https://192.0.2.7:2379"}
	}
	return unclosed{h.store}, given, h.broken["make"]
}

func (h *machine) Open(_ context.Context, self *trust.Identity, urls []string) (directory.Store, error) {
	if self == nil || len(urls) == 0 {
		return nil, errors.New("no identity, or no URL")
	}
	return unclosed{h.store}, h.broken["open"]
}

// wire is what is sent in this test: the real thing is package control's.
type wire struct {
	Token  trust.TokenID
	Secret []byte
	Host   string
	CSR    []byte
	Error  string
	Welcome
}

// Join is the side of the host that joins.
func (h *machine) Join(_ context.Context, a Application) (Welcome, error) {
	r := a.Request
	c, err := tls.Dial("tcp", a.At, a.TLS)
	if err != nil {
		return Welcome{}, trust.Explain(err, h.w.now())
	}
	defer c.Close()
	var answer wire
	if err := json.NewEncoder(c).Encode(wire{Token: r.Token, Secret: r.Secret.Bytes(), Host: r.Host, CSR: r.CSR}); err != nil {
		return Welcome{}, err
	}
	if err := json.NewDecoder(c).Decode(&answer); err != nil {
		return Welcome{}, err
	}
	if answer.Error != "" {
		return Welcome{}, errors.New(answer.Error)
	}
	return answer.Welcome, h.broken["answer"]
}

// Renew is the side of the host whose certificate is renewed.
func (h *machine) Renew(ctx context.Context, csr []byte) ([]byte, error) {
	if err := h.broken["renew"]; err != nil {
		return nil, err
	}
	return h.ca.Membership.Renew(ctx, h.Identity().Peer(), csr)
}

// listen has a host let others in, until the test ends.
func (h *machine) listen() {
	h.t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", h.Identity().Server(func(trust.Peer) error { return nil }))
	qt.Assert(h.t, qt.IsNil(err))
	h.at = l.Addr().String()
	done := make(chan struct{})
	h.t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			h.serve(c)
		}
	}()
}

func (h *machine) serve(c net.Conn) {
	defer c.Close()
	var r, answer wire
	if json.NewDecoder(c).Decode(&r) != nil {
		return
	}
	secret, err := trust.SecretOf(r.Secret)
	if err == nil {
		from := netip.MustParseAddrPort(c.RemoteAddr().String()).Addr()
		answer.Welcome, err = h.Admit(h.t.Context(), from, trust.JoinRequest{Token: r.Token, Secret: secret, Host: r.Host, CSR: r.CSR})
	}
	if err != nil {
		answer.Error = err.Error()
	}
	_ = json.NewEncoder(c).Encode(answer)
	_, _ = io.Copy(io.Discard, c)
}

func (h *machine) init() *Host {
	h.t.Helper()
	host, err := h.Init(h.t.Context(), InitRequest{Place: Place{Name: h.name}})
	qt.Assert(h.t, qt.IsNil(err))
	h.listen()
	return host
}

func (h *machine) invite() string {
	h.t.Helper()
	i, err := h.Invite(h.t.Context(), time.Hour)
	qt.Assert(h.t, qt.IsNil(err))
	return i.Token
}

// join has a host join by another one.
func (h *machine) join(by *machine, token string) (*Host, error) {
	h.ca = by
	return h.Membership.Join(h.t.Context(), JoinRequest{Place: Place{Name: h.name}, At: by.at, Token: token})
}
