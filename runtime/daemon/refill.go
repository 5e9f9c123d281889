package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/vem/holder"
)

// openHolder connects to the process that keeps the sockets of held apps, and
// has another one started whenever it ends.
func (d *Daemon) openHolder(ctx context.Context) (*holder.Keeper, error) {
	return holder.Keep(ctx, holder.KeeperOptions{
		Exe: "/proc/self/exe", Socket: filepath.Join(d.opt.RunDir, "holder.sock"), LogPath: filepath.Join(d.opt.RunDir, "holder.log"),
		Log: d.log, Refill: func(ctx context.Context, to holder.Store) error {
			err := d.refill(ctx, to)
			if err == nil {
				d.events.Emit(event.Refilled, event.About{})
			}
			return err
		},
	})
}

// refill gives a new holder every socket that this daemon holds. What it has not
// got yet, because it has just started, went with the old holder.
func (d *Daemon) refill(ctx context.Context, to holder.Store) error {
	var errs []error
	d.mu.Lock()
	strays := maps.Clone(d.strays)
	d.mu.Unlock()
	for name, items := range strays {
		errs = append(errs, to.Put(ctx, name, items))
	}
	for _, a := range d.apps.List() {
		err := a.exclusively(ctx, func() error {
			a.mu.Lock()
			set := a.held
			a.mu.Unlock()
			if set == nil {
				return nil
			}
			items, err := set.Items()
			if err != nil {
				return err
			}
			return to.Put(ctx, a.box.Name, items)
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("app %s: %w", a.Name(), err))
		}
	}
	return errors.Join(errs...)
}

// exclusively runs fn while nobody else gives the app's sockets to the holder,
// or lets go of them: what is dropped must not come back with a new holder.
func (a *App) exclusively(ctx context.Context, fn func() error) error {
	select {
	case a.keeping <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-a.keeping }()
	return fn()
}

// Why the sockets of a held app are not there.
const (
	lostByReboot = "the host was started anew meanwhile"
	lostByEnd    = "snapctld and its holder both ended meanwhile"
)

// lose records that the holder has nothing of a held app. The app can be woken
// all the same: CRIU then makes its sockets anew, without their connections.
func (a *App) lose() {
	rec, _ := a.Read()
	a.lost = lostByEnd
	if boot := bootID(); rec.Boot != "" && boot != "" && rec.Boot != boot {
		a.lost = lostByReboot
	}
}

// LostError is a held app without its sockets.
type LostError struct{ App, Reason string }

func (e *LostError) Error() string {
	return fmt.Sprintf("the sockets of app %s are lost: %s: no traffic wakes it, and when it is woken its connections are reset", e.App, e.Reason)
}

// whatIsLost returns a *LostError if the app has lost its sockets.
func (a *App) whatIsLost() error {
	if a.lost == "" {
		return nil
	}
	return &LostError{App: a.Name(), Reason: a.lost}
}

// bootID tells one boot of the host from others, random(4); "" if that is unknown.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
