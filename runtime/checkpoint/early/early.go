// Package early copies the memory of an app while it runs, see package ahead, and has the CRIU that saves
// the app then leave that out. Whatever of it fails is no reason not to save the app: CRIU saves all then.
package early

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/snapctl/snapctl/runtime/process"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/ahead"
	"github.com/snapctl/snapctl/snapshot/criu/omit"
	"github.com/snapctl/snapctl/snapshot/freezer"
	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/memmap"
	"github.com/snapctl/snapctl/snapshot/image/wire"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/vem/hold/proc"
)

// Options say what [Copy] copies.
type Options struct {
	App    string // for messages
	PID    int    // of its root process
	Cgroup freezer.Cgroup
	Tracer string // the program that serves package inject
	MiB    int    // of private memory that a process has to have
	Target string // the directory that the snapshot becomes
	Store  *memory.Store
	// Earlier is what is kept of the app's last snapshot; may be nil.
	Earlier *memmap.Earlier
	Ends    bool // the app ends when it is saved
	// Volatile is as in [ahead.Options].
	Volatile bool
	Log      *slog.Logger
}

// Memory is what was copied.
type Memory struct {
	o      Options
	copied *ahead.Memory
	dir    string
	omit   *omit.Omission // nil: CRIU saves all
	left   uint64         // bytes that CRIU is made to leave out
}

var _ snapshot.Ahead = (*Memory)(nil)

// Copy copies memory of an app that runs. It returns nil if that can't be done, or is not worth while, and
// an error if ctx has ended. The caller closes what it returns when the snapshot is there.
func Copy(ctx context.Context, o Options) (*Memory, error) {
	m := &Memory{o: o}
	err := m.copy(ctx)
	switch {
	case err == nil:
		return m, nil
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case errors.Is(err, ahead.ErrNothing):
		o.Log.DebugContext(ctx, "no memory is copied while the app runs", slog.String("app", o.App), slog.Any("reason", err))
		err = nil
	default:
		m.slower(ctx, err)
		err = nil
	}
	m.Close()
	return nil, err
}

// slower tells why CRIU saves all.
func (m *Memory) slower(ctx context.Context, err error) {
	m.o.Log.WarnContext(ctx, "all memory is saved while the app stands still, which takes longer", slog.String("app", m.o.App), slog.Any("error", err))
}

func (m *Memory) copy(ctx context.Context) error {
	if mappable, err := m.o.Store.Mappable(); err != nil || !mappable {
		return errors.Join(ahead.ErrNothing, err)
	}
	pids, err := m.o.Cgroup.PIDs()
	if err != nil {
		return err
	}
	if m.dir, err = snapshot.MakeBeside(m.o.Target, "memory"); err != nil {
		return err
	}
	m.copied, err = ahead.Copy(ctx, ahead.Options{
		Processes: family(m.o.PID, pids), Tracer: m.o.Tracer, Least: uint64(m.o.MiB) << 20 / image.PageSize,
		Dir: m.dir, Store: m.o.Store, Earlier: m.o.Earlier, Ends: m.o.Ends, Volatile: m.o.Volatile,
		Settle: func(ctx context.Context) error { return errors.Join(m.o.Cgroup.Freeze(ctx), m.o.Cgroup.Thaw()) },
	})
	return err
}

// family are the processes that are of the tree of root, parents before their children.
func family(root int, pids []int) []ahead.Process {
	parents := make(map[int]int, len(pids))
	for _, pid := range pids {
		if parent, err := process.ParentOf(pid); err == nil { // else it has ended
			parents[pid] = parent
		}
	}
	depth := func(pid int) (n int, ours bool) {
		for range parents {
			if pid == root {
				return n, true
			}
			pid = parents[pid]
			n++
		}
		return n, pid == root
	}
	var list []ahead.Process
	for _, pid := range pids {
		if _, ours := depth(pid); !ours {
			continue
		}
		if inside, err := proc.InnerPID(pid); err == nil { // else it has ended
			list = append(list, ahead.Process{PID: pid, Inside: uint32(inside), Parent: parents[pid]})
		}
	}
	slices.SortStableFunc(list, func(a, b ahead.Process) int {
		x, _ := depth(a.PID)
		y, _ := depth(b.PID)
		return x - y
	})
	return list
}

// LeaveOut has the process criu, which has mounts of its own and is about to look at the app, which stands
// still, leave out what was copied and has not changed since.
func (m *Memory) LeaveOut(ctx context.Context, criu int) error {
	pages, err := m.copied.Frozen(ctx)
	if err != nil {
		return err
	}
	if m.omit, err = omit.Start(criu, pages); err != nil {
		m.slower(ctx, err)
		return nil
	}
	for _, list := range pages {
		for _, r := range list {
			m.left += r.Pages * image.PageSize
		}
	}
	return nil
}

// LeftBytes implements [snapshot.Ahead].
func (m *Memory) LeftBytes() uint64 { return m.left }

// ErrUnfit is a dump to which what CRIU was to leave out can't be added: CRIU has not left it out, or has
// left out something else.
var ErrUnfit = errors.New("the memory that was copied while the app ran does not fit to what CRIU has saved")

// Complete implements [snapshot.Ahead]. Its error wraps [ErrUnfit] if the images are the cause.
func (m *Memory) Complete(ctx context.Context, images string, bases map[string]int64) (earlier []string, files map[string]memory.File, err error) {
	if m.left == 0 {
		return nil, nil, nil
	}
	if err := m.omit.Check(); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrUnfit, err)
	}
	earlier, files, err = m.copied.Complete(ctx, images, bases)
	if errors.Is(err, image.ErrInconsistent) || errors.Is(err, wire.ErrMalformed) {
		err = fmt.Errorf("%w: %w", ErrUnfit, err)
	}
	return earlier, files, err
}

// Close lets go of what was copied and is not in the snapshot.
func (m *Memory) Close() {
	var errs []error
	if m.omit != nil {
		errs = append(errs, m.omit.Close())
	}
	if m.copied != nil {
		errs = append(errs, m.copied.Close())
	}
	if err := os.RemoveAll(m.dir); err != nil {
		errs = append(errs, fmt.Errorf("remove %s: %w", filepath.Base(m.dir), err))
	}
	if err := errors.Join(errs...); err != nil {
		m.o.Log.Warn("something is left of the copy of an app's memory, until the next start", slog.String("app", m.o.App), slog.Any("error", err))
	}
}
