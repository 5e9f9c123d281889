package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"time"

	"github.com/snapctl/snapctl/snapshot/alarm"
	"github.com/snapctl/snapctl/snapshot/criu"
	"github.com/snapctl/snapctl/snapshot/freezer"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/settings"
	"github.com/snapctl/snapctl/snapshot/sysv"
)

// Sockets is what keeps the sockets of an app while it is frozen.
type Sockets interface {
	// Hold takes a reference to every socket of the frozen processes, so
	// that they outlive them.
	Hold(ctx context.Context, pids []int) error
}

// After says what becomes of the processes.
type After int

const (
	// GoOn lets them go on.
	GoOn After = iota
	// End kills them once the snapshot is committed.
	End
)

// TakeOptions says what [Take] saves.
type TakeOptions struct {
	Target   string // the directory that the snapshot becomes
	Manifest Manifest
	PID      int // the root process
	Cgroup   freezer.Cgroup
	Root     string // the mounted root directory
	Work     string // an existing directory for CRIU's log
	External []string
	After    After
	Sockets  Sockets  // nil: none are held
	Guard    *os.File // as in criu.DumpOptions
	MemoryOptions
	// Layers takes the files that CopyFiles copied to the storage directory.
	// Manifest.Layers are those that the app has below them.
	Layers *layer.Store
	Start  func(*exec.Cmd) error // as in criu.DumpOptions

	Hooks
}

// MemoryOptions say where the memory of a saved app goes.
type MemoryOptions struct {
	// Store takes the memory; Bases are the memory files that the processes have
	// mapped, by the names that External gives them.
	Store *memory.Store
	Bases map[string]memory.File
	// Whole keeps in each process's images all of its memory, as CRIU wrote it: for an
	// app whose memory is to be copied at each restore. CRIU then finds by itself what
	// forked processes have in common.
	Whole bool
	// Last is the app's last snapshot, or empty. What it has is not stored again, unless the dump is
	// to stay whole. It may be removed meanwhile.
	Last Dir
	// Remark is told why Last was not used; may be nil.
	Remark func(text string)
	// Ahead is memory that was copied while the app ran, or nil.
	Ahead Ahead
	// Volatile is as in [Partial.Volatile].
	Volatile bool

	last *lastMemory // see OpenLast
}

// Ahead is memory that was copied while the app ran, which CRIU leaves out. See package ahead.
type Ahead interface {
	// LeftBytes is how much CRIU leaves out.
	LeftBytes() uint64
	// Complete adds that to the images, in which bases are the sizes of files that are mapped, by the
	// names that they have there. It returns the names of those of Last that are mapped then, too, and
	// memory files that are new, by their names, and pinned.
	Complete(ctx context.Context, images string, bases map[string]int64) (earlier []string, files map[string]memory.File, err error)
}

// Hooks are what [Take] calls on its way, at the moments that they say.
type Hooks struct {
	// Frozen is called when the app is frozen and its sockets are held, and
	// returns what else a restore must provide; may be nil.
	Frozen func(ctx context.Context, pids []int) ([]External, error)
	// Thawing is called before the processes go on, or have ended, whatever happened;
	// may be nil.
	Thawing func() error
	// Unseen is as in criu.DumpOptions, called after Frozen; may be nil.
	Unseen func() [][]byte
	// CopyFiles copies files of the app into the snapshot while it is
	// frozen, as the manifest says; may be nil.
	CopyFiles func(ctx context.Context, to Dir) error
	// Alarm is told, if the app ends, the first of its timers to expire, or nil, before
	// anything is committed; its error saves the processes. May be nil.
	Alarm func(first *alarm.Alarm) error
	// Describe completes the manifest before it is written; may be nil.
	Describe func(m *Manifest)
	// Saved is called when CRIU has saved the processes, before anything is
	// committed; its error saves them too.
	Saved func(ctx context.Context, to Dir) error
	// Adopted is called when the store has the memory and nothing but pins keeps
	// it there; may be nil.
	Adopted func(ctx context.Context, to Dir) error
	// Committed is called when the snapshot is complete and the processes
	// are still there: the last moment at which an error saves them.
	Committed func(ctx context.Context) error
	// Step is told the name of each step as it begins; may be nil.
	Step func(name string)
}

// Taken is what [Take] did.
type Taken struct {
	Dir    Dir
	Frozen time.Duration // how long the processes stood still; if they ended, until they did
	Notes  []string      // settings of processes that can't be set again
}

// Take freezes an app and saves it. If it fails, the processes go on as before
// and no snapshot is left; the error wraps *criu.Error if CRIU was the cause.
//
// It needs what CRIU needs, see package criu.
func Take(ctx context.Context, c criu.Client, o TakeOptions) (_ *Taken, err error) {
	partial, err := Begin(o.Target)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, partial.Discard()) }()
	if o.Volatile {
		partial.Volatile()
	}

	// Whatever happens below, nobody stays frozen.
	defer func() { err = errors.Join(err, o.thaw()) }()

	taken := &Taken{}
	m := o.Manifest
	commit := func(ctx context.Context) error {
		o.step("save memory")
		unpin, err := partial.adoptMemory(ctx, &o.MemoryOptions, &m)
		if err != nil {
			return err
		}
		defer unpin()
		if o.Adopted != nil {
			if err := o.Adopted(ctx, partial.Dir()); err != nil {
				return err
			}
		}
		o.step("commit")
		if o.Describe != nil {
			o.Describe(&m)
		}
		unpin, err = partial.adoptStorage(ctx, o.Layers, &m)
		if err != nil {
			return err
		}
		defer unpin()
		dir, err := partial.commit(ctx, &m, o.Store)
		if err != nil {
			return err
		}
		taken.Dir = dir
		if o.Committed != nil {
			return o.Committed(ctx)
		}
		return nil
	}

	var began, thawed time.Time
	begin := func(ctx context.Context) error {
		o.step("freeze")
		began = time.Now()
		if err := o.Cgroup.FreezeSeizable(ctx); err != nil {
			return err
		}
		pids, err := o.Cgroup.PIDs()
		if err != nil {
			return err
		}
		if !slices.Contains(pids, o.PID) {
			return fmt.Errorf("process %d, the app's first, has ended meanwhile", o.PID)
		}
		m.Processes = len(pids)
		o.step("read settings")
		if m.Settings, taken.Notes, err = settings.Read(pids); err != nil {
			return err
		}
		if m.SystemV, err = sysv.Read(o.PID); err != nil {
			return err
		}
		if o.Sockets != nil {
			o.step("hold sockets")
			if err := o.Sockets.Hold(ctx, pids); err != nil {
				return err
			}
		}
		if o.Frozen != nil {
			o.step("look again")
			more, err := o.Frozen(ctx, pids)
			if err != nil {
				return err
			}
			m.External = slices.Concat(m.External, more)
		}
		o.step("save processes")
		return nil
	}

	o.step("start criu")
	err = c.Dump(ctx, criu.DumpOptions{
		PID: o.PID, Images: partial.Dir().Images(), WorkDir: o.Work, Root: o.Root, FreezeCgroup: string(o.Cgroup),
		External: o.External, LeaveRunning: o.After == GoOn, Guard: o.Guard, Start: o.Start,
		Begin: begin, Unseen: o.Unseen,
		Saved: func(ctx context.Context) error {
			m.SavedAt = time.Now()
			if o.After == End {
				var err error
				if m.Alarm, err = alarm.First(partial.Dir().Images(), m.SavedAt); err != nil {
					return err
				}
				if o.Alarm != nil {
					if err := o.Alarm(m.Alarm); err != nil {
						return err
					}
				}
			}
			if o.Saved != nil {
				if err := o.Saved(ctx, partial.Dir()); err != nil {
					return err
				}
			}
			if o.CopyFiles != nil {
				o.step("save files")
				if err := o.CopyFiles(ctx, partial.Dir()); err != nil {
					return err
				}
			}
			if o.After == End {
				return commit(ctx)
			}
			return nil
		},
		Done: func() error {
			if o.After == End {
				return nil
			}
			err := o.thaw()
			thawed = time.Now()
			return err
		},
	})
	if o.After == End && taken.Dir != "" {
		err = o.end(ctx, err)
	}
	if o.After == End {
		thawed = time.Now()
	}
	taken.Frozen = thawed.Sub(began)
	if err == nil && o.After == GoOn {
		err = commit(ctx)
	}
	if err != nil {
		if taken.Dir != "" {
			err = errors.Join(err, taken.Dir.Remove())
		}
		return nil, fmt.Errorf("snapshot %s: %w", o.Manifest.App, err)
	}
	return taken, nil
}

// thaw lets the processes go on.
func (o *TakeOptions) thaw() error {
	var err error
	if o.Thawing != nil {
		err = o.Thawing()
	}
	return errors.Join(err, o.Cgroup.Thaw())
}

// end makes sure that the processes of a committed snapshot are gone. CRIU has
// killed them, unless the dump failed after the commit: then they decide. With
// the root process alive the app goes on and the error stands; without it the
// snapshot is the only copy, and the operation has succeeded.
func (o *TakeOptions) end(ctx context.Context, dumpErr error) error {
	if dumpErr != nil {
		pids, err := o.Cgroup.PIDs()
		if err != nil || slices.Contains(pids, o.PID) {
			return errors.Join(dumpErr, err)
		}
	}
	o.step("end processes")
	return o.Cgroup.Kill(context.WithoutCancel(ctx))
}

func (o *TakeOptions) step(name string) {
	if o.Step != nil {
		o.Step(name)
	}
}
