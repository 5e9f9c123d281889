package enginetest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/runtime/process"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/alarm"
	"github.com/snapctl/snapctl/snapshot/freezer"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/collect"
	"github.com/snapctl/snapctl/vem/netns"
)

// CRIU saves nothing of the processes of an app, and starts the app's program anew to revive it.
// It comes to the same steps as the real tools, in the same order, and has sockets held as they do.
type CRIU struct {
	*checkpoint.Tools
	Alarm   *alarm.Alarm // the first timer of what is hibernated
	Changed int          // how often an app is still going to change before it is frozen
	Before  func()       // is called before an app is frozen; may be nil
}

func group(s *checkpoint.Subject) freezer.Cgroup { return freezer.Cgroup(s.Box.Cgroup().Path()) }

// ErrEnded is an app that has ended before it was frozen.
var ErrEnded = errors.New("process 1 has ended meanwhile")

// freeze freezes an app, and lists its processes.
func freeze(ctx context.Context, s *checkpoint.Subject) ([]int, error) {
	if err := group(s).Freeze(ctx); err != nil {
		return nil, err
	}
	pids, err := group(s).PIDs()
	if err == nil && len(pids) == 0 {
		err = ErrEnded
	}
	return pids, err
}

// Hibernate implements [engine.Tools].
func (f *CRIU) Hibernate(ctx context.Context, s *checkpoint.Subject, o checkpoint.Saving) (_ *checkpoint.Taken, err error) {
	if f.Before != nil {
		f.Before()
	}
	if f.Changed > 0 {
		f.Changed--
		return nil, checkpoint.ErrChanged
	}
	partial, err := snapshot.Begin(o.Target)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, partial.Discard()) }()
	began := time.Now()
	o.Step("freeze")
	pids, err := freeze(ctx, s)
	defer func() { err = errors.Join(err, group(s).Thaw()) }()
	if err != nil {
		return nil, err
	}
	if err := keepSockets(ctx, s, o, pids); err != nil {
		return nil, err
	}
	dir, err := f.commit(ctx, partial, o, len(pids))
	if err != nil {
		return nil, err
	}
	return &checkpoint.Taken{Taken: &snapshot.Taken{Dir: dir, Frozen: time.Since(began)}}, group(s).Kill(ctx)
}

// keepSockets has the sockets of an app held.
func keepSockets(ctx context.Context, s *checkpoint.Subject, o checkpoint.Saving, pids []int) error {
	if err := o.At(ctx, "frozen"); err != nil {
		return err
	}
	ns, err := netns.Open(s.Box.NetPath())
	if err != nil {
		return err
	}
	defer ns.Close()
	set, err := collect.App(ctx, pids, s.HoldOptions(ns, nil))
	if err != nil {
		return err
	}
	// The log is none of the files that are held: CRIU is told of it.
	set.Objects = slices.DeleteFunc(set.Objects, func(one hold.Object) bool {
		if one.Kind == hold.File {
			err = errors.Join(err, one.File.Close())
		}
		return one.Kind == hold.File
	})
	if err := errors.Join(err, o.At(ctx, "collected")); err != nil {
		return errors.Join(err, set.Close())
	}
	if err := o.Hold(ctx, set); err != nil {
		return err
	}
	return o.At(ctx, "held")
}

// commit gives what was saved its name.
func (f *CRIU) commit(ctx context.Context, partial *snapshot.Partial, o checkpoint.Saving, processes int) (_ snapshot.Dir, err error) {
	if err := os.WriteFile(filepath.Join(partial.Dir().Images(), "processes"), []byte("saved"), 0o600); err != nil {
		return "", err
	}
	if err := o.At(ctx, "dumped"); err != nil {
		return "", err
	}
	m := o.Manifest
	m.Processes, m.Alarm = processes, f.Alarm
	if o.Hold == nil { // a copy
		m.WithStorage = true
		if err := o.At(ctx, "written"); err != nil {
			return "", err
		}
	} else if o.Alarm != nil {
		if err := o.Alarm(f.Alarm); err != nil {
			return "", err
		}
	}
	if err := o.At(ctx, "adopted"); err != nil {
		return "", err
	}
	dir, err := partial.Commit(ctx, &m)
	if err != nil {
		return "", err
	}
	if err := o.At(ctx, "saved"); err != nil {
		return "", errors.Join(err, dir.Remove())
	}
	return dir, nil
}

// Copy implements [engine.Tools].
func (f *CRIU) Copy(ctx context.Context, s *checkpoint.Subject, o checkpoint.Saving) (_ *checkpoint.Taken, err error) {
	partial, err := snapshot.Begin(o.Target)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, partial.Discard()) }()
	o.Step("freeze")
	pids, err := freeze(ctx, s)
	defer func() { err = errors.Join(err, group(s).Thaw()) }()
	if err != nil {
		return nil, err
	}
	if err := o.At(ctx, "repairing"); err != nil {
		return nil, err
	}
	dir, err := f.commit(ctx, partial, o, len(pids))
	if err != nil {
		return nil, err
	}
	if o.End {
		err = group(s).Kill(ctx)
	}
	return &checkpoint.Taken{Taken: &snapshot.Taken{Dir: dir}}, err
}

// Revive implements [engine.Tools].
func (f *CRIU) Revive(ctx context.Context, s *checkpoint.Subject, r checkpoint.Revival) (_ *process.Process, err error) {
	r.Step("prepare sandbox")
	ns, err := r.Enclose(ctx)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	defer func() {
		if err != nil {
			err = errors.Join(err, group(s).Kill(context.WithoutCancel(ctx)), process.Reap(s.Box.Cgroup().Name()))
		}
	}()
	if err := r.At(ctx, "starting"); err != nil {
		return nil, err
	}
	launch, err := s.Box.Launch(ctx, ns)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, launch.Close()) }()
	if r.Meanwhile != nil {
		if err := r.Meanwhile(ctx); err != nil {
			return nil, err
		}
	}
	if r.Connect != nil {
		if err := r.Connect(ctx, ns); err != nil {
			return nil, err
		}
	}
	if r.Ready != nil {
		pids, err := group(s).PIDs()
		if err != nil {
			return nil, err
		}
		if err := r.Ready(ctx, pids[0]); err != nil {
			return nil, err
		}
	}
	proc, err := launch.Run()
	if err == nil && r.Frozen {
		err = group(s).Freeze(ctx)
	}
	return proc, err
}

// Rehearse implements [restorable.Tools].
func (f *CRIU) Rehearse(context.Context, *checkpoint.Subject, snapshot.Dir, *snapshot.Manifest) error {
	return nil
}
