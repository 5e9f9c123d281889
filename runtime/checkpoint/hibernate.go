package checkpoint

import (
	"context"
	"errors"
	"slices"

	"github.com/snapctl/snapctl/runtime/checkpoint/netstate"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/preflight"
	"github.com/snapctl/snapctl/vem/copies"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/collect"
)

// Hibernate saves an app that has processes, has o.Hold keep its sockets, and ends the
// processes. If it fails the processes are as before, though still frozen if CRIU could not
// let them go on; what o.Hold has is the caller's. Returns an error wrapping [ErrChanged] if
// the app opened something that CRIU had not been told of, and one wrapping [ErrShortcut] if shortcuts may
// be the cause: see [Care.Heed].
func (t *Tools) Hibernate(ctx context.Context, s *Subject, o Saving) (*Taken, error) {
	h, err := t.begin(ctx, s, o, snapshot.End)
	if err != nil {
		return nil, err
	}
	defer h.close()
	if err := h.strays(); err != nil {
		return nil, err
	}
	if err := h.keepQueues(ctx, s); err != nil {
		return nil, err
	}
	// Of sockets that are held nothing changes; but some are not, and all are lost with
	// the host.
	options := copies.NewGatherer(copies.Options{NS: h.ns, Number: copies.Numbers()})
	h.hold.Visit = options.Visit
	held := &holding{h: h}
	h.Sockets = held
	h.Frozen = func(ctx context.Context, pids []int) ([]snapshot.External, error) {
		if err := preflight.LookAgain(ctx, pids, s.preflightOptions()); err != nil {
			return nil, err
		}
		ctx, err := h.hideHeld(ctx, pids, held.set)
		if err != nil {
			return nil, err
		}
		if err := h.leaveOut(ctx); err != nil {
			return nil, err
		}
		list, err := s.terminals(ctx, pids)
		if err != nil {
			return nil, err
		}
		watched, err := h.watched(ctx, pids)
		if err != nil {
			return nil, err
		}
		moved, err := h.heldMoved(ctx, pids)
		return slices.Concat(list, watched, moved, lossy(held.set)), err
	}
	h.Unseen = func() [][]byte { return held.set.Unseen }
	h.CopyFiles = func(ctx context.Context, to snapshot.Dir) error {
		state := netstate.Saved{Options: options.Found().Options, Settings: o.Settings}
		return errors.Join(s.saveDev(ctx, to), state.Write(to))
	}
	h.Saved = func(ctx context.Context, to snapshot.Dir) error {
		return errors.Join(o.At(ctx, "dumped"), h.complete(to), h.keepFiles(ctx, t, s, to.Images(), o.Seen))
	}
	h.Alarm = o.Alarm
	h.Describe = func(m *snapshot.Manifest) { m.HostFiles, m.Bound = h.host.kept, h.host.bound }
	h.Adopted = func(ctx context.Context, _ snapshot.Dir) error { return o.At(ctx, "adopted") }
	h.Committed = func(ctx context.Context) error { return o.At(ctx, "saved") }
	return h.take(ctx)
}

// holding collects what is held of the frozen app.
type holding struct {
	h   *taking
	set *hold.Set // when it was collected; owned by who was given it
}

var _ snapshot.Sockets = (*holding)(nil)

// Hold implements [snapshot.Sockets].
func (l *holding) Hold(ctx context.Context, pids []int) error {
	if err := l.h.o.At(ctx, "frozen"); err != nil {
		return err
	}
	set, err := collect.App(ctx, pids, l.h.hold)
	if err != nil {
		return err
	}
	if err := l.check(ctx, set); err != nil {
		return errors.Join(err, set.Close())
	}
	l.set = set
	if err := l.h.o.Hold(ctx, set); err != nil {
		return err
	}
	return l.h.o.At(ctx, "held")
}

// check refuses what can't be held, and notes what will be otherwise.
func (l *holding) check(ctx context.Context, set *hold.Set) error {
	s := l.h.s
	for _, n := range set.Notes {
		s.Note(n.Text, n.Remedy)
	}
	if err := unannounced(set, l.h.External); err != nil {
		return err
	}
	if err := s.onlyQueues(); err != nil {
		return err
	}
	return l.h.o.At(ctx, "collected")
}
