package restore

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/snapctl/snapctl/snapshot/criu"
	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/pty"
	"github.com/snapctl/snapctl/snapshot/terminal"
)

// terminals are an app's pseudo-terminals, if they are made before CRIU starts. They are made
// so early only if it is needed, so that processes that lead no session have their controlling
// terminal again: see [pty.Inherit].
type terminals struct {
	saved *pty.Terminals // nil: CRIU makes them, if there are any
	tree  *terminal.Tree
	// pipes have the images of leaders.
	pipes   []*image.Pipe
	serving errgroup.Group
}

// lostTerminals tells the user what is lost if CRIU makes the terminals itself.
const lostTerminals = "the controlling terminal of processes that lead no session is lost: they go on reading and writing the terminal, and its keys reach them, but they can't open /dev/tty, and a shell among them can't bring jobs to the foreground"

// makeTerminals makes the terminals of a dump, if some process needs that. If they can't be
// made, the processes come back without their controlling terminals, which o.Lost is told.
func (p *Plan) makeTerminals(o Options) error {
	saved, err := pty.Read(o.Snapshot.Images())
	if errors.Is(err, pty.ErrOnlyCRIU) {
		tellLost(o, err)
		return nil
	}
	if err != nil || saved == nil {
		return err
	}
	list := make([]terminal.New, len(saved.Pairs))
	for i, pair := range saved.Pairs {
		list[i] = terminal.New{Number: pair.Number, Flags: pair.Flags, Packet: pair.Packet, UID: pair.UID, GID: pair.GID, Size: pair.Size}
	}
	tree, err := terminal.MakeTree(saved.Options, saved.Flags, list)
	if err != nil {
		tellLost(o, err)
		return nil
	}
	p.terminals.saved, p.terminals.tree = saved, tree
	return nil
}

func tellLost(o Options, why error) {
	if o.Lost != nil {
		o.Lost(fmt.Sprintf("%s (%s)", lostTerminals, why), "start such shells anew (su, a shell in a shell)")
	}
}

// masters are what CRIU inherits.
func (t *terminals) masters() []criu.Inherit {
	if t.saved == nil {
		return nil
	}
	files := t.tree.Masters()
	list := make([]criu.Inherit, len(t.saved.Pairs))
	for i, pair := range t.saved.Pairs {
		list[i] = criu.Inherit{Key: pair.Key, File: files[pair.Number]}
	}
	return list
}

// inherit has CRIU take the terminals.
func (t *terminals) inherit(ctx context.Context, view *image.View) error {
	if t.saved == nil {
		return nil
	}
	return pty.Inherit(ctx, view, t.saved)
}

// lead has leaders of sessions read an image from their terminal.
func (t *terminals) lead(view *image.View, o Options) error {
	if t.saved == nil {
		return nil
	}
	for _, pair := range t.saved.Pairs {
		if pair.Child == "" {
			continue
		}
		saved, err := view.Take(pair.Child, path.Join(t.saved.Dir, strconv.Itoa(pair.Number)))
		if err != nil {
			return err
		}
		if err := t.tree.Type(pair.Number, saved); err != nil {
			tellLost(o, err)
			if err := view.Replace(pair.Child, saved); err != nil {
				return err
			}
		}
	}
	for _, name := range t.saved.Leaders {
		pipe, err := view.Pipe(name)
		if err != nil {
			return err
		}
		t.pipes = append(t.pipes, pipe)
	}
	return nil
}

// attach waits, now that the first process of the app is there, for each leader that is to
// be made, and mounts the terminals before. Only then is that process in the mount namespace
// in which it will be (criu/cr-restore.c, restore_task_mnt_ns).
func (t *terminals) attach(pid int) error {
	if t.saved == nil {
		return nil
	}
	mount := sync.OnceValue(func() error { return t.tree.Attach(pid, t.saved.Dir) })
	for _, pipe := range t.pipes {
		t.serving.Go(func() error { return pipe.Serve(mount) })
	}
	return nil
}

// ready makes the terminals what they were, before the processes go on.
func (t *terminals) ready(next func(context.Context, int) error) func(context.Context, int) error {
	if t.saved == nil {
		return next
	}
	return func(ctx context.Context, pid int) error {
		if err := errors.Join(t.serve(), t.tree.Settle()); err != nil {
			return err
		}
		if next == nil {
			return nil
		}
		return next(ctx, pid)
	}
}

// serve waits for the end of what attach began, of which CRIU has done its part.
func (t *terminals) serve() error {
	var errs []error
	for _, pipe := range t.pipes {
		errs = append(errs, pipe.Stop())
	}
	errs = append(errs, t.serving.Wait())
	for _, pipe := range t.pipes {
		errs = append(errs, pipe.Close())
	}
	t.pipes = nil
	return errors.Join(errs...)
}

func (t *terminals) close() error {
	if t.tree == nil {
		return nil
	}
	return errors.Join(t.serve(), t.tree.Close())
}
