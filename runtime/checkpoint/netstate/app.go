// Package netstate saves what an app has in its network namespace, and makes it again: the
// TCP connections of which both ends are inside the app, the options of its sockets, and what
// the app itself has set in the namespace, such as addresses and sysctls. CRIU saves none of
// it, or not all.
//
//	Save, SaveHeld ──▶ Saved.Write ──▶ connections.bin, sockets.json, network.json
//	SetSettings, Reconnect, SetOptions ◀── Read... ◀──┘
//
// Nothing is kept between two calls. Connections are saved in repair mode (tcp(7),
// TCP_REPAIR), in which a socket does not answer: a file lists the sockets that may be in it,
// and [App.EndRepair] ends it after a crash.
package netstate

import (
	"context"
	"net/netip"
	"slices"

	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/netconf"
)

// App is the app whose network state is saved or made again.
type App struct {
	NetPath string // where its network namespace is bound
	// Standard is what the namespace has that was made for the app; its addresses are those
	// by which the app knows itself.
	Standard netconf.Standard
	PIDs     func() ([]int, error) // lists the app's processes
	Held     *hold.Set             // the sockets of an app that is held; nil if it is not, or has lost them
	// Repair is a file that lists the sockets that may be in repair mode, with what that
	// overwrites.
	Repair string
	// Note is told what a copy of the app has otherwise, and what can be done about it.
	Note func(text, remedy string)
	// Repairing is called while sockets of connections inside the app are in repair mode, or
	// when there are none. It may be nil.
	Repairing func(context.Context) error
}

// repairing calls a.Repairing.
func (a *App) repairing(ctx context.Context) error {
	if a.Repairing == nil {
		return nil
	}
	return a.Repairing(ctx)
}

// ownAddress tells whether an address is the app's own, or one of those that it has given
// itself.
func (a *App) ownAddress(more ...netip.Addr) func(netip.Addr) bool {
	return func(addr netip.Addr) bool {
		return addr.IsLoopback() || slices.Contains(a.Standard.Addresses, addr) || slices.Contains(more, addr)
	}
}
