package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/vem/copies"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/netconf"
	"github.com/snapctl/snapctl/vem/netns"
)

// networkSettings reads what a running app has set in its network namespace, tells what of
// it a copy does not get, and refuses sockets that could not be bound there.
func (d *Daemon) networkSettings(ctx context.Context, a *App) (_ netconf.Settings, err error) {
	settings, missing, err := a.readNetwork()
	if err != nil {
		return settings, err
	}
	for _, m := range missing {
		a.Remark(m.What+" is the app's own, and copies of the app do not have it", "")
	}
	pids, err := a.cgroup().PIDs()
	if err != nil {
		return settings, err
	}
	return settings, copies.CheckBound(ctx, pids, copies.Bindable{Own: a.bindable(&settings), Missing: missing})
}

// readNetwork reads what an app has set in its network namespace, and what of it can't be
// kept.
func (a *App) readNetwork() (netconf.Settings, []netconf.Missing, error) {
	ns, err := netns.Open(a.box.NetPath())
	if err != nil {
		return netconf.Settings{}, nil, err
	}
	settings, missing, err := netconf.Read(ns, a.standardNetwork())
	return settings, missing, errors.Join(err, ns.Close())
}

// checkHeldBound refuses sockets of a held app that could not be bound in a copy of it,
// which gets the network settings that were saved.
func (a *App) checkHeldBound(saved *netconf.Settings) error {
	_, missing, err := a.readNetwork()
	if err != nil {
		return err
	}
	return copies.CheckHeldBound(a.held, copies.Bindable{Own: a.bindable(saved), Missing: missing})
}

// ownNetwork reads what an app has set in its network namespace, for when that is gone with
// the host.
func (a *App) ownNetwork() (_ netconf.Settings, err error) {
	settings, _, err := a.readNetwork()
	return settings, err
}

// bindable tells to which addresses a copy can bind its sockets.
func (a *App) bindable(settings *netconf.Settings) func(netip.Addr) bool {
	own := a.ownAddress(settings.Addresses...)
	if settings.Sysctls["ipv4/ip_nonlocal_bind"] == "1" {
		return func(addr netip.Addr) bool { return addr.Is4() || own(addr) }
	}
	return own
}

func (a *App) standardNetwork() netconf.Standard {
	rec, _ := a.Read()
	s := netconf.Standard{Device: fabric.AppDevice, Sysctls: fabric.AppSysctls()}
	four, six := rec.Inside()
	for i, addr := range []netip.Addr{four, six} {
		if addr.IsValid() {
			s.Addresses = append(s.Addresses, addr)
			s.Gateways = append(s.Gateways, fabric.Gateways()[i])
		}
	}
	return s
}

// writeNetwork makes the file of what an app has set in its network namespace.
func writeNetwork(to snapshot.Dir, settings netconf.Settings) error {
	if settings.Empty() {
		return nil
	}
	b, err := netconf.Encode(settings)
	if err == nil {
		err = os.WriteFile(to.Network(), b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write network settings: %w", err)
	}
	return nil
}

// readNetwork reads it; what was saved without has none.
func readNetwork(from snapshot.Dir) (netconf.Settings, error) {
	b, err := os.ReadFile(from.Network())
	if errors.Is(err, fs.ErrNotExist) {
		return netconf.Settings{}, nil
	}
	if err != nil {
		return netconf.Settings{}, fmt.Errorf("read network settings: %w", err)
	}
	settings, err := netconf.Decode(b)
	if err != nil {
		return settings, fmt.Errorf("read network settings: %w: %w", snapshot.ErrDamaged, err)
	}
	return settings, nil
}

// sameNetwork sets what was set in the network namespace of the app that was saved.
func (a *App) sameNetwork(ns *netns.NS, from snapshot.Dir) error {
	settings, err := readNetwork(from)
	if err != nil {
		return err
	}
	problems, err := settings.Apply(ns)
	if err != nil {
		return err
	}
	for _, p := range problems {
		a.Remark(fmt.Sprintf("network setting of the app's own could not be made again: %v", p), "")
	}
	return nil
}
