package sleeper

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/calloff"
	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/snapshot/alarm"
	"github.com/snapctl/snapctl/vem/idle"
	"github.com/snapctl/snapctl/vem/pause"
	"github.com/snapctl/snapctl/vem/wake"
)

// startingTime is how long an app that listens nowhere may be starting: what it is connected
// to, its database say, may have no reason to wake it, and no client can.
const startingTime = 5 * time.Minute

// ByIdleness is why an app is hibernated by itself.
const ByIdleness = "idle"

// subject is the app that is watched, as the watch sees it.
type subject interface {
	Status() app.Status
	// Attended says that somebody is at work in the app; empty if nobody is.
	Attended() string
	// Used is the processor time that the app has had; 0 if that is unknown.
	Used() time.Duration
	// Refused is what stands in the way of hibernating the app for as long as it does not
	// change; empty if nothing does.
	Refused(ctx context.Context) string
	// Waker tells whose traffic could wake the app if it were hibernated now; it may be
	// unknown.
	Waker(ctx context.Context) (who wake.Waker, known bool, err error)
	// Hibernate hibernates the app, unless heed, which is told its first timer, returns an
	// error.
	Hibernate(ctx context.Context, heed func(first *alarm.Alarm) error, op *event.Operation) (*engine.Outcome, error)
	// Note keeps an error, and SetAwake why the app is awake, to be shown with it.
	Note(err error)
	SetAwake(why string)
}

// meter looks at the app's traffic, as [idle.Meter] does.
type meter interface {
	Look(ctx context.Context) (idle.Look, error)
}

// watch watches one app.
type watch struct {
	a      subject
	rec    app.Record // when the watch began
	meter  meter
	judge  *idle.Judge
	retry  idle.Retry
	events *event.Bus
	log    *slog.Logger
}

func newWatch(a subject, rec app.Record, m meter) *watch {
	return &watch{a: a, rec: rec, meter: m, judge: idle.NewJudge(rec.HibernateAfter, idle.Look{At: time.Now(), Used: a.Used()})}
}

// untilItSleeps watches the app until it is hibernated, has ended, or is being changed.
func (w *watch) untilItSleeps(ctx context.Context, ended <-chan struct{}) {
	w.a.SetAwake("it was started or woken less than " + w.rec.HibernateAfter.String() + " ago")
	// Looking four times in the period, it is late by a quarter of it.
	for pause.For(ctx, max(w.rec.HibernateAfter/4, 50*time.Millisecond), ended) {
		awake, err := w.try(ctx)
		if err != nil {
			return // the app has ended or is being changed
		}
		if awake == "" {
			return
		}
		w.a.SetAwake(awake)
	}
}

// try looks at the app and hibernates it if it is idle. It returns what keeps it
// awake, or nothing if it sleeps now.
func (w *watch) try(ctx context.Context) (awake string, err error) {
	look, err := w.meter.Look(ctx)
	if err != nil {
		return "", err
	}
	look.Used = w.a.Used()
	attended := w.a.Attended()
	look.Traffic = look.Traffic || attended != "" // the time begins at the end of the session
	isIdle, awake := w.judge.See(look)
	switch {
	case attended != "":
		return attended, nil
	case !isIdle:
		return awake, nil
	case w.a.Status() != app.Running:
		return "something is being done to it", nil
	case w.rec.Ringing(look.At):
		return "its timer expires about now", nil
	}
	if due, next := w.retry.Due(look.At); !due {
		return "it could not be hibernated; it is tried again after " + next.UTC().Format(time.RFC3339), nil
	}
	why, needsAlarm, err := w.impossible(ctx)
	if err != nil || why != "" {
		return why, err
	}
	op := w.events.Begin(event.Hibernate, event.About{App: w.rec.Name, Reason: ByIdleness})
	out, err := w.a.Hibernate(ctx, w.heed(needsAlarm), op)
	op.End(err)
	if useless, ok := errors.AsType[*uselessError](err); ok {
		w.retry.Failed(time.Now(), "")
		return useless.Error(), nil
	}
	if off, ok := errors.AsType[*calloff.Error](err); ok {
		w.retry.Failed(time.Now(), "")
		return off.Error(), nil
	}
	if err != nil {
		return w.failed(ctx, err), nil
	}
	if len(out.Sockets) > 0 { // nobody is there to be told
		w.a.Note(checkpoint.Incomplete("hibernate", out.Sockets))
	}
	return "", nil
}

// impossible tells why there is no use in hibernating the app now: what refused it the
// last time is still there, or it has nothing yet that could wake it. needsAlarm: only one
// of its timers could, of which its images tell.
func (w *watch) impossible(ctx context.Context) (why string, needsAlarm bool, err error) {
	if was := w.retry.Refused(); was != "" && w.a.Refused(ctx) == was {
		w.retry.Failed(time.Now(), was)
		return "it can't be hibernated as it is: " + was, false, nil
	}
	if w.rec.Wake.Mode == wake.Never {
		return "", false, nil // by command only, as it was told
	}
	can, known, err := w.a.Waker(ctx)
	if err != nil || !known {
		return "", false, err
	}
	switch {
	case can == wake.Nobody && w.rec.Wake.Timers:
		return "", true, nil
	case can == wake.Nobody:
		return "nothing could wake it: it listens nowhere, and has no connection to anybody else", false, nil
	case can == wake.Peers && time.Since(w.rec.CreatedAt) < startingTime:
		return "it listens nowhere yet: it may still be starting", false, nil
	}
	return "", false, nil
}

// failed notes that the app could not be hibernated, and returns what keeps it awake.
func (w *watch) failed(ctx context.Context, err error) string {
	before := w.retry.Refused()
	w.retry.Failed(time.Now(), w.a.Refused(ctx))
	w.a.Note(err)
	if now := w.retry.Refused(); now == "" || now != before {
		w.log.WarnContext(ctx, "hibernate idle app", slog.String("app", w.rec.Name), slog.Any("error", err))
	}
	if w.retry.Refused() != "" {
		return "it can't be hibernated as it is: " + w.retry.Refused()
	}
	return "it could not be hibernated: " + err.Error()
}

// uselessError says why there is no use in hibernating an idle app, as only its images tell.
type uselessError struct{ why string }

func (e *uselessError) Error() string { return e.why }

// heed looks at the first timer of an idle app while the app can still go on. If only a timer
// could wake the app, it must have one; and if its first timer expires very soon, there is no
// use in sleeping. An error lets the app go on.
func (w *watch) heed(needsAlarm bool) func(*alarm.Alarm) error {
	return func(first *alarm.Alarm) error {
		switch {
		case first == nil && needsAlarm:
			return &uselessError{"nothing could wake it: it listens nowhere, has no connection to anybody else, and no timer is armed"}
		case first != nil && w.rec.Wake.Timers && time.Until(first.Wake()) < alarm.Lead:
			return &uselessError{"its timer would wake it at once: " + first.Timer}
		}
		return nil
	}
}
