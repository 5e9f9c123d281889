package daemon

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/snapctl/snapctl/vem/netns"
	"github.com/snapctl/snapctl/vem/table"
)

// busyShare is the part of one processor from which on an app counts as busy,
// though it has no traffic: it may work on an answer that somebody waits for,
// and who waits sends nothing that would wake it.
const busyShare = 0.1

// watchIdle hibernates an app that has had no traffic, and nothing to do, for the
// time it was told.
func (d *Daemon) watchIdle(a *app, ended <-chan struct{}) {
	rec, _ := a.read()
	if rec.HibernateAfter <= 0 || rec.Pool != "" { // or it is asked again when it is handed out
		return
	}
	d.tasks.run(func(ctx context.Context) {
		last, err := activity(ctx, a)
		if err != nil {
			a.note(err)
			return
		}
		since := time.Now()
		looked, used := since, usedTime(a)
		for {
			// Looking four times in the period, it is late by a quarter of it.
			if !waitOr(ctx, ended, max(rec.HibernateAfter/4, 50*time.Millisecond)) {
				return
			}
			now, err := activity(ctx, a)
			if err != nil {
				return // the app has ended or is being changed
			}
			worked := usedTime(a)
			busy := float64(worked-used) > busyShare*float64(time.Since(looked))
			looked, used = time.Now(), worked
			if now != last || busy {
				last, since = now, looked
			}
			if time.Since(since) < rec.HibernateAfter || a.status() != Running {
				continue
			}
			out, err := d.hibernate(ctx, a, nil, nil)
			if err != nil {
				a.note(err)
				d.log.WarnContext(ctx, "hibernate idle app", slog.String("app", rec.Name), slog.Any("error", err))
				since = time.Now()
				continue
			}
			if len(out.sockets) > 0 { // nobody is there to be told
				a.note(incomplete("hibernate", out.sockets))
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

// usedTime is the processor time that the app has had; 0 if that is unknown.
func usedTime(a *app) time.Duration {
	used, err := a.cgroup().Used()
	if err != nil {
		return 0
	}
	return used
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
