package checkpoint

import (
	"context"
	"errors"
	"slices"

	"github.com/snapctl/snapctl/runtime/checkpoint/netstate"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/snapshot/preflight"
)

// Copy saves an app that has processes, with its files, so that others can be made of what is
// saved. The processes go on, or end if o.End says so. If it fails they go on as before.
//
// If shortcuts may be why it fails, it is tried once more without.
func (t *Tools) Copy(ctx context.Context, s *Subject, o Saving) (*Taken, error) {
	taken, err := t.copyOnce(ctx, s, o)
	if errors.Is(err, ErrShortcut) && o.Heed(err) {
		return t.copyOnce(ctx, s, o)
	}
	return taken, err
}

func (t *Tools) copyOnce(ctx context.Context, s *Subject, o Saving) (*Taken, error) {
	c, err := t.begin(ctx, s, o, snapshot.GoOn)
	if err != nil {
		return nil, err
	}
	defer c.close()
	if err := c.strays(); err != nil {
		return nil, err
	}
	if o.End {
		c.After = snapshot.End
	}
	c.Manifest.WithStorage = true
	look := frozenLook{s: s, opt: c.hold, announced: c.External}
	c.Unseen = func() [][]byte { return look.unseen }
	saved := c.Manifest // completed in Frozen and Saved
	var inside *netstate.Saved
	c.Frozen = func(ctx context.Context, pids []int) ([]snapshot.External, error) {
		if err := preflight.LookAgain(ctx, pids, s.preflightOptions()); err != nil {
			return nil, err
		}
		ctx, err := c.hideConnections(ctx, pids)
		if err != nil {
			return nil, err
		}
		if err := c.leaveOut(ctx); err != nil {
			return nil, err
		}
		state := s.NetState()
		state.Repairing = func(ctx context.Context) error { return o.At(ctx, "repairing") }
		if inside, err = state.Save(ctx, c.ns, o.Settings, pids); err != nil {
			return nil, err
		}
		watched, err := c.watched(ctx, pids)
		if err != nil {
			return nil, err
		}
		moved, err := c.moved(ctx, s, pids)
		if err != nil {
			return nil, err
		}
		list, err := look.frozen(ctx, pids)
		more := slices.Concat(list, watched, moved)
		saved.External = slices.Concat(saved.External, more)
		return more, err
	}
	c.Describe = func(m *snapshot.Manifest) {
		m.Connections, m.HostFiles, m.Bound = len(inside.Connections), c.host.kept, c.host.bound
	}
	c.Saved = func(ctx context.Context, to snapshot.Dir) error {
		if err := errors.Join(o.At(ctx, "dumped"), c.keepFiles(ctx, t, s, to.Images(), o.Seen)); err != nil || !o.End {
			return err
		}
		if err := c.complete(to); err != nil {
			return err
		}
		saved.HostFiles, saved.Bound = c.host.kept, c.host.bound
		return t.rehearseSaved(ctx, s, to, saved)
	}
	c.CopyFiles = func(ctx context.Context, to snapshot.Dir) error {
		if err := layer.CopyUpper(ctx, s.Box.Upper(), to.Storage()); err != nil {
			return err
		}
		if err := errors.Join(s.saveDev(ctx, to), inside.Write(to)); err != nil {
			return err
		}
		return o.At(ctx, "written")
	}
	c.Adopted = func(ctx context.Context, to snapshot.Dir) error {
		if !o.End { // else it has been done
			if err := c.complete(to); err != nil { // now that the app goes on
				return err
			}
		}
		return o.At(ctx, "adopted")
	}
	c.Committed = func(ctx context.Context) error { return o.At(ctx, "saved") }
	return c.take(ctx)
}
