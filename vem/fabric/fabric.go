package fabric

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"sync/atomic"

	"github.com/snapctl/snapctl/vem/address"
	"github.com/snapctl/snapctl/vem/fabric/fastpath"
	"github.com/snapctl/snapctl/vem/netns"
)

var (
	// ErrConfig says that a Config, Endpoint or Publication cannot work.
	ErrConfig = errors.New("invalid configuration")
	// ErrPrefixInUse says that the host already routes the network's prefix
	// elsewhere, for example to another network with the same prefix.
	ErrPrefixInUse = errors.New("prefix in use on this host")
	// ErrForeign says that a device with a name that the fabric needs belongs to
	// somebody else.
	ErrForeign = errors.New("device belongs to somebody else")
	// ErrAttached says that the endpoint is attached to another namespace, or the
	// namespace to another endpoint: detach that one first.
	ErrAttached = errors.New("attached already")
)

// Outside says what apps may open connections to, apart from each other and the
// host. Published ports work with each of the values.
type Outside int

const (
	// OutsideNone is the default: nothing.
	OutsideNone Outside = iota
	// OutsideIPv4 is what the host reaches by IPv4, under the host's address
	// (masquerade). Turns net.ipv4.ip_forward on in the host's namespace, as
	// Docker does; [Fabric.Delete] puts it back.
	OutsideIPv4
	// OutsideDual is the same and IPv6. Turns net.ipv6.conf.all.forwarding on, after which
	// the host ignores router advertisements on interfaces with accept_ra=1
	// (Documentation/networking/ip-sysctl.rst): a host that gets its IPv6 default
	// route that way needs accept_ra=2 first.
	OutsideDual
)

// String returns "none", "ipv4" or "dual".
func (o Outside) String() string {
	switch o {
	case OutsideNone:
		return "none"
	case OutsideIPv4:
		return "ipv4"
	case OutsideDual:
		return "dual"
	}
	return fmt.Sprintf("Outside(%d)", int(o))
}

// DefaultMTU leaves room for any data channel's headers in a 1500 byte underlay
// (VXLAN over IPv6 takes 70 bytes, WireGuard over IPv6 80), so that no connection
// has to shrink its segments when an endpoint moves to another host. On one host
// it costs nothing: the kernel passes segments of up to 64 KiB on unsplit (GSO).
const DefaultMTU = 1400

// Config describes one virtual network on one host.
type Config struct {
	Network string       // name: [a-z0-9][a-z0-9_-]*, at most 63 bytes
	Prefix4 netip.Prefix // for example 10.77.0.0/16; the host gets the first address
	Prefix6 netip.Prefix // for example fd77::/64; zero: no IPv6
	Dir     string       // existing folder for namespace binds and records; one per host namespace
	Host    *netns.NS    // the host side; Open takes its own handle of it
	Outside Outside
	MTU     int          // zero: DefaultMTU
	Plain   bool         // leave BPF alone, as on a host that has none
	Log     *slog.Logger // nil: discard
}

var networkName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

func (c *Config) validate() error {
	switch {
	case !networkName.MatchString(c.Network):
		return fmt.Errorf("%w: network name %q does not match %s", ErrConfig, c.Network, networkName)
	case c.Dir == "" || c.Host == nil:
		return fmt.Errorf("%w: Dir and Host are required", ErrConfig)
	case c.Outside < OutsideNone || c.Outside > OutsideDual:
		return fmt.Errorf("%w: %s", ErrConfig, c.Outside)
	case c.MTU != 0 && (c.MTU < 1280 || c.MTU > 65535):
		return fmt.Errorf("%w: MTU %d is not in 1280 to 65535", ErrConfig, c.MTU)
	}
	if err := c.space().Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return nil
}

func (c *Config) space() address.Space {
	return address.Space{Prefix4: c.Prefix4, Prefix6: c.Prefix6}
}

// Fabric is an open virtual network. Its methods may be called at the same time,
// but not for the same endpoint, and none together with Delete or Close.
type Fabric struct {
	cfg      Config
	in       *side // the fabric namespace
	host     *side
	uplink   int   // index of host0 in the fabric
	hostPath error // nil, or why the host has no route to the network
	closed   atomic.Bool
	fast     *fastpath.Table
	fastPath error // nil, or why fast is nil
	apart    apart

	mu        sync.Mutex // one firewall transaction at a time
	published []Publication
	beyond    Gateway // what else is forwarded
}

// Open makes the network's fabric, or adopts the one that an earlier run made, and
// repairs what is missing or wrong. Attached apps keep running untouched, and so
// do published ports until the next [Fabric.SetPublications].
//
// If the host already has a route for the prefix, Open succeeds without one: apps
// reach each other, but not the host and the outside. [Fabric.HostPath] tells.
//
// If Open fails, a fabric that it made is gone again, and one that it found is
// kept. It returns an error wrapping [ErrConfig], or [ErrForeign] if the host has
// a device with the network's device name that is not this fabric's.
//
// The caller closes the Fabric; that leaves the network in place.
func Open(ctx context.Context, cfg Config) (*Fabric, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("open network %s: %w", cfg.Network, err)
	}
	if cfg.MTU == 0 {
		cfg.MTU = DefaultMTU
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	f := &Fabric{cfg: cfg}
	from, err := f.open(ctx)
	if err != nil {
		err = fmt.Errorf("open network %s: %w", cfg.Network, err)
		if from == created {
			return nil, errors.Join(err, f.remove(), f.Close())
		}
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// origin says where a namespace comes from.
type origin int

const (
	found origin = iota
	created
)

func (f *Fabric) open(ctx context.Context) (origin, error) {
	var err error
	if f.host, err = openSide(f.cfg.Host); err != nil {
		return found, err
	}
	ns, from, err := f.namespace()
	if err != nil {
		return from, err
	}
	defer ns.Close() //nolint:errcheck // a handle
	if f.in, err = openSide(ns); err != nil {
		return from, err
	}
	if err := f.setupInside(); err != nil {
		return from, err
	}
	if err := f.setupHost(ctx); err != nil {
		return from, err
	}
	if err := f.setupFastPath(); err != nil {
		return from, err
	}
	return from, f.setupFirewall()
}

// usable refuses work that has been cancelled, and a closed fabric: a netlink
// handle that is closed would quietly act on the caller's own namespace.
func (f *Fabric) usable(ctx context.Context) error {
	if f.closed.Load() {
		return fmt.Errorf("use network %s: %w", f.cfg.Network, fs.ErrClosed)
	}
	return ctx.Err()
}

// namespace opens the fabric's namespace, or makes and keeps a new one.
func (f *Fabric) namespace() (*netns.NS, origin, error) {
	ns, err := netns.Open(f.path())
	if err == nil {
		return ns, found, nil
	}
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, netns.ErrNotNetNS) {
		return nil, found, err
	}
	if ns, err = netns.New(); err != nil {
		return nil, found, err
	}
	if err := ns.Bind(f.path()); err != nil {
		return nil, found, errors.Join(err, ns.Close())
	}
	return ns, created, nil
}

// path is where the fabric's namespace is bound.
func (f *Fabric) path() string { return filepath.Join(f.cfg.Dir, f.cfg.Network) }

// Namespace returns the fabric's network namespace, for data channels. It
// belongs to f.
func (f *Fabric) Namespace() *netns.NS { return f.in.ns }

// HostNamespace returns the host's network namespace. It belongs to f.
func (f *Fabric) HostNamespace() *netns.NS { return f.host.ns }

// HostDevice returns the name of the network's device in the host's namespace.
func (f *Fabric) HostDevice() string { return hostDevice(f.cfg.Network) }

// HostPath returns nil if the host and the network reach each other, and
// otherwise why not: an error wrapping [ErrPrefixInUse].
func (f *Fabric) HostPath() error { return f.hostPath }

func (f *Fabric) isolated() bool { return f.hostPath != nil }

// FastPath returns nil if traffic between endpoints of this host takes the short
// way, and otherwise why not: an error wrapping [fastpath.ErrUnsupported]. Without
// it there are no inside addresses, and all else works, slower.
func (f *Fabric) FastPath() error { return f.fastPath }

// Close drops the handles and leaves the network as it is. The other methods
// return an error wrapping [fs.ErrClosed] afterwards; a second Close does nothing.
func (f *Fabric) Close() error {
	f.closed.Store(true)
	var err error
	if f.fast != nil {
		err, f.fast = f.fast.Close(), nil
	}
	return errors.Join(err, f.in.close(), f.host.close())
}

// Delete removes the network from this host: firewall table, host device, routes,
// endpoints' devices, changed host sysctls and the namespace. Apps that are still
// attached lose their eth0. It does not close f. If it fails, what is left is
// removed by another Delete, also after a restart (Open first).
func (f *Fabric) Delete(ctx context.Context) error {
	if err := f.usable(ctx); err != nil {
		return err
	}
	if err := f.remove(); err != nil {
		return fmt.Errorf("delete network %s: %w", f.cfg.Network, err)
	}
	return nil
}

func (f *Fabric) remove() error {
	errs := []error{f.removeFirewall(), f.removeHost()}
	if f.in != nil {
		// Explicitly, because the kernel takes a dead namespace's devices down
		// only later (cleanup_net runs from a workqueue).
		errs = append(errs, f.in.removeVeths())
	}
	if err := errors.Join(errs...); err != nil {
		return err // the namespace stays, so that the next run finds the rest
	}
	if err := netns.Unbind(f.path()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
