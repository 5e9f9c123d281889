package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/snapshot/alarm"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/netns"
)

// wokenBy is what woke an app: these, or the kind of traffic, see [hold.Reason].
type wokenBy string

const (
	byCommand wokenBy = "command"
	byTimer   wokenBy = "timer" // its own
)

// cause waits for something that wakes an app, and tells what it was.
type cause func(ctx context.Context) (wokenBy, error)

// awaitCause waits for the first of several causes. It returns nothing if ctx ends first,
// or none of them can come any more, which is noted.
func (d *Daemon) awaitCause(ctx context.Context, a *app, causes []cause) wokenBy {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		by  wokenBy
		err error
	}
	came := make(chan result, len(causes))
	for _, c := range causes {
		go func() {
			by, err := c(ctx)
			came <- result{by, err}
		}()
	}
	var first wokenBy
	for range causes { // all end before what they wait on is closed
		r := <-came
		switch {
		case r.err == nil && first == "":
			first = r.by
			cancel()
		case r.err != nil && ctx.Err() == nil:
			a.note(r.err)
			d.log.ErrorContext(ctx, "wait for what wakes an app", slog.String("app", a.name()), slog.Any("error", r.err))
		}
	}
	return first
}

// wakeBy wakes an app for which nobody asked. Waking disarms, and that waits for the
// caller: another goroutine wakes.
func (d *Daemon) wakeBy(ctx context.Context, a *app, by wokenBy) {
	if by == byTimer {
		d.log.InfoContext(ctx, "its timer wakes app", slog.String("app", a.name()), slog.String("reason", string(by)))
	} else {
		d.log.InfoContext(ctx, "traffic wakes app", slog.String("app", a.name()), slog.String("reason", string(by)))
	}
	d.tasks.run(func(ctx context.Context) {
		out, err := d.wake(ctx, a, by, nil)
		switch {
		case err == nil && len(out.sockets) > 0: // nobody is there to be told
			a.note(incomplete("wake", out.sockets))
		case err != nil:
			a.failures++
			a.note(err)
			d.log.ErrorContext(ctx, "wake app", slog.String("app", a.name()), slog.String("reason", string(by)), slog.Any("error", err))
		}
	})
}

// awaitTraffic waits for the first traffic that the policy lets through.
func (d *Daemon) awaitTraffic(ctx context.Context, a *app, set *hold.Set, policy hold.WakePolicy) (_ wokenBy, err error) {
	ns, err := netns.Open(a.box.NetPath())
	if err != nil {
		return "", err
	}
	defer ns.Close() //nolint:errcheck // a handle
	event, err := hold.Watch(ctx, set, policy, ns)
	if err != nil {
		return "", err
	}
	return wokenBy(event.Reason.String()), nil
}

// tellWakers notes which timer of an app that is hibernated will not wake it, and that
// nothing will.
func (a *app) tellWakers(rec *record, first *alarm.Alarm) {
	if first != nil && !rec.Wake.Timers {
		every := ""
		if first.Every > 0 {
			every = ", and each " + first.Every.String() + " after that"
		}
		text := fmt.Sprintf("%s would expire at %s%s: it stands still while the app is hibernated", first.Timer, first.At.UTC().Format(time.RFC3339), every)
		a.remark(text, "run the app with --wake-timers, and its timers wake it")
	}
	if rec.Wake.Mode == hold.Never || first != nil && rec.Wake.Timers || a.held == nil || a.held.Wakers(rec.Wake, rec.own()) != hold.Nobody {
		return
	}
	a.remark(fmt.Sprintf("nothing but `snapctl wake %s` can wake it: it listens nowhere, has no connection to anybody else, and no timer that may wake it", rec.Name), "")
}

// uselessError says why there is no use in hibernating an idle app, as only its images tell.
type uselessError struct{ why string }

func (e *uselessError) Error() string { return e.why }

// heed looks at the first timer of an idle app before it is too late for the app to go
// on: if only that could wake it, it must have one, and if that is very soon, there is no
// use in sleeping.
func (s *sleeper) heed(needsAlarm bool) func(*alarm.Alarm) error {
	return func(first *alarm.Alarm) error {
		switch {
		case first == nil && needsAlarm:
			return &uselessError{"nothing could wake it: it listens nowhere, has no connection to anybody else, and no timer is armed"}
		case first != nil && s.rec.Wake.Timers && time.Until(first.Wake()) < alarm.Lead:
			return &uselessError{"its timer would wake it at once: " + first.Timer}
		}
		return nil
	}
}

// ringing tells whether the timer for which a running app was woken is about to expire.
func (r *record) ringing(now time.Time) bool {
	if !r.Wake.Timers || r.Alarm == nil || r.Alarm.Wake().After(r.StatusAt) {
		return false
	}
	at := r.Alarm.At
	if at.Before(r.StatusAt) {
		at = r.StatusAt
	}
	return now.Before(at.Add(alarm.Lead))
}

// showAlarm is the timer of a held app that expires first.
func (r *record) showAlarm() *api.Alarm {
	if r.Status != Held && r.Status != Waking || r.Alarm == nil {
		return nil
	}
	return &api.Alarm{At: timestamppb.New(r.Alarm.At), Timer: r.Alarm.Timer}
}

// showWokenBy is what woke an app last, unless it sleeps again.
func (r *record) showWokenBy() string {
	if r.Status == Held {
		return ""
	}
	return string(r.WokenBy)
}
