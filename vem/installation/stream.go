package installation

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/vem/control"
	"github.com/snapctl/snapctl/vem/membership"
	"github.com/snapctl/snapctl/vem/mesh"
	"github.com/snapctl/snapctl/vem/registrar"
)

// OpenStream opens a stream to another host, as [control.Peers.Open] does. It returns a [*membership.Error] if
// this host is in no installation, and an error wrapping errdefs.ErrNotFound if that host is not in it.
func (i *Installation) OpenStream(ctx context.Context, host, kind string, parameters []byte) (*control.Stream, error) {
	p := i.part.Load()
	if p == nil {
		return nil, membership.Alone()
	}
	if h, ok := p.known(host); p.cache.Load() != nil && (!ok || h.Removed) {
		return nil, fmt.Errorf("host %s: %w", host, errdefs.ErrNotFound)
	}
	return p.peers.Open(ctx, host, kind, parameters)
}

// Registrar keeps the directory's records of this host's endpoints: nil before the directory was reached, which
// its methods say.
func (i *Installation) Registrar() *registrar.Registrar { return i.registrar() }

// Ways are those to another host, the best first; none if there is no channel to it.
func (i *Installation) Ways(host string) []mesh.Way {
	if p := i.part.Load(); p != nil {
		return p.mesh.Ways(host)
	}
	return nil
}
