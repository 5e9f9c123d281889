package installation

import (
	"context"
	"time"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/overview"
	"github.com/snapctl/snapctl/vem/overview/resolve"
)

// Resolve tells who has an endpoint, see [resolve.Answer].
func (i *Installation) Resolve(ctx context.Context, q overview.Question) (overview.Answer, error) {
	var h resolve.Host
	var r *Registrar
	if p := i.part.Load(); p != nil {
		h.Name, h.Cache, r = p.identity.Host(), p.cache.Load(), p.registrar.Load()
	}
	var err error
	if h.Here, err = here(i.opt.Local, h.Name, r); err != nil {
		return overview.Answer{}, err
	}
	return resolve.Answer(ctx, h, q)
}

// here are the endpoints of this host. r is nil if the directory was not reached yet.
func here(local Networks, self string, r *Registrar) (list []overview.Resolution, err error) {
	held := local.Holding()
	for _, e := range local.Present() {
		s, err := local.Space(e.Network)
		if err != nil {
			return nil, err
		}
		found := overview.Resolution{
			Network: e.Network, App: e.App, Addr4: e.Addr4, Addr6: s.Pair(e.Addr4), Host: self,
			Self: true, Alive: true, State: string(directory.Running), Source: overview.Here, AsOf: time.Now(),
		}
		if held[e.App] {
			found.State = string(directory.Held)
		}
		if self != "" {
			found.Epoch = 1
		}
		if r != nil {
			found.Epoch = r.epoch(e)
		}
		list = append(list, found)
	}
	return list, nil
}
