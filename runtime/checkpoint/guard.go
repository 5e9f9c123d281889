package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// guard is a lock that CRIU inherits: as long as it can be taken by nobody
// else, a CRIU process works on the app, even if its daemon has died.
type guard struct{ *os.File }

// guardFile is its name in the work directory.
const guardFile = "lock"

func openGuard(s *Subject) (*guard, error) {
	f, err := os.OpenFile(filepath.Join(s.work(), guardFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock app: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock app %s: a CRIU process still works on it: %w", s.Name, err), f.Close())
	}
	return &guard{f}, nil
}

// awaitRecheck is the pause between two looks at a guard: flock(2) can't be asked to wait for
// a context too.
const awaitRecheck = 10 * time.Millisecond

// AwaitCRIU waits for a CRIU process that outlived the daemon which started it, and still has
// the guard in the app's work directory. Returns an error wrapping that of ctx if it ends
// first.
func (s *Subject) AwaitCRIU(ctx context.Context) error {
	f, err := os.OpenFile(filepath.Join(s.work(), guardFile), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read from
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		select {
		case <-time.After(awaitRecheck):
		case <-ctx.Done():
			return fmt.Errorf("wait for CRIU to finish with %s: %w", s.Name, ctx.Err())
		}
	}
}
