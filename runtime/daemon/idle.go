package daemon

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/snapctl/snapctl/vem/netns"
	"github.com/snapctl/snapctl/vem/table"
)

// watchIdle hibernates an app that has had no traffic for the time it was told.
func (d *Daemon) watchIdle(a *app, ended <-chan struct{}) {
	rec, _ := a.read()
	if rec.HibernateAfter <= 0 {
		return
	}
	d.tasks.run(func(ctx context.Context) {
		last, err := activity(ctx, a)
		if err != nil {
			a.note(err)
			return
		}
		since := time.Now()
		for {
			// Looking four times in the period, it is late by a quarter of it.
			if !waitOr(ctx, ended, max(rec.HibernateAfter/4, 50*time.Millisecond)) {
				return
			}
			now, err := activity(ctx, a)
			if err != nil {
				return // the app has ended or is being changed
			}
			if now != last {
				last, since = now, time.Now()
			}
			if time.Since(since) < rec.HibernateAfter || a.status() != Running {
				continue
			}
			if _, err := d.hibernate(ctx, a, nil); err != nil {
				a.note(err)
				d.log.WarnContext(ctx, "hibernate idle app", slog.String("app", rec.Name), slog.Any("error", err))
				since = time.Now()
				continue
			}
			d.log.InfoContext(ctx, "hibernated idle app", slog.String("app", rec.Name), slog.Duration("idle", time.Since(since)))
			return
		}
	})
}

// activity is a fingerprint of all payload an app's sockets have carried: it
// changes whenever they carry more. Keepalives don't count.
func activity(ctx context.Context, a *app) (table.Activity, error) {
	ns, err := netns.Open(a.box.NetPath())
	if err != nil {
		return table.Activity{}, err
	}
	act, err := table.Traffic(ctx, ns)
	return act, errors.Join(err, ns.Close())
}

// waitOr returns true after the pause, false if ctx ended or the channel was
// closed first.
func waitOr(ctx context.Context, ended <-chan struct{}, pause time.Duration) bool {
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ended:
		return false
	case <-ctx.Done():
		return false
	}
}
