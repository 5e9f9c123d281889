package vem

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/snapctl/snapctl/vem/address"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/holder"
	"github.com/snapctl/snapctl/vem/netns"
)

// DefaultNetwork is the network that has the address space [Options.Default].
const DefaultNetwork = "default"

// Options says where a manager keeps what.
type Options struct {
	// FabricDir is an existing directory for the fabrics' namespaces, see [fabric.Config].
	FabricDir string
	// Default is the address space of [DefaultNetwork]. Those of other networks are
	// numbered on from it.
	Default address.Space
	Spaces  Spaces
	// HolderSocket and HolderLog are paths, see [holder.KeeperOptions].
	HolderSocket, HolderLog string
	// Boot tells one boot of the host from others, see [BootID]. Default: that of the kernel.
	Boot string
	// Run runs what waits for traffic of a held app in a goroutine, with a context that
	// ends before Close is called.
	Run func(func(context.Context))
	// Refilled is told that another holder keeps what is held. May be nil.
	Refilled func()
	Log      *slog.Logger
}

// Spaces keeps which address space each network has.
type Spaces interface {
	// Load returns a network's address space, or an error wrapping [io/fs.ErrNotExist] if
	// the network has none yet.
	Load(network string) (address.Space, error)
	// Save keeps a network's address space. It outlasts a power cut from the moment Save
	// returns.
	Save(network string, s address.Space) error
	// Count tells how many networks have an address space.
	Count() (int, error)
}

// Manager has the endpoints of one host, and the networks that they are in. Its methods,
// and those of its endpoints, may be called at the same time.
//
// Order of locks: a network's first, then mu. An endpoint's own is taken alone. Nothing is called with mu held that waits
// for the kernel or the disk.
type Manager struct {
	opt  Options
	open func(ctx context.Context, network string, s address.Space) (Fabric, error)
	host *netns.NS // nil in tests
	gate Gate

	holder Holder
	queues queues

	mu        sync.Mutex // guards what follows, and what endpoints say that it does
	networks  map[string]*network
	endpoints map[*Endpoint]struct{}
	reserved  map[spot]int             // addresses that spare endpoints give up -> for how many
	numbered  int                      // the highest number of an address space that was made
	strays    map[string][]holder.Item // sockets of apps that are not known
	sharing   Sharing                  // nil: this host is alone
	gateway   fabric.Gateway           // see SetGateway
}

// Open returns a manager without endpoints. It makes the default network's address space if
// there is none yet, and connects to the holder, which is started whenever there is none
// until ctx ends. The caller closes the manager.
func Open(ctx context.Context, opt Options) (_ *Manager, err error) {
	m := newManager(opt, nil, nil)
	if m.host, err = netns.Current(); err != nil {
		return nil, err
	}
	m.open = m.openFabric
	if _, err := m.space(DefaultNetwork); err != nil {
		return nil, errors.Join(err, m.host.Close())
	}
	keeper, err := holder.Keep(ctx, holder.KeeperOptions{
		Exe: "/proc/self/exe", Socket: opt.HolderSocket, LogPath: opt.HolderLog, Refill: m.refill, Log: opt.Log,
	})
	if err != nil {
		return nil, errors.Join(err, m.host.Close())
	}
	m.holder = keeper
	return m, nil
}

func newManager(opt Options, open func(context.Context, string, address.Space) (Fabric, error), h Holder) *Manager {
	opt.Boot = cmp.Or(opt.Boot, BootID(DefaultBootFile))
	return &Manager{
		opt: opt, open: open, gate: openGate{}, holder: h, queues: newQueues(), strays: make(map[string][]holder.Item),
		networks: make(map[string]*network), endpoints: make(map[*Endpoint]struct{}), reserved: make(map[spot]int),
	}
}

func (m *Manager) openFabric(ctx context.Context, network string, s address.Space) (Fabric, error) {
	f, err := fabric.Open(ctx, fabric.Config{
		Network: network, Prefix4: s.Prefix4, Prefix6: s.Prefix6,
		Dir: m.opt.FabricDir, Host: m.host, Outside: fabric.OutsideIPv4, Log: m.opt.Log,
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Close lets go of what the manager has open. The networks stay, with all that is attached
// to them, and held sockets stay held by the holder. No other method may be called meanwhile
// or later.
func (m *Manager) Close() error {
	errs := []error{m.holder.Close()} // before what it would refill a new holder with
	for e := range m.endpoints {
		errs = append(errs, e.drop())
	}
	for _, items := range m.strays {
		errs = append(errs, holder.CloseAll(items))
	}
	errs = append(errs, m.closeQueues())
	for _, n := range m.networks {
		if n.shared != nil {
			errs = append(errs, n.shared.Leave())
		}
		if n.fabric != nil {
			errs = append(errs, n.fabric.Close())
		}
	}
	if m.host != nil {
		errs = append(errs, m.host.Close())
	}
	return errors.Join(errs...)
}
