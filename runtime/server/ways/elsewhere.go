package ways

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/vem/overview"
	"github.com/snapctl/snapctl/vem/table"
)

// Elsewhere is what is known of the endpoints of other hosts, and of the ways there.
type Elsewhere struct {
	self     string // the name of this host; empty: it is in no installation
	at       map[spot]*overview.Resolution
	channels map[way]*overview.Channel
}

// spot is an address of a network.
type spot struct {
	network string
	addr    netip.Addr
}

// way is where a channel leads.
type way struct{ network, host string }

// Known returns what is known. That is nothing of other hosts if the directory was never reached.
func (s *Service) Known(ctx context.Context) (*Elsewhere, error) {
	there := &Elsewhere{at: make(map[spot]*overview.Resolution), channels: make(map[way]*overview.Channel)}
	channels, err := s.Ways.Channels(ctx)
	if err != nil {
		return nil, fmt.Errorf("list channels: %w", err)
	}
	for i := range channels {
		c := &channels[i]
		there.channels[way{c.Network, c.Host}] = c
	}
	known, err := s.Ways.Resolve(ctx, overview.Question{})
	if err != nil {
		return there, nil //nolint:nilerr // the directory was never reached: nothing is known of other hosts
	}
	for i := range known.Found {
		e := &known.Found[i]
		if e.Self {
			there.self = e.Host
			continue
		}
		for _, a := range []netip.Addr{e.Addr4, e.Addr6} {
			if a.IsValid() {
				there.at[spot{e.Network, a}] = e
			}
		}
	}
	return there, nil
}

// Show completes a row of the translation table.
func (there *Elsewhere) Show(row *api.VemRow, remote netip.Addr) {
	row.Host = there.self
	e, ok := there.at[spot{row.GetNetwork(), remote}]
	if !ok || row.GetRemoteApp() == "" {
		return
	}
	row.RemoteHost = e.Host
	if c, known := there.channels[way{e.Network, e.Host}]; known {
		row.Module, row.Interface, row.Since = c.Module, c.Device, stamp(c.Since)
		row.UnderlayLocal, row.UnderlayRemote = addrText(c.Local), addrText(c.Remote)
	}
}

// Places tells which app an address of a network belongs to: one of this host, whose apps are by
// their addresses in here, or of another one.
func (there *Elsewhere) Places(network string, here map[netip.Addr]string) func(netip.Addr) (table.Place, bool) {
	return func(a netip.Addr) (table.Place, bool) {
		if name, ok := here[a]; ok {
			return table.Place{Actual: name}, true
		}
		e, ok := there.at[spot{network, a}]
		if !ok {
			return table.Place{}, false
		}
		place := table.Place{Actual: e.App, Down: table.Cut}
		if c, known := there.channels[way{network, e.Host}]; known {
			place.Channel = c.Module + " to " + e.Host
			if c.Up {
				place.Down = table.Whole
			}
		}
		return place, true
	}
}
