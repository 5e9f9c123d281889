package upkeep

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/snapctl/snapctl/vem/directory/member"
	"github.com/snapctl/snapctl/vem/pause"
	"github.com/snapctl/snapctl/vem/trust"
)

// start has a member run, and returns when it serves.
func (u *Upkeep) start(ctx context.Context, self *trust.Identity, c member.Config) error {
	m, err := u.open(self, c)
	if err != nil {
		return err
	}
	if err := m.Start(ctx); err != nil {
		return fmt.Errorf("start the directory: %w", err)
	}
	return nil
}

func (u *Upkeep) open(self *trust.Identity, c member.Config) (*member.Member, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.member != nil {
		return u.member, nil
	}
	m, err := member.Open(member.Options{Exe: u.opt.Exe, Config: c, TLS: self.ClientOfAny(anybody), Log: u.opt.Log})
	if err != nil {
		return nil, err
	}
	u.member = m
	return m, nil
}

// Resume starts the member that an earlier daemon had here, if it had one, or goes on with it.
func (u *Upkeep) Resume(ctx context.Context, self *trust.Identity) {
	c, err := member.ReadConfig(member.ConfigPath(u.opt.Dir))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		err = u.start(ctx, self, c)
	}
	if err == nil {
		err = u.promote(ctx, c.Name)
	}
	if err != nil && ctx.Err() == nil {
		u.opt.Log.ErrorContext(ctx, "the directory's member on this host does not run", slog.Any("error", err))
	}
	if err == nil {
		u.upgrade(ctx, self)
	}
}

// upgrade has the member run the program that is installed now, if it runs an older one. Hosts do it
// one after another, while all the others' members answer.
func (u *Upkeep) upgrade(ctx context.Context, self *trust.Identity) {
	last := ""
	for m := u.running(); m != nil && m == u.running(); {
		same, err := m.Runs(u.opt.Exe)
		if same {
			return
		}
		if err == nil {
			err = m.Cluster().Alone(ctx, member.Keys(string(self.Installation()))+"upgrade", func(ctx context.Context) error {
				ctx, cancel := context.WithTimeout(ctx, upgradeTime)
				defer cancel()
				return m.Upgrade(ctx, u.opt.Exe)
			})
		}
		if err == nil {
			u.opt.Log.InfoContext(ctx, "the directory's member on this host runs the program that is installed now")
			return
		}
		if text := err.Error(); text != last && ctx.Err() == nil {
			last = text
			u.opt.Log.WarnContext(ctx, "the directory's member on this host runs an older program; trying again", slog.Any("error", err))
		}
		if !pause.For(ctx, upgradeAgain, nil) {
			return
		}
	}
}

const (
	upgradeTime  = time.Minute // for one member to be restarted
	upgradeAgain = 10 * time.Second
)

// promote gives the member its vote, if it has none yet.
func (u *Upkeep) promote(ctx context.Context, name string) error {
	m := u.running()
	if m == nil {
		return nil
	}
	return m.Cluster().Promote(ctx, name)
}

// running is the member on this host, nil if there is none.
func (u *Upkeep) running() *member.Member {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.member
}

// Close lets go of the member, which goes on.
func (u *Upkeep) Close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.member == nil {
		return nil
	}
	return u.member.Close()
}

// serves returns the URLs of the member on this host, none if it has none, or none that has served.
func (u *Upkeep) serves() ([]string, error) {
	c, err := member.ReadConfig(member.ConfigPath(u.opt.Dir))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	}
	if served, err := c.Served(); err != nil || !served {
		return nil, err
	}
	return c.AdvertiseClient, nil
}

// dismiss stops the member on this host, whose data stays.
func (u *Upkeep) dismiss(ctx context.Context) error {
	u.mu.Lock()
	m := u.member
	u.member = nil
	u.mu.Unlock()
	if m == nil {
		return nil
	}
	return errors.Join(m.Stop(ctx), m.Close())
}

// retireMember stops the member and sets its data aside. A member whose cluster is gone may need longer to
// end than anybody waits, and is killed then: so ctx does not cut that short.
func (u *Upkeep) retireMember(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), member.EndTimeout)
	defer cancel()
	if err := u.dismiss(ctx); err != nil {
		return err
	}
	c, err := member.ReadConfig(member.ConfigPath(u.opt.Dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := member.End(ctx, c); err != nil { // it may be one that nobody keeps running any more
		return err
	}
	return member.Retire(c)
}

// Wipe ends the member on this host and removes all that it had.
func (u *Upkeep) Wipe(ctx context.Context) error {
	if err := u.dismiss(ctx); err != nil {
		return err
	}
	c, err := member.ReadConfig(member.ConfigPath(u.opt.Dir))
	if err == nil {
		err = member.End(ctx, c)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	u.mu.Lock()
	u.store, u.urls = nil, nil
	u.mu.Unlock()
	if err := os.RemoveAll(u.opt.Dir); err != nil {
		return fmt.Errorf("remove the directory's member: %w", err)
	}
	return nil
}
