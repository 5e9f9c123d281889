package sandbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// letGo is how long the mounts of processes that have ended may be there yet: the
	// kernel drops them a tick later (fs/namespace.c, delayed_mntput_work).
	letGo = 100 * time.Millisecond
	// letGoStep is how long to wait before looking again.
	letGoStep = 5 * time.Millisecond
)

// InUse tells whether somebody can still change the app's own files through its root,
// though that is unmounted and the app has no processes: who has a file open that the
// app passed to it, or that it opened in the app's root.
func (s *Sandbox) InUse(ctx context.Context) (bool, error) {
	for end := time.Now().Add(letGo); ; {
		used, err := s.inUse()
		if err != nil || !used || time.Now().After(end) {
			return used, err
		}
		select {
		case <-time.After(letGoStep):
		case <-ctx.Done():
			return true, ctx.Err()
		}
	}
}

// inUse tries to mount another overlay with the same upper directory. With an index, the
// kernel refuses that as long as there is one (fs/overlayfs/super.c, ovl_get_upper,
// ovl_report_in_use), and before it looks at the work directory, which is none that it
// would take (ovl_workdir_ok): nothing is mounted, and nothing written.
func (s *Sandbox) inUse() (bool, error) {
	data, err := overlay{lowers: []string{s.Spec.Root.Path}, upper: s.Upper(), work: s.Upper()}.options()
	if err != nil {
		return false, err
	}
	switch err := unix.Mount("snapctl", s.Upper(), "overlay", 0, data+",index=on,metacopy=off"); {
	case errors.Is(err, unix.EBUSY):
		return true, nil
	case errors.Is(err, unix.EINVAL):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("look who uses the files of %s: %w", s.Name, err)
	}
	return true, unix.Unmount(s.Upper(), 0) // a kernel that does otherwise: nobody knows
}
