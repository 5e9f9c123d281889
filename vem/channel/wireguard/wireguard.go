package wireguard

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/channel/guard"
	"github.com/snapctl/snapctl/vem/channel/routes"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/netns"
)

// Devices of this host's networks have UDP ports from FirstPort on, of which there are so many.
const (
	FirstPort = 7100
	Ports     = 100
)

// Config is one network.
type Config struct {
	Self             string    // this host's name, as others call it
	Network          string    // the network's name
	Fabric, Host     *netns.NS // namespaces; Open takes its own handles of them
	Prefix4, Prefix6 netip.Prefix
	MTU              int // of all apps' devices
	Local            Local
	// Run runs what goes on beside requests, with a context that ends before Close is called.
	Run func(func(context.Context))
	Log *slog.Logger // nil: discard
}

// Local is what all networks of a host have in common.
type Local struct {
	Secret Secret
	// Exe is the program that does it in user space, started as "EXE wireguard --mtu MTU", see
	// package userspace.
	Exe     string
	LogPath string // of that process
	// UserSpace has it be done there though the kernel could.
	UserSpace bool
}

// Module makes channels of kind [channel.WireGuard]. It is a [channel.Module].
type Module struct {
	cfg    Config
	keys   keys
	fabric *side
	host   *side
	guard  guard.Guard  // what lets packets of known hosts in, and counts them
	inside guard.Inside // and what drops those that are not as they should be
	table  routes.Table
	wg     *control

	turn     chan struct{} // has one token while somebody uses what follows
	closed   bool
	device   device
	underlay map[netip.Addr]under
	hosts    map[string]*entry
	routes   map[netip.Addr]route
	machines machines
}

// keys are this host's.
type keys struct {
	private, public wgtypes.Key // to compute a public key takes as long as a message to another host
}

// under is an underlay device.
type under struct {
	name string
	mtu  int
}

// entry is a host that is set.
type entry struct {
	number int // in the guard
	key    wgtypes.Key
	status channel.Status
	seen   channel.Counters // by the last Report
}

// route is a route that is set.
type route struct {
	host  string
	state channel.State
}

var (
	_ channel.Module = (*Module)(nil)
	_ channel.Router = (*Module)(nil)
)

// Open opens a network's channels: those that an earlier run left, and none if there was none. The
// underlay is not known until SetUnderlay, which does not stop the channels that are there. The
// caller closes the Module before the fabric.
func Open(ctx context.Context, cfg Config) (*Module, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	m := &Module{
		cfg: cfg, turn: make(chan struct{}, 1),
		underlay: make(map[netip.Addr]under), hosts: make(map[string]*entry), routes: make(map[netip.Addr]route),
	}
	if err := m.open(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open WireGuard channels of network %s: %w", cfg.Network, err), m.Close())
	}
	return m, nil
}

func (m *Module) open(ctx context.Context) (err error) {
	if m.keys.private, err = m.cfg.Local.Secret.key(m.cfg.Network); err != nil {
		return err
	}
	m.keys.public = m.keys.private.PublicKey()
	if m.fabric, err = openSide(m.cfg.Fabric); err != nil {
		return err
	}
	if m.host, err = openSide(m.cfg.Host); err != nil {
		return err
	}
	if m.wg, err = openControl(m.fabric.ns, m.cfg.Local.UserSpace); err != nil {
		return err
	}
	m.guard = guard.Guard{Table: "snapctl-wireguard-" + m.cfg.Network, NS: m.host.ns}
	m.listenAt(firstPort(m.cfg.Network))
	m.inside = guard.Inside{Table: "snapctl-wireguard", NS: m.fabric.ns, Device: fabric.WireGuardDevice, Prefix4: m.cfg.Prefix4, Prefix6: m.cfg.Prefix6, Allow: amongHosts()}
	m.table = routes.Table{NS: m.fabric.ns, Protocol: protocol, Metric: metric, Opening: openingTable}
	if err := m.openMachines(ctx); err != nil {
		return err
	}
	return m.adopt(ctx)
}

// take gets the right to use what changes. It refuses what has been cancelled, and a closed module.
func (m *Module) take(ctx context.Context) (release func(), err error) {
	select {
	case m.turn <- struct{}{}:
		release = func() { <-m.turn }
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if m.closed {
		err = fmt.Errorf("use WireGuard channels of network %s: %w", m.cfg.Network, fs.ErrClosed)
	} else {
		err = ctx.Err()
	}
	if err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// Kinds returns [channel.WireGuard].
func (m *Module) Kinds() []channel.Kind { return []channel.Kind{channel.WireGuard} }

// InKernel tells whether it is the kernel that encrypts, and not a process, which is slow.
func (m *Module) InKernel() bool { return m.wg.kernel }

// Close drops the handles; see [channel.Module].
func (m *Module) Close() error {
	m.turn <- struct{}{}
	was := m.closed
	m.closed = true
	p := m.device.process
	m.giveUpPort()
	<-m.turn
	if was {
		return nil
	}
	p.leave()
	var err error
	if m.machines.module != nil {
		err = m.machines.module.Close()
	}
	return errors.Join(err, m.wg.close(), m.fabric.close(), m.host.close())
}

// Delete removes all; see [channel.Module].
func (m *Module) Delete(ctx context.Context) error {
	if err := m.clear(ctx); err != nil {
		return fmt.Errorf("delete WireGuard channels of network %s: %w", m.cfg.Network, err)
	}
	return m.Close()
}

func (m *Module) clear(ctx context.Context) error {
	release, err := m.take(ctx)
	if errors.Is(err, fs.ErrClosed) {
		return nil
	}
	if err != nil {
		return err
	}
	defer release()
	if err := m.takeDown(ctx); err != nil {
		return err
	}
	return m.machines.module.SetBeyond(ctx, nil)
}

// side is a namespace and a netlink socket in it.
type side struct {
	ns *netns.NS
	nl *netlink.Handle
}

func openSide(ns *netns.NS) (*side, error) {
	own, err := ns.Dup()
	if err != nil {
		return nil, err
	}
	s := &side{ns: own}
	err = own.Do(func() (err error) {
		s.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open netlink socket: %w", err), own.Close())
	}
	return s, nil
}

func (s *side) close() error {
	if s == nil {
		return nil
	}
	s.nl.Close()
	return s.ns.Close()
}
