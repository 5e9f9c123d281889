package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/peering"
	"github.com/snapctl/snapctl/vem/slowpath"
)

// Network is a network of this host that takes part.
type Network struct {
	m       *Mesh
	name    string
	nets    []netip.Prefix
	modules []channel.Module
	path    atomic.Pointer[slowpath.Path] // nil: not open
	self    atomic.Pointer[[2]netip.Addr] // see SetSelf
	beyond  beyond

	resolver slowpath.Resolver // finds ways; nil: not open
}

// Open has a network take part. What an earlier process has left goes on. The caller closes the
// network, or leaves it, before the fabric.
//
// On a host that has no BPF its channels are of kind [channel.VXLAN], and the log says so. It
// returns an error wrapping [fabric.ErrPrefixInUse] if the host has no way into the network.
func (m *Mesh) Open(ctx context.Context, name string, f *fabric.Fabric, prefixes []netip.Prefix) (*Network, error) {
	n := &Network{m: m, name: name, nets: prefixes}
	if err := n.openModules(ctx, f, prefixes); err != nil {
		return nil, errors.Join(fmt.Errorf("connect network %s: %w", name, err), n.closeModules())
	}
	if err := n.open(ctx, f); err != nil {
		return nil, errors.Join(fmt.Errorf("connect network %s: %w", name, err), n.Leave())
	}
	return n, nil
}

func (n *Network) open(ctx context.Context, f *fabric.Fabric) error {
	m := n.m
	m.changing.Lock()
	defer m.changing.Unlock()
	if err := n.setUnderlay(ctx, m.here()); err != nil {
		return err
	}
	resolver, err := m.peering.Add(ctx, peering.Join{
		Name: n.name, Modules: n.modules, Offers: n.offers, OnLink: m.onLink, Sources: m.sources, Gone: n.forget,
		Works: m.works, MTU: m.mtu, Compare: m.compare, Keep: n.keeps,
	})
	if err != nil {
		return err
	}
	n.resolver = resolver
	queue := n.kept(ctx)
	defer queue.Close() //nolint:errcheck // a duplicate, or nil, which has nothing to close
	path, err := slowpath.Open(ctx, slowpath.Options{
		Network: n.name, NS: f.Namespace(), Prefixes: n.nets, MTU: fabric.DefaultMTU, Resolver: resolverOf{n, resolver}, SetUp: f.PassOn,
		Device: queue, Log: m.opt.Log,
	})
	if err != nil {
		return err
	}
	n.path.Store(path)
	n.keep(ctx, path)
	m.mu.Lock()
	m.networks[n.name] = n
	b, told := m.beyond[n.name]
	m.mu.Unlock()
	if !told {
		return nil // what an earlier process was told goes on
	}
	return n.setBeyond(ctx, b)
}

// kept returns the queue that an earlier process has left, which the caller closes; nil: none.
func (n *Network) kept(ctx context.Context) *os.File {
	if n.m.opt.Queues == nil {
		return nil
	}
	f, err := n.m.opt.Queues.KeptQueue(ctx, n.name)
	if err != nil {
		n.m.opt.Log.WarnContext(ctx, "packets that waited for a way while no daemon ran are lost",
			slog.String("network", n.name), slog.Any("error", err))
	}
	return f
}

// keep has the queue outlive this process. Without that all goes on, but for what comes while no
// daemon runs.
func (n *Network) keep(ctx context.Context, path *slowpath.Path) {
	if n.m.opt.Queues == nil {
		return
	}
	f, err := path.Device()
	if err == nil {
		if err = n.m.opt.Queues.KeepQueue(ctx, n.name, f); err != nil {
			err = errors.Join(err, f.Close())
		}
	}
	if err != nil {
		n.m.opt.Log.WarnContext(ctx, "packets that wait for a way would be lost if the daemon ended now",
			slog.String("network", n.name), slog.Any("error", err))
	}
}

// forget has endpoints asked for anew to which no way leads any more.
func (n *Network) forget(list []netip.Addr) {
	path := n.path.Load()
	if path == nil {
		return // it is being opened, and knows nothing yet
	}
	for _, a := range list {
		path.Forget(a)
	}
}

// Here tells that an endpoint is on this host from now on, and how to get there is not to be
// looked for: what waits for it is delivered.
func (n *Network) Here(a netip.Addr) {
	n.forget([]netip.Addr{a})
	n.m.peering.Here(n.name, a)
}

// toldTimeout bounds how long an app that begins waits for other hosts.
const toldTimeout = time.Second

// Told waits until other hosts let in what the endpoints send that Here was called for, also over
// channels without an outer header: for a second at most. What an endpoint sends earlier may be
// lost, as on any network.
func (n *Network) Told(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, toldTimeout)
	defer cancel()
	n.m.peering.Told(ctx, n.name)
}

// Left tells that an endpoint is not on this host any more.
func (n *Network) Left(a netip.Addr) {
	n.forget([]netip.Addr{a})
	n.m.peering.Left(n.name, a)
}

// Snapshot is what waits for a way, and what was counted.
func (n *Network) Snapshot() slowpath.Snapshot { return n.path.Load().Snapshot() }

func (n *Network) drop() {
	n.m.mu.Lock()
	defer n.m.mu.Unlock()
	delete(n.m.networks, n.name)
}

// Close takes the network out: all its channels go down, on both sides.
func (n *Network) Close(ctx context.Context) error {
	n.drop()
	err := n.m.peering.Remove(ctx, n.name)
	if path := n.path.Load(); path != nil {
		err = errors.Join(err, path.Close())
	}
	for _, m := range n.modules {
		err = errors.Join(err, m.Delete(ctx))
	}
	return err
}

// Leave lets go of the network, for a process that ends and will have a successor: traffic goes
// on meanwhile.
func (n *Network) Leave() error {
	n.drop()
	var err error
	if path := n.path.Load(); path != nil {
		err = path.Leave()
	}
	return errors.Join(err, n.closeModules())
}
