package checkpoint

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/image/openfile"
)

const (
	// lockPatience is how long a wake or restore waits for a lock that the app had and
	// somebody else has. A program that only holds one to write something is done by then.
	lockPatience = 5 * time.Second
	lockRecheck  = 50 * time.Millisecond
)

// neededLocks are the locks on files of the host that CRIU will take for the app's
// processes. Those of held open files are there already. drop closes the files.
func (s *Subject) neededLocks(m *snapshot.Manifest, images string, held []restore.Held) (locks []restore.Lock, drop func(), err error) {
	drop = func() {
		for _, l := range locks {
			_ = l.File.Close() // of its own
		}
	}
	all, err := openfile.ReadLocks(images)
	if err != nil {
		return nil, drop, err
	}
	for _, l := range all {
		live := slices.ContainsFunc(held, func(h restore.Held) bool { return h.Inode == 0 && h.At == l.At })
		if l.Kind == openfile.LockLease || live && l.Kind != openfile.LockProcess {
			continue
		}
		path := l.Name
		for _, e := range m.External {
			if e.Kind == snapshot.ExternalFile && e.Key == l.Name {
				path = e.Path
			}
		}
		f, err := openBound(s.Box.Spec.Mounts, path, 0)
		if err != nil {
			continue // it is the app's own, or gone, which CRIU tells
		}
		locks = append(locks, restore.Lock{Lock: l, Path: path, File: f})
	}
	return locks, drop, nil
}

// awaitLocks waits until nobody else has one of the locks, for a while.
func awaitLocks(ctx context.Context, locks []restore.Lock, tell func(string)) error {
	patience := time.NewTimer(lockPatience)
	defer patience.Stop()
	var told string
	for {
		taken, err := firstTaken(locks)
		if err != nil || taken == nil {
			return err
		}
		if taken.Path != told {
			told = taken.Path
			tell("wait for lock on " + told)
		}
		select {
		case <-ctx.Done():
			return errors.Join(taken, ctx.Err())
		case <-patience.C:
			return taken
		case <-time.After(lockRecheck):
		}
	}
}

func firstTaken(locks []restore.Lock) (*restore.LockedError, error) {
	for _, l := range locks {
		if taken, err := l.Taken(); taken != nil || err != nil {
			return taken, err
		}
	}
	return nil, nil //nolint:nilnil // nobody has any
}

// guardLocks ends ctx if somebody got one of the locks after it was looked for, so
// that CRIU waits for it. quit ends the watch, and must be called.
func (s *Subject) guardLocks(ctx context.Context, locks []restore.Lock) (_ context.Context, quit func()) {
	if len(locks) == 0 {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for seen := 0; ; {
			select {
			case <-ctx.Done():
				return
			case <-time.After(lockPatience / 5):
			}
			taken, err := firstTaken(locks)
			switch {
			case err != nil || taken == nil || s.has(taken.PID):
				seen = 0
			case seen == 5:
				cancel(taken)
				return
			default:
				seen++
			}
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-done
	}
}

// has tells whether a process is the app's.
func (s *Subject) has(pid int) bool {
	pids, err := s.cgroup().PIDs()
	return err == nil && slices.Contains(pids, pid)
}
