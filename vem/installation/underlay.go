package installation

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/snapctl/snapctl/vem/devices"
	"github.com/snapctl/snapctl/vem/mesh"
)

// watchUnderlay tells the mesh where this host is, until ctx ends: devices and addresses may come
// after the daemon, and go. What the kernel tells of is looked at at once.
func (i *Installation) watchUnderlay(ctx context.Context, p *part) {
	news := make(chan struct{}, 1)
	i.opt.Run(func(ctx context.Context) { devices.Listen(ctx, news, i.opt.Log) })
	look := time.NewTicker(again)
	defer look.Stop()
	var told []mesh.Underlay
	for {
		if now := devices.Underlay(i.placeNow().Addresses); !slices.Equal(now, told) {
			if err := p.mesh.SetUnderlay(ctx, now); err != nil {
				i.opt.Log.WarnContext(ctx, "use the addresses of this host for channels", slog.Any("error", err))
				told = nil // it is tried again
			} else {
				told = now
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-news:
		case <-look.C:
		}
	}
}
