package installation

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/snapctl/snapctl/vem/channel/wireguard"
	"github.com/snapctl/snapctl/vem/control"
	"github.com/snapctl/snapctl/vem/control/message"
	"github.com/snapctl/snapctl/vem/devices"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/cache"
	"github.com/snapctl/snapctl/vem/installation/errand"
	"github.com/snapctl/snapctl/vem/installation/relocate"
	"github.com/snapctl/snapctl/vem/membership"
	"github.com/snapctl/snapctl/vem/membership/wire"
	"github.com/snapctl/snapctl/vem/mesh"
	"github.com/snapctl/snapctl/vem/ownership"
	"github.com/snapctl/snapctl/vem/pause"
	"github.com/snapctl/snapctl/vem/probe"
	"github.com/snapctl/snapctl/vem/registrar"
	"github.com/snapctl/snapctl/vem/upkeep"
)

// again is how long it takes until what failed is tried again.
const again = 5 * time.Second

// Options are what an installation works with. All are required.
type Options struct {
	// Dir is for what this host keeps of its installation. It is made when that is needed.
	Dir string
	// Exe is the program snapctl-directory.
	Exe     string
	Version string // of snapctl
	Boot    string // another one after the host was started again
	// ProbeInterval is how often the ways to other hosts are probed; 0: each second.
	ProbeInterval time.Duration
	// WireGuard is what channels of that kind need, but for the secret and the log.
	WireGuard wireguard.Local
	Local     Networks
	// Share has other hosts share all networks of this host that are not private, see IsPrivate,
	// by a mesh, from now on.
	Share func(context.Context, *mesh.Mesh) error
	// Unshare has networks be this host's own again.
	Unshare func(context.Context) error
	// Admitted is told that what Admit says may have changed. It returns at once.
	Admitted func()
	// Step is as in [membership.Options].
	Step func(ctx context.Context, name string) error
	// Streams answer the streams of these kinds that other hosts open, as in [control.Handlers].
	Streams map[string]func(ctx context.Context, from message.Caller, s *control.Stream) error
	// Run runs what goes on beside requests, with a context that ends before Close is called.
	Run func(func(context.Context))
	Log *slog.Logger
}

// Installation is this host's part in an installation, or none. It does all that [Membership]
// does.
type Installation struct {
	*membership.Membership

	opt       Options
	upkeep    *upkeep.Upkeep
	part      atomic.Pointer[part] // nil: this host is in none
	starting  chan struct{}        // has a token while somebody starts it
	ledger    *ownership.Ledger
	recovered chan struct{}         // closed by Recovered
	trouble   atomic.Pointer[error] // why the directory was not reached

	place  atomic.Pointer[membership.Place]     // of a host that is on its way into an installation
	moving sync.Mutex                           // held while this host moves to other addresses
	trying atomic.Pointer[[]membership.Address] // where it is meanwhile
}

// Open returns this host's part, as an earlier daemon has left it. The directory does not have to
// be reachable. The caller closes it.
func Open(ctx context.Context, opt Options) (*Installation, error) {
	i := &Installation{opt: opt, starting: make(chan struct{}, 1), recovered: make(chan struct{})}
	i.upkeep = upkeep.New(upkeep.Options{
		Dir: filepath.Join(opt.Dir, "directory"), Exe: opt.Exe, Version: opt.Version, Protocols: protocols(),
		Place: i.placeNow, Membership: func() *membership.Membership { return i.Membership }, Hosts: i.knownHosts, Peers: i.peers, Log: opt.Log,
	})
	gate := &wire.Gate{Version: opt.Version, Peers: i.renewer, Hosts: i.hostNames, Now: time.Now}
	var err error
	if i.ledger, err = ownership.Open(opt.Dir); err != nil {
		return nil, err
	}
	i.Membership, err = membership.Open(ctx, membership.Options{
		Dir: opt.Dir, Self: directory.Host{Release: opt.Version, Protocols: protocols()}, Port: control.DefaultPort,
		Directories: i.upkeep, Gate: gate, Addresses: devices.Addresses, Compare: i.compare,
		Leaving: i.upkeep.Leaving, Left: i.left, Step: opt.Step, Refused: i.upkeep.Refused, Removed: i.removed, Log: opt.Log,
	})
	if err != nil {
		return nil, err
	}
	opt.Run(i.KeepRenewed)
	opt.Run(i.KeepKnown)
	if i.Identity() == nil {
		return i, nil
	}
	if _, told := i.Departing(); !told {
		opt.Run(func(ctx context.Context) { i.upkeep.Resume(ctx, i.Identity()) })
	}
	_ = i.startUntilItRuns(ctx) // logged: this host's apps go on meanwhile, and can be worked with
	return i, nil
}

// startUntilItRuns starts this host's part, and if that fails tries again until it is done.
func (i *Installation) startUntilItRuns(ctx context.Context) error {
	err := i.start(ctx)
	if err == nil {
		return nil
	}
	i.opt.Log.ErrorContext(ctx, "this host takes no part in its installation yet", slog.Any("error", err))
	i.opt.Run(func(ctx context.Context) {
		for pause.For(ctx, again, nil) {
			if i.start(ctx) == nil {
				return
			}
		}
	})
	return err
}

func protocols() [2]int {
	ours := message.Range{}.OrOurs()
	return [2]int{int(ours.Min), int(ours.Max)}
}

// Init makes an installation, see [membership.Membership.Init]. On a host that has joined one it
// has the host run the installation too: with a member of the directory, and the CA.
func (i *Installation) Init(ctx context.Context, req membership.InitRequest) (*membership.Host, error) {
	if i.Identity() != nil {
		return i.upkeep.Serve(ctx, req)
	}
	p, err := i.Complete(req.Place)
	if err != nil {
		return nil, err
	}
	i.place.Store(&p)
	req.Place = p
	h, err := i.Membership.Init(ctx, req)
	if err != nil {
		return nil, err
	}
	err = i.begin(ctx)
	i.tell(h)
	return h, err
}

// Join joins an installation, see [membership.Membership.Join].
func (i *Installation) Join(ctx context.Context, req membership.JoinRequest) (*membership.Host, error) {
	h, err := i.Membership.Join(ctx, req)
	if err != nil {
		return nil, err
	}
	err = i.begin(ctx)
	i.tell(h)
	return h, err
}

// begin starts what runs while this host is in an installation, and waits until it has addresses of
// its own to give out.
func (i *Installation) begin(ctx context.Context) error {
	if err := i.startUntilItRuns(ctx); err != nil {
		return err
	}
	p := i.part.Load()
	select {
	case <-p.reached:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-p.registrar.Load().Ready():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// placeNow is where this host is.
func (i *Installation) placeNow() membership.Place {
	if p, ok := i.Place(); ok {
		if at := i.trying.Load(); at != nil {
			p.Addresses = *at
		}
		return p
	}
	if p := i.place.Load(); p != nil {
		return *p
	}
	return membership.Place{}
}

// secretFile has the key of the channels that are encrypted.
func (i *Installation) secretFile() string { return filepath.Join(i.opt.Dir, "wireguard") }

// start begins what runs while this host is in an installation.
func (i *Installation) start(ctx context.Context) (err error) {
	select {
	case i.starting <- struct{}{}:
		defer func() { <-i.starting }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if i.part.Load() != nil {
		return nil
	}
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	local := shared{i.opt.Local, i.IsPrivate}
	p := &part{Errands: errand.Errands{Background: i.opt.Run, Left: life.Done(), Stop: end}, identity: i.Identity(), local: local, reached: make(chan struct{})}
	defer func() {
		if err != nil {
			end()
		}
	}()
	if p.ranges, err = ownership.LoadRanges(i.opt.Dir, local.SetRanges); err != nil {
		return err
	}
	if p.gateway, err = i.openGateway(p); err != nil {
		return err
	}
	check := membership.Check(p.known)
	self := message.Self{Host: p.identity.Host(), Version: i.opt.Version, Boot: i.opt.Boot}
	p.tls = func(host string) *tls.Config { return p.identity.Client(host, check) }
	p.peers, err = control.NewPeers(life, control.PeersOptions{
		Self: self, TLS: p.tls,
		PeerOf: peerOf, Explain: p.identity.Explain, Log: i.opt.Log, Changed: func(s control.Status) { i.met(p, s) },
	})
	if err != nil {
		return err
	}
	given, err := i.choice().Given(ctx, i.opt.Log)
	if err != nil {
		p.peers.Close()
		return err
	}
	encrypted := i.opt.WireGuard
	encrypted.LogPath = i.secretFile() + ".log"
	if encrypted.Secret, err = wireguard.LoadSecret(i.secretFile()); err != nil {
		p.peers.Close()
		return err
	}
	p.mesh = mesh.New(mesh.Options{
		WireGuard: encrypted, Self: self.Host, Given: given, Peers: p.peers, Owners: p, Locals: locals{local, p}, Queues: i.opt.Local, Run: p.Run, Log: i.opt.Log,
		Probe: probe.Options{Port: i.placeNow().Port + mesh.ProbePort, Interval: i.opt.ProbeInterval},
		Reach: func(host string, at []netip.AddrPort) { i.askAt(life, p, host, at) },
	})
	desk := &desk{wire.Desk{Membership: i.Membership}, p.mesh, i.opt.Log}
	streams := desk.streams()
	maps.Copy(streams, i.opt.Streams)
	p.server, err = control.NewServer(life, control.ServerOptions{
		Self: self, TLS: p.identity.Server(check), PeerOf: peerOf, Explain: p.identity.Explain, Log: i.opt.Log,
		Handlers: control.Handlers{Hosts: desk, Joins: desk, Owners: p, Channels: p.mesh.Peering(), Streams: streams},
	})
	if err != nil {
		p.peers.Close()
		return err
	}
	p.doors = &relocate.Doors{Serve: p.server.Serve, Run: p.Run, Log: i.opt.Log}
	if err = p.doors.Set(life, i.placeNow()); err == nil {
		// A network takes what comes to these from when it is opened on: nothing, if it was told of none. An error
		// is told, and mended, by Watch.
		_ = p.mesh.SetUnderlay(ctx, devices.Underlay(i.placeNow().Addresses))
		err = i.opt.Share(ctx, p.mesh)
	}
	if err != nil {
		p.server.Close()
		p.peers.Close()
		p.mesh.Close()
		return err
	}
	p.gateway.Resume(ctx)
	i.part.Store(p)
	p.Run(p.mesh.Run)
	p.Run(func(ctx context.Context) { <-ctx.Done(); p.server.Close() })
	p.Run(func(ctx context.Context) {
		devices.Watch(ctx, again, i.opt.Log, func() []membership.Address { return i.placeNow().Addresses }, p.mesh.SetUnderlay)
	})
	p.Run(p.mesh.Peering().Watch)
	p.Run(func(ctx context.Context) { i.follow(ctx, p) })
	return nil
}

// follow connects to the directory, and goes by what it says until ctx ends.
func (i *Installation) follow(ctx context.Context, p *part) {
	d, err := i.reach(ctx)
	if err != nil {
		return // ctx has ended
	}
	c := cache.New(d, cache.Options{
		Host:     func(before, now *directory.Host) { i.upkeep.Moved(ctx); i.hostChanged(ctx, p, before, now) },
		Seen:     func(host string, alive bool) { p.seen.Note(host, alive); p.gateway.LookAgain() },
		Endpoint: func(before, now *directory.Endpoint) { i.endpointChanged(ctx, p, before, now) },
	})
	p.cache.Store(c)
	r := registrar.New(registrar.Options{
		Self: p.identity.Host(), Key: string(p.identity.Member()), Directory: d, Cache: c, Ranges: p.ranges, Local: p.local,
		Ledger: i.ledger, Boot: i.opt.Boot, Private: i.IsPrivate, Recovered: i.recovered, Admitted: i.opt.Admitted, Log: i.opt.Log,
		Gateway: p.gateway, Step: i.Step,
	})
	p.registrar.Store(r)
	close(p.reached)
	p.Run(r.Run)
	p.Run(i.upkeep.Announce)
	p.Run(func(ctx context.Context) { i.forward(ctx, p) })
	p.Run(func(ctx context.Context) {
		if err := d.BeSeen(ctx, p.identity.Host(), seenFor); err != nil && ctx.Err() == nil {
			i.opt.Log.ErrorContext(ctx, "other hosts are not told that this one is alive", slog.Any("error", err))
		}
	})
	if err := c.Run(ctx); err != nil && ctx.Err() == nil {
		i.opt.Log.ErrorContext(ctx, "the directory is not followed any more", slog.Any("error", err))
	}
}

// seenFor is after what time a host counts as silent.
const seenFor = 10 * time.Second

// reach opens the directory, and tries again until ctx ends.
func (i *Installation) reach(ctx context.Context) (*directory.Directory, error) {
	last := ""
	for {
		d, err := i.Directory(ctx)
		if err == nil {
			return d, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		i.trouble.Store(&err)
		if text := err.Error(); text != last {
			last = text
			i.opt.Log.WarnContext(ctx, "the directory can't be used; what works goes on", slog.Any("error", err))
		}
		if !pause.For(ctx, time.Second, nil) {
			return nil, ctx.Err()
		}
	}
}

// removed is told that a host was removed by this one.
func (i *Installation) removed(host string) {
	if p := i.part.Load(); p != nil {
		p.server.Drop(host)
		p.peers.Remove(host)
	}
}

// Changed tells that an endpoint of this host has come or gone. It returns at once.
func (i *Installation) Changed() {
	p := i.part.Load()
	if p == nil {
		return
	}
	if r := p.registrar.Load(); r != nil {
		r.Changed()
	}
}

// Upkeep looks after the directory.
func (i *Installation) Upkeep() *upkeep.Upkeep { return i.upkeep }

// peers are the connections to other hosts, nil while there are none.
func (i *Installation) peers() *control.Peers {
	if p := i.part.Load(); p != nil {
		return p.peers
	}
	return nil
}

// renewer is whom to ask for a renewal.
func (i *Installation) renewer() wire.Renewer {
	if p := i.part.Load(); p != nil {
		return p.peers
	}
	return nil
}

// Close lets go of the installation. Traffic goes on, and so does a member of the directory.
func (i *Installation) Close() error {
	if p := i.part.Load(); p != nil {
		p.server.Close()
		p.peers.Close()
		p.mesh.Close()
	}
	return errors.Join(i.Membership.Close(), i.upkeep.Close())
}
