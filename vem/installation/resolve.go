package installation

import (
	"context"

	"github.com/snapctl/snapctl/vem/overview"
	"github.com/snapctl/snapctl/vem/overview/resolve"
	"github.com/snapctl/snapctl/vem/registrar"
)

// Resolve tells who has an endpoint, see [resolve.Answer].
func (i *Installation) Resolve(ctx context.Context, q overview.Question) (overview.Answer, error) {
	var h resolve.Host
	var r *registrar.Registrar
	if p := i.part.Load(); p != nil {
		h.Name, h.Cache, r = p.identity.Host(), p.cache.Load(), p.registrar.Load()
	}
	var err error
	if h.Here, err = registrar.Here(i.opt.Local, h.Name, r); err != nil {
		return overview.Answer{}, err
	}
	return resolve.Answer(ctx, h, q)
}
