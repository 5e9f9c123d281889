package restore

import (
	"context"
	"slices"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/openfile"
	"github.com/snapctl/snapctl/snapshot/owner"
)

// editOwners reads who is sent signals by files, and leaves these to setOwners.
func (p *Plan) editOwners(view *image.View, o Options) (err error) {
	if p.owners, err = openfile.ReadOwners(o.Snapshot.Images()); err != nil {
		return err
	}
	if slices.ContainsFunc(p.owners, func(o openfile.Owner) bool { return o.Async }) {
		return openfile.ClearAsync(view)
	}
	return nil
}

// setOwners has files send signals again, before the processes go on.
func (p *Plan) setOwners(at Place, next func(context.Context, int) error) func(context.Context, int) error {
	if len(p.owners) == 0 {
		return next
	}
	return func(ctx context.Context, pid int) error {
		pids, err := at.PIDs()
		if err != nil {
			return err
		}
		if p.told, err = owner.Set(pids, p.owners); err != nil {
			return err
		}
		if next == nil {
			return nil
		}
		return next(ctx, pid)
	}
}
