package engine

import (
	"cmp"
	"context"
	"slices"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/engine/taken"
	"github.com/snapctl/snapctl/template"
	"github.com/snapctl/snapctl/vem"
)

// claimOf is what an app has, or is to have, in its network.
func claimOf(r *app.Record) vem.Claim {
	c := vem.Claim{ID: r.DirName(), App: r.Name, Network: r.Network, Addr4: r.Addr4, Addr6: r.Addr6, Inside4: r.Inside4, Inside6: r.Inside6}
	for _, p := range r.Publish {
		c.Ports = append(c.Ports, vem.Port(p))
	}
	return c
}

// claim gives a new app its endpoint, and enters the addresses into the record. Returns a
// *vem.SpareError if a ready clone has to give its address up first.
func (eng *Engine) claim(ctx context.Context, rec *app.Record, spare *vem.Spare) (*vem.Endpoint, error) {
	rec.Network = cmp.Or(rec.Network, vem.DefaultNetwork)
	c := claimOf(rec)
	c.Spare = spare
	end, err := eng.VEM.Claim(ctx, c)
	if err != nil {
		return nil, taken.Error(err)
	}
	c = end.Claim()
	rec.Addr4, rec.Addr6 = c.Addr4, c.Addr6
	return end, nil
}

// adoptEndpoint makes the endpoint of an app that an earlier daemon left.
func (eng *Engine) adoptEndpoint(a *App, rec *app.Record) *vem.Endpoint {
	c := claimOf(rec)
	if rec.Pool != "" {
		c.Spare = &vem.Spare{GiveUp: func(ctx context.Context) error { return eng.DropReady(ctx, a) }}
	}
	if rec.KeepsAddress {
		return eng.VEM.Adopt(c, vem.Kept)
	}
	if rec.Status == app.Stopped {
		return eng.VEM.Adopt(c, vem.Absent)
	}
	return eng.VEM.Adopt(c, vem.Present)
}

// AddPublications gives an app ports of the host, unless another one has them.
func (eng *Engine) AddPublications(a *App, list []template.Published) error {
	if len(list) == 0 {
		return nil
	}
	added := make([]vem.Port, len(list))
	for i, p := range list {
		added[i] = vem.Port{Proto: string(p.Protocol), HostAddr: p.HostAddress, HostPort: p.HostPort, Port: p.Port}
	}
	if err := a.Endpoint.AddPorts(added); err != nil {
		return taken.Error(err)
	}
	a.Amend(func(r *app.Record) {
		r.Publish = slices.Clip(r.Publish)
		for _, p := range added {
			r.Publish = append(r.Publish, app.Publication(p))
		}
	})
	return nil
}
