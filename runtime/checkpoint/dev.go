package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/tree"
)

// saveDev copies what the app has made in its /dev, /dev/shm included. It is on a tmpfs of
// the sandbox, which no image has and no reboot leaves.
func (s *Subject) saveDev(ctx context.Context, to snapshot.Dir) error {
	return errors.Join(
		tree.Copy(ctx, s.Box.Shm(), to.Shm()),
		tree.CopyExcept(ctx, s.Box.Dev(), to.Dev(), sandbox.DevNames()),
	)
}

// LoadDev is the inverse of saveDev, into a fresh /dev.
func (s *Subject) LoadDev(ctx context.Context, from snapshot.Dir) error {
	return errors.Join(
		tree.Copy(ctx, from.Shm(), s.Box.Shm()),
		tree.CopyExcept(ctx, from.Dev(), s.Box.Dev(), sandbox.DevNames()),
	)
}

// FreshDev tells whether the app's /dev has just been made.
func (s *Subject) FreshDev() (bool, error) {
	shm, err := os.ReadDir(s.Box.Shm())
	if err != nil {
		return false, fmt.Errorf("look into /dev/shm: %w", err)
	}
	all, err := os.ReadDir(s.Box.Dev())
	if err != nil {
		return false, fmt.Errorf("look into /dev: %w", err)
	}
	return len(shm) == 0 && len(all) <= len(sandbox.DevNames()), nil
}
