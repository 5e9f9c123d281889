package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/template"
	"github.com/snapctl/snapctl/vem/address"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/netns"
)

// DefaultNetwork is the network of an app that names none.
const DefaultNetwork = "default"

// space is the address space of a network. A network gets one when it is first
// used and keeps it.
//
// The caller holds d.mu.
func (d *Daemon) space(network string) (address.Space, error) {
	if err := snapshot.ValidateName(network); err != nil {
		return address.Space{}, fmt.Errorf("network: %w: %w", errdefs.ErrInvalidArgument, err)
	}
	dir := filepath.Join(d.opt.StateDir, "networks")
	path := filepath.Join(dir, network+".json")
	var s address.Space
	switch err := journal.Read(path, &s); {
	case err == nil:
		return s, s.Validate()
	case !errors.Is(err, fs.ErrNotExist):
		return s, fmt.Errorf("read network %s: %w", network, err)
	}
	taken, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return s, err
	}
	s = address.Space{Prefix4: d.opt.Prefix4, Prefix6: d.opt.Prefix6}
	if network != DefaultNetwork {
		if s, err = nextSpace(s, len(taken)+1); err != nil {
			return s, err
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return s, fmt.Errorf("make network: %w", err)
	}
	return s, journal.Write(path, s, journal.Forever)
}

// nextSpace is the n-th address space after the default one: 10.78.0.0/16 after
// 10.77.0.0/16.
func nextSpace(s address.Space, n int) (address.Space, error) {
	a4, a6 := s.Prefix4.Addr().As4(), s.Prefix6.Addr().As16()
	if int(a4[1])+n > 255 || int(a6[7])+n > 255 {
		return s, fmt.Errorf("make network: %w", address.ErrExhausted)
	}
	a4[1] += byte(n)
	a6[7] += byte(n)
	s.Prefix4 = netip.PrefixFrom(netip.AddrFrom4(a4), s.Prefix4.Bits())
	s.Prefix6 = netip.PrefixFrom(netip.AddrFrom16(a6), s.Prefix6.Bits())
	return s, nil
}

// checkPublications refuses a host port that another app has.
//
// The caller holds d.mu.
func (d *Daemon) checkPublications(rec app.Record) error {
	for _, a := range d.apps.List() {
		other, _ := a.Read()
		if other.Name == rec.Name {
			continue
		}
		for _, p := range rec.Publish {
			if slices.ContainsFunc(other.Publish, p.Meets) {
				return fmt.Errorf("publish host port %d/%s: %w: app %s has it", p.HostPort, p.Proto, errdefs.ErrAlreadyExists, other.Name)
			}
		}
	}
	return nil
}

// addPublications gives an app ports of the host, unless another one has them.
func (d *Daemon) addPublications(a *App, list []template.Published) error {
	if len(list) == 0 {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	rec, _ := a.Read()
	rec.Publish = slices.Clone(rec.Publish)
	for _, p := range list {
		rec.Publish = append(rec.Publish, app.Publication{Proto: string(p.Protocol), HostAddr: p.HostAddress, HostPort: p.HostPort, Port: p.Port})
	}
	if err := d.checkPublications(rec); err != nil {
		return err
	}
	a.Amend(func(r *app.Record) { r.Publish = rec.Publish })
	return nil
}

// isolate cuts an attached app off from its network, until it is attached again.
func (d *Daemon) isolate(ctx context.Context, a *App) error {
	rec, _ := a.Read()
	return d.inNetwork(ctx, rec.Network, func(f *fabric.Fabric) error { return f.Isolate(ctx, endpointOf(&rec)) })
}

// rejoin undoes isolate.
func (d *Daemon) rejoin(ctx context.Context, a *App) error {
	rec, _ := a.Read()
	ns, err := netns.Open(a.box.NetPath())
	if err != nil {
		return err
	}
	defer ns.Close() //nolint:errcheck // a handle
	return d.inNetwork(ctx, rec.Network, func(f *fabric.Fabric) error {
		if err := f.Rejoin(ctx, endpointOf(&rec), ns); err != nil || len(rec.Publish) == 0 {
			return err
		}
		return d.publish(ctx, f, rec.Network)
	})
}

// endpointOf is the app's place in its network.
func endpointOf(r *app.Record) fabric.Endpoint {
	ep := fabric.Endpoint{App: r.Name, Addr4: r.Addr4, Addr6: r.Addr6}
	if r.Inside4 != r.Addr4 {
		ep.Inside4 = r.Inside4
	}
	if r.Inside6 != r.Addr6 {
		ep.Inside6 = r.Inside6
	}
	return ep
}

// lan is an open network. It is there as long as an app is attached to it, or an
// operation uses it.
type lan struct {
	*fabric.Fabric
	users int // operations that use it; the daemon's mu guards it
}

// inNetwork runs fn with the fabric of a network, which is made on first use and stays
// while fn runs. If no app is left in the network then, it is removed.
func (d *Daemon) inNetwork(ctx context.Context, name string, fn func(*fabric.Fabric) error) (err error) {
	n, err := d.useNetwork(ctx, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.leaveNetwork(context.WithoutCancel(ctx), name, n)) }()
	return fn(n.Fabric)
}

func (d *Daemon) useNetwork(ctx context.Context, name string) (*lan, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n, ok := d.networks[name]; ok {
		n.users++
		return n, nil
	}
	space, err := d.space(name)
	if err != nil {
		return nil, err
	}
	f, err := fabric.Open(ctx, fabric.Config{
		Network: name, Prefix4: space.Prefix4, Prefix6: space.Prefix6,
		Dir: filepath.Join(d.opt.RunDir, "fabric"), Host: d.host, Outside: fabric.OutsideIPv4, Log: d.log,
	})
	if err != nil {
		return nil, err
	}
	n := &lan{Fabric: f, users: 1}
	d.networks[name] = n
	return n, nil
}

// leaveNetwork ends one use of a network. The last user removes a network that has no
// app any more: an app that ends at the same time still uses it.
func (d *Daemon) leaveNetwork(ctx context.Context, name string, n *lan) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n.users--
	if n.users > 0 {
		return nil
	}
	for _, a := range d.apps.List() {
		if r, _ := a.Read(); r.Network == name && r.Status != app.Stopped && !a.detached {
			return nil // it detaches itself when it ends
		}
	}
	delete(d.networks, name)
	return errors.Join(n.Delete(ctx), n.Close())
}

// attach connects an app's namespace to its network and publishes its ports.
func (d *Daemon) attach(ctx context.Context, a *App, ns *netns.NS) error {
	rec, _ := a.Read()
	d.mu.Lock()
	a.detached = false
	d.mu.Unlock()
	return d.inNetwork(ctx, rec.Network, func(f *fabric.Fabric) error {
		if err := f.Attach(ctx, endpointOf(&rec), ns); err != nil {
			return err
		}
		return d.publish(ctx, f, rec.Network)
	})
}

// publish tells the fabric all ports that the network's apps publish.
func (d *Daemon) publish(ctx context.Context, f *fabric.Fabric, network string) error {
	d.publishing.Lock()
	defer d.publishing.Unlock()
	var all []fabric.Publication
	for _, a := range d.apps.List() {
		rec, _ := a.Read()
		if rec.Network != network || rec.Status == app.Stopped || rec.Status == app.Removing {
			continue
		}
		for _, p := range rec.Publish {
			all = append(all, fabric.Publication{
				Proto: p.Proto, HostAddr: p.HostAddr, HostPort: p.HostPort, Addr: rec.Addr4, Port: p.Port,
			})
		}
	}
	// A transaction of the firewall takes some 10 ms, for one app at a time.
	if last := d.published[network]; last.fabric == f && slices.Equal(last.list, all) {
		return nil
	}
	delete(d.published, network)
	if err := f.SetPublications(ctx, all); err != nil {
		return err
	}
	d.published[network] = published{f, all}
	return nil
}

// published is what a fabric was last told to publish.
type published struct {
	fabric *fabric.Fabric
	list   []fabric.Publication
}

// detach undoes attach; the last app to leave takes the network with it.
func (d *Daemon) detach(ctx context.Context, a *App) error {
	rec, _ := a.Read()
	return d.inNetwork(ctx, rec.Network, func(f *fabric.Fabric) error {
		if err := f.Detach(ctx, endpointOf(&rec)); err != nil {
			return err
		}
		if err := d.publish(ctx, f, rec.Network); err != nil {
			return err
		}
		d.mu.Lock()
		a.detached = true
		d.mu.Unlock()
		return nil
	})
}
