package ways

import (
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/vem/mesh"
	"github.com/snapctl/snapctl/vem/overview"
	"github.com/snapctl/snapctl/vem/probe"
)

// ShowHealth completes a host by how it stands with it.
func ShowHealth(h *api.Host, all *overview.Health) *api.Host {
	known, ok := all.Hosts[h.GetName()]
	if !ok || h.GetSelf() {
		return h
	}
	c := &known.Control
	h.Since = stamp(known.Since)
	h.Control = &api.HostControl{Connected: c.Connected, Address: c.Address, Since: stamp(c.Since), Remedy: c.Remedy}
	if c.Err != nil {
		h.Control.Error = c.Err.Error()
	}
	if c.Connected {
		h.Control.Skew, h.Control.RoundTrip = durationpb.New(c.Skew), durationpb.New(c.RoundTrip)
	}
	if c.Version != "" { // the directory says which one had joined
		h.Version = c.Version
	}
	return h
}

// Show is a way to a host as the API has it.
func Show(w mesh.Way) *api.HostWay {
	res := &api.HostWay{
		Address: w.Local.String(), Device: w.Device, Remote: w.Remote.Addr().String(), Loss: w.Loss, Mtu: int32(w.MTU), Used: w.Used,
		State: map[probe.State]api.WayState{
			probe.Unknown: api.WayState_WAY_STATE_UNKNOWN, probe.Up: api.WayState_WAY_STATE_UP,
			probe.Lossy: api.WayState_WAY_STATE_LOSSY, probe.Down: api.WayState_WAY_STATE_DOWN,
		}[w.State],
	}
	if w.RoundTrip > 0 {
		res.RoundTrip = durationpb.New(w.RoundTrip)
	}
	return res
}
