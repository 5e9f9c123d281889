package netstate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/tree"
	"github.com/snapctl/snapctl/vem/copies"
	"github.com/snapctl/snapctl/vem/netconf"
	"github.com/snapctl/snapctl/vem/netns"
)

// Settings reads what an app has set in its network namespace.
func (a *App) Settings() (netconf.Settings, error) {
	settings, _, err := a.readNamespace()
	return settings, err
}

// CopyableSettings is [App.Settings] for a running app of which a copy is to be made. It
// notes what a copy does not get, and refuses sockets that could not be bound there.
func (a *App) CopyableSettings(ctx context.Context) (netconf.Settings, error) {
	settings, missing, err := a.readNamespace()
	if err != nil {
		return settings, err
	}
	for _, m := range missing {
		a.Note(m.What+" is the app's own, and copies of the app do not have it", "")
	}
	pids, err := a.PIDs()
	if err != nil {
		return settings, err
	}
	return settings, copies.CheckBound(ctx, pids, copies.Bindable{Own: a.bindable(&settings), Missing: missing})
}

// readNamespace reads what an app has set in its network namespace, and what of it can't be
// kept.
func (a *App) readNamespace() (netconf.Settings, []netconf.Missing, error) {
	ns, err := netns.Open(a.NetPath)
	if err != nil {
		return netconf.Settings{}, nil, err
	}
	settings, missing, err := netconf.Read(ns, a.Standard)
	return settings, missing, errors.Join(err, ns.Close())
}

// checkHeldBound refuses sockets of a held app that could not be bound in a copy of it,
// which gets the network settings that were saved.
func (a *App) checkHeldBound(saved *netconf.Settings) error {
	_, missing, err := a.readNamespace()
	if err != nil {
		return err
	}
	return copies.CheckHeldBound(a.Held, copies.Bindable{Own: a.bindable(saved), Missing: missing})
}

// bindable tells to which addresses a copy can bind its sockets.
func (a *App) bindable(settings *netconf.Settings) func(netip.Addr) bool {
	own := a.ownAddress(settings.Addresses...)
	if settings.Sysctls["ipv4/ip_nonlocal_bind"] == "1" {
		return func(addr netip.Addr) bool { return addr.Is4() || own(addr) }
	}
	return own
}

// writeSettings makes the file of what an app has set in its network namespace.
func writeSettings(to snapshot.Dir, settings netconf.Settings) error {
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

// ReadSettings reads the network settings that were saved; a snapshot without the file has
// none. Returns an error wrapping [tree.ErrDamaged] if they can't be decoded.
func ReadSettings(from snapshot.Dir) (netconf.Settings, error) {
	b, err := os.ReadFile(from.Network())
	if errors.Is(err, fs.ErrNotExist) {
		return netconf.Settings{}, nil
	}
	if err != nil {
		return netconf.Settings{}, fmt.Errorf("read network settings: %w", err)
	}
	settings, err := netconf.Decode(b)
	if err != nil {
		return settings, fmt.Errorf("read network settings: %w: %w", tree.ErrDamaged, err)
	}
	return settings, nil
}

// SetSettings sets in a network namespace what was set in that of the app that was saved.
// What can't be set is noted.
func (a *App) SetSettings(ns *netns.NS, from snapshot.Dir) error {
	settings, err := ReadSettings(from)
	if err != nil {
		return err
	}
	problems, err := settings.Apply(ns)
	if err != nil {
		return err
	}
	for _, p := range problems {
		a.Note(fmt.Sprintf("network setting of the app's own could not be made again: %v", p), "")
	}
	return nil
}
