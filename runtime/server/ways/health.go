package ways

import (
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/vem/overview"
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
