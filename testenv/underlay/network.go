package underlay

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"github.com/snapctl/snapctl/vem/netns"
)

// bridgeName is the bridge in a network's namespace.
const bridgeName = "switch"

// maxMTU is that of everything in a network, which is to have none of its own: the
// most that a TAP can have (drivers/net/tun.c).
const maxMTU = 65521

// defaultMTU is that of Ethernet.
const defaultMTU = 1500

// NetworkConfig describes a network. The zero value is one without addresses.
type NetworkConfig struct {
	Name     string         // for messages; "net1" and so on if empty
	Prefixes []netip.Prefix // each port gets an address of each, in order; see PortConfig.Addresses
	MTU      int            // of the ports' devices; 1500 if 0

	// Cable makes it a cable instead of a switch: it has at most two ports, and
	// when one of them is down, neither has a carrier.
	Cable bool

	// Offload lets devices hand over runs of up to 64 kB as one packet, as devices
	// of one machine do, and networks between machines never do. It is for
	// benchmarks and large amounts of data: it makes a stream some twenty times as fast
	// (BenchmarkStream), two thirds of a plain pair of devices. Losses and cuts then hit such a run as a whole, and one whose
	// segments are too large for what comes next may pass all the same.
	Offload bool
}

// Network is an Ethernet that hosts and routers are attached to.
type Network struct {
	u    *Underlay
	cfg  NetworkConfig
	ns   *netns.NS
	taps *faultMaps
	// ports has nil for those that were removed: their numbers are not used again.
	ports []*Port
}

// Network makes a network without ports.
func (u *Underlay) Network(cfg NetworkConfig) (*Network, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if cfg.Name == "" {
		cfg.Name = fmt.Sprintf("net%d", len(u.networks)+1)
	}
	if cfg.MTU == 0 {
		cfg.MTU = defaultMTU
	}
	n := &Network{u: u, cfg: cfg}
	if err := n.open(); err != nil {
		return nil, fmt.Errorf("make network %s: %w", cfg.Name, errors.Join(err, n.close()))
	}
	u.networks = append(u.networks, n)
	return n, nil
}

func (n *Network) open() (err error) {
	if n.taps, err = newFaultMaps(); err != nil {
		return err
	}
	if n.ns, err = netns.New(); err != nil {
		return err
	}
	return n.ns.Do(func() error {
		// The bridge carries IPv6 and says nothing itself.
		if err := sysctl("ipv6/conf/default/disable_ipv6", "1"); err != nil {
			return err
		}
		snoop := false // there is no querier: every port gets every group
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName}, MulticastSnooping: &snoop}
		if err := netlink.LinkAdd(bridge); err != nil {
			return fmt.Errorf("add bridge: %w", err)
		}
		return netlink.LinkSetUp(bridge)
	})
}

// Name is the network's name.
func (n *Network) Name() string { return n.cfg.Name }

// SetMTU changes the MTU of all devices that are on the network, and of those that will
// be.
func (n *Network) SetMTU(mtu int) error {
	n.u.mu.Lock()
	defer n.u.mu.Unlock()
	n.cfg.MTU = mtu
	var errs []error
	for _, p := range n.ports {
		if p != nil {
			errs = append(errs, p.SetMTU(mtu))
		}
	}
	return errors.Join(errs...)
}

// close removes the network with its ports, as far as they are there.
func (n *Network) close() error {
	var errs []error
	for _, p := range n.ports {
		if p != nil {
			errs = append(errs, p.remove())
		}
	}
	if n.ns != nil {
		errs = append(errs, n.ns.Close())
	}
	if n.taps != nil {
		errs = append(errs, n.taps.Close())
	}
	return errors.Join(errs...)
}

// faultMaps are what the programs of a network's ports look into.
type faultMaps struct {
	settings *ebpf.Map // slot -> setting
	counters *ebpf.Map // slot -> counters
	pairs    *ebpf.Map // pair: present if its frames are dropped
}

// maxPorts bounds a network.
const maxPorts = 128

func newFaultMaps() (*faultMaps, error) {
	m := &faultMaps{}
	for _, spec := range []struct {
		to   **ebpf.Map
		spec ebpf.MapSpec
	}{
		{&m.settings, ebpf.MapSpec{Name: "settings", Type: ebpf.Array, KeySize: 4, ValueSize: settingSize, MaxEntries: 2 * maxPorts}},
		{&m.counters, ebpf.MapSpec{Name: "counters", Type: ebpf.Array, KeySize: 4, ValueSize: countersSize, MaxEntries: 2 * maxPorts}},
		{&m.pairs, ebpf.MapSpec{Name: "pairs", Type: ebpf.Hash, KeySize: pairSize, ValueSize: 4, MaxEntries: maxPorts * maxPorts}},
	} {
		made, err := ebpf.NewMap(&spec.spec)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("make map %s: %w", spec.spec.Name, err), m.Close())
		}
		*spec.to = made
	}
	return m, nil
}

// Close drops the handles: the programs keep the maps.
func (m *faultMaps) Close() error {
	return errors.Join(m.settings.Close(), m.counters.Close(), m.pairs.Close())
}

// sysctl writes a setting of the calling thread's namespace, below /proc/sys/net.
func sysctl(name, value string) error {
	if err := os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0o644); err != nil {
		return fmt.Errorf("set sysctl: %w", err)
	}
	return nil
}
