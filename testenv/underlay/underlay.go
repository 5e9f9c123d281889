// Package underlay is what scratch hosts are connected by, and what goes wrong
// there: networks that several hosts share, cables between two, routers between
// networks, and faults of every port of them, in each direction.
//
//	u := underlay.New(t)
//	lan, err := u.Network(underlay.NetworkConfig{Prefixes: ...})
//	eth0, err := lan.Attach(ctx, alpha, underlay.PortConfig{})
//	...
//	err = eth0.Set(underlay.In, underlay.Faults{Loss: 30, Seed: 1})
//	err = u.Partition(underlay.Group{alpha}, underlay.Group{beta, gamma})
//	err = u.Heal(ctx)
//
// A network is a namespace of its own with a bridge. A host's port is a pair of
// devices: one is on the host, under the name that the test chose; the other is in
// the network's namespace, where the host can't see it.
//
//	host         the network's namespace
//	eth0 ======= wire1 ================= | bridge |
//	eth0 ======= wire2 -- line -- tap2 = |        |
//	                  Out ->          programs here
//	                  <- In
//
// Cuts, losses and partitions are BPF programs on the bridge's ports, and each of
// them is changed by an update of a map: they cost next to nothing, and hosts keep
// the tc hooks of their own devices for themselves. Frames that are to be late, or
// out of order, or are sent at a lower rate, go through this process: only ports
// that ask for a line have that.
//
// The kernel itself loses frames when more than net.core.netdev_max_backlog of them come
// at once on one processor: 1000, unless the machine has another value.
//
// A frame that a program drops is gone silently, as on a real network: the sender
// has sent it. A port that is [Port.Down] has no carrier, which the host sees.
//
// Nothing here has a route out of the machine, and nothing of it is a process: what
// the daemons on the hosts do makes no difference to it. All of it goes away by
// [Underlay.Close], with the process that made it, and, as far as a host's devices
// are concerned, with the host.
//
// Needs root, Linux 5.12 (BPF_FETCH) with CONFIG_BRIDGE, CONFIG_VETH, CONFIG_TUN,
// CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS.
package underlay

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/vem/netns"
)

// Underlay is a set of networks, and of the routers between them. Its methods, and
// those of its networks and routers, change the topology: one at a time. The faults
// of ports may be changed by several goroutines at once.
type Underlay struct {
	mu       sync.Mutex
	networks []*Network
	routers  []*Router
	nodes    []*node
	wires    int // ports made so far
}

// Node is something that has ports: a [host.Host] or a [Router].
type Node interface {
	Name() string
}

// node is a Node with its ports.
type node struct {
	Node
	ns      *netns.NS // the node's
	forward bool      // it is a router
	ports   []*Port
}

// New makes an empty underlay for a test, and closes it after the test. It is to
// be made after the hosts' leak check: then it is gone when that looks.
func New(t testenv.TB) *Underlay {
	t.Helper()
	testenv.Need(t, testenv.Root, testenv.Kernel(5, 12))
	u := Open()
	t.Cleanup(func() {
		if err := u.Close(); err != nil {
			t.Errorf("close underlay: %v", err)
		}
	})
	return u
}

// Open makes an empty underlay. The caller closes it.
func Open() *Underlay { return &Underlay{} }

// Close removes all networks and routers, and the devices that hosts have there.
// The hosts may be closed before or afterwards. A second call does nothing.
func (u *Underlay) Close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	var errs []error
	for _, n := range u.networks {
		errs = append(errs, n.close())
	}
	for _, r := range u.routers {
		errs = append(errs, r.ns.Close())
	}
	u.networks, u.routers, u.nodes = nil, nil, nil
	return errors.Join(errs...)
}

// node returns what is known of a node, which may be new. u.mu is held.
func (u *Underlay) node(of Node) (*node, error) {
	i := slices.IndexFunc(u.nodes, func(n *node) bool { return n.Node == of })
	if i >= 0 {
		return u.nodes[i], nil
	}
	n := &node{Node: of}
	switch is := of.(type) {
	case *host.Host:
		n.ns = is.Net()
	case *Router:
		n.ns, n.forward = is.ns, true
	default:
		return nil, fmt.Errorf("underlay: a %T is neither a host nor a router", of)
	}
	u.nodes = append(u.nodes, n)
	return n, nil
}
