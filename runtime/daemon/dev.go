package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/snapshot"
)

// saveDev copies what the app has made in its /dev, /dev/shm included. It is on a tmpfs of
// the sandbox, which no image has and no reboot leaves.
func (a *App) saveDev(ctx context.Context, to snapshot.Dir) error {
	return errors.Join(
		snapshot.CopyTree(ctx, a.box.Shm(), to.Shm()),
		snapshot.CopyOthers(ctx, a.box.Dev(), to.Dev(), sandbox.DevNames()),
	)
}

// loadDev is the inverse of saveDev, into a fresh /dev.
func (a *App) loadDev(ctx context.Context, from snapshot.Dir) error {
	return errors.Join(
		snapshot.CopyTree(ctx, from.Shm(), a.box.Shm()),
		snapshot.CopyOthers(ctx, from.Dev(), a.box.Dev(), sandbox.DevNames()),
	)
}

// freshDev tells whether the app's /dev has just been made.
func (a *App) freshDev() (bool, error) {
	shm, err := os.ReadDir(a.box.Shm())
	if err != nil {
		return false, fmt.Errorf("look into /dev/shm: %w", err)
	}
	all, err := os.ReadDir(a.box.Dev())
	if err != nil {
		return false, fmt.Errorf("look into /dev: %w", err)
	}
	return len(shm) == 0 && len(all) <= len(sandbox.DevNames()), nil
}
