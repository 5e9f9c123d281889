package gateway

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/snapctl/snapctl/vem/address"
	"github.com/snapctl/snapctl/vem/directory"
)

// VEM is what a forwarder asks of the networks of this host.
type VEM interface {
	// Reside has this host itself be in a network, at an address; see [vem.Manager.Reside].
	Reside(ctx context.Context, network, name string, at netip.Addr) (netip.Addr, error)
	// MoveOut undoes Reside.
	MoveOut(ctx context.Context, network string) error
	// SetFar says which ports lead to endpoints of other hosts, if this host resides in the network.
	SetFar(ctx context.Context, network string, list []Published) error
	// SetGateway says what this host forwards from the next SetFar on.
	SetGateway(r Rules)
	Space(network string) (address.Space, error)
}

// Known is what is known of the directory, see package directory/cache.
type Known interface {
	Endpoints() []directory.Endpoint
	Hosts() []directory.Host
	Networks() []directory.Network
	// Seen tells whether a host was seen a moment ago.
	Seen(host string) bool
}

// Options are what a forwarder works with. All are required.
type Options struct {
	// Path is the file in which it remembers what was decided.
	Path string
	Self string // the name of this host
	VEM  VEM
	// Own are the ports that apps of this host publish at all its addresses.
	Own func() []Published
	// Ways tells the ways between hosts which machines there are beyond gateways of a network.
	Ways func(ctx context.Context, network string, b Beyond) error
	// Known returns nil before the directory was read.
	Known func() Known
	Log   *slog.Logger
}

// Forwarder has this host itself be in networks, and ports of other hosts' apps lead to these. Its
// methods may be called at the same time.
type Forwarder struct {
	opt       Options
	file      *File
	again     chan struct{}            // has a token if ports are to be looked at again
	published atomic.Pointer[[]Status] // nil: not decided yet
	logged    sync.Map                 // network -> what was logged last of what keeps this host out
	changing  chan struct{}            // has a token while somebody tells the VEM what to forward
}

// Open returns a forwarder that does nothing yet. See Resume.
func Open(opt Options) (*Forwarder, error) {
	file, err := Load(opt.Path)
	if err != nil {
		return nil, err
	}
	return &Forwarder{opt: opt, file: file, again: make(chan struct{}, 1), changing: make(chan struct{}, 1)}, nil
}

// Resume has this host be where an earlier daemon was, and forward what that forwarded, before the
// directory is reached.
func (f *Forwarder) Resume(ctx context.Context) {
	s := f.file.State()
	f.opt.VEM.SetGateway(s.rules())
	for network, at := range s.Addresses {
		_, err := f.opt.VEM.Reside(ctx, network, directory.HostApp(f.opt.Self, network), at)
		if err == nil {
			err = errors.Join(f.opt.VEM.SetFar(ctx, network, of(network, s.Ports)), f.opt.Ways(ctx, network, s.beyond(network)))
		}
		if err != nil {
			f.opt.Log.ErrorContext(ctx, "this host itself does not reach endpoints of other hosts yet", slog.String("network", network), slog.Any("error", err))
		}
	}
}

// Reside has this host itself be in a network: at the address that it had there before, or else at
// one of those that it gives out. What keeps it out, as a kernel without BPF does, is no matter of
// the directory's: it is logged once, and no error.
func (f *Forwarder) Reside(ctx context.Context, network string) error {
	at, err := f.opt.VEM.Reside(ctx, network, directory.HostApp(f.opt.Self, network), f.At(network))
	if err != nil {
		if before, ok := f.logged.Swap(network, err.Error()); !ok || before != err.Error() {
			f.opt.Log.ErrorContext(ctx, "this host itself does not reach endpoints of other hosts", slog.String("network", network), slog.Any("error", err))
		}
		return nil
	}
	f.logged.Delete(network)
	if f.At(network) == at {
		return nil
	}
	f.LookAgain() // ports can lead there now
	return f.file.Change(func(s *State) {
		if s.Addresses == nil {
			s.Addresses = make(map[string]netip.Addr)
		}
		s.Addresses[network] = at
	})
}

// MoveOut has this host leave a network, because its address there is somebody else's: Reside
// chooses another one.
func (f *Forwarder) MoveOut(ctx context.Context, network string) error {
	if err := f.opt.VEM.MoveOut(ctx, network); err != nil {
		return err
	}
	return f.file.Change(func(s *State) { delete(s.Addresses, network) })
}

// At returns the address of this host itself in a network; zero if it has none.
func (f *Forwarder) At(network string) netip.Addr { return f.file.State().Addresses[network] }

// Settings are what the operator has said.
func (f *Forwarder) Settings() Settings { return f.file.State().Settings }

// Set makes this host a gateway, or none, from now on and after restarts.
func (f *Forwarder) Set(ctx context.Context, s Settings) error {
	if err := f.file.Change(func(st *State) { st.Settings = s }); err != nil {
		return err
	}
	return f.tell(ctx)
}

// LookAgain tells that published ports or gateways have changed. It returns at once.
func (f *Forwarder) LookAgain() {
	select {
	case f.again <- struct{}{}:
	default:
	}
}

// every is how often a forwarder looks again: programs of this host begin to listen at ports, and
// end.
const every = 5 * time.Second

// Run has published ports of other hosts' apps lead to them on this host too, until ctx ends. It is
// called when Own returns the ports of all apps that an earlier daemon had.
func (f *Forwarder) Run(ctx context.Context) {
	timer := time.NewTicker(every)
	defer timer.Stop()
	for {
		if err := f.look(ctx); err != nil && ctx.Err() == nil {
			f.opt.Log.WarnContext(ctx, "publish ports of other hosts' apps on this host", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return
		case <-f.again:
		case <-timer.C:
		}
	}
}

// look decides what this host forwards, and does it.
func (f *Forwarder) look(ctx context.Context) error {
	known := f.opt.Known()
	if known == nil {
		return nil
	}
	now, err := f.decide(known)
	if err != nil {
		return err
	}
	f.logConflicts(ctx, now)
	f.published.Store(&now)
	var ports []Published
	for _, s := range now {
		if s.Why == "" {
			ports = append(ports, s.Published)
		}
	}
	there := gates(known, f.opt.Self)
	if s := f.file.State(); !slices.Equal(s.Ports, ports) || !maps.EqualFunc(s.Gates, there, func(a, b []Gate) bool { return slices.EqualFunc(a, b, Gate.equal) }) {
		err = f.file.Change(func(s *State) { s.Ports, s.Gates = ports, there })
	}
	return errors.Join(err, f.tell(ctx))
}

func (f *Forwarder) decide(known Known) ([]Status, error) {
	taken := make(Taken)
	for _, p := range f.opt.Own() {
		taken.Take(p.Proto, p.HostPort, "app "+p.App)
	}
	if err := Listeners(taken); err != nil {
		return nil, err
	}
	var all []Published
	for _, e := range known.Endpoints() {
		ports, err := ParsePorts(e.Ports)
		if err != nil || e.Owner == f.opt.Self || e.OfHost() {
			continue
		}
		for _, p := range ports {
			all = append(all, Published{Port: p, Network: e.Network, Addr: e.Addr, App: e.App, Host: e.Owner})
		}
	}
	return Choose(all, taken), nil
}

// tell tells the VEM what to forward, in all networks that this host is in.
func (f *Forwarder) tell(ctx context.Context) error {
	select {
	case f.changing <- struct{}{}:
		defer func() { <-f.changing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	s := f.file.State()
	f.opt.VEM.SetGateway(s.rules())
	var errs []error
	for _, network := range slices.Sorted(maps.Keys(s.Addresses)) {
		errs = append(errs, f.opt.VEM.SetFar(ctx, network, of(network, s.Ports)), f.opt.Ways(ctx, network, s.beyond(network)))
	}
	for network := range s.Gates { // also one that this host is not in yet
		if _, done := s.Addresses[network]; !done {
			errs = append(errs, f.opt.Ways(ctx, network, s.beyond(network)))
		}
	}
	return errors.Join(errs...)
}

// logConflicts logs ports that do not lead to their apps on this host, when that begins.
func (f *Forwarder) logConflicts(ctx context.Context, now []Status) {
	before := f.ports()
	for _, s := range now {
		if s.Why != "" && !slices.Contains(before, s) {
			f.opt.Log.WarnContext(ctx, "a published port does not lead to its app on this host", slog.String("port", s.String()),
				slog.String("app", s.App), slog.String("host", s.Host), slog.String("reason", s.Why))
		}
	}
}

func (f *Forwarder) ports() []Status {
	if list := f.published.Load(); list != nil {
		return *list
	}
	return nil
}

// of returns the ports that lead to endpoints of a network.
func of(network string, all []Published) (list []Published) {
	for _, p := range all {
		if p.Network == network {
			list = append(list, p)
		}
	}
	return list
}
