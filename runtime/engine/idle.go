package engine

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/hold/collect"
	"github.com/snapctl/snapctl/vem/hold/vet"
	"github.com/snapctl/snapctl/vem/idle"
	"github.com/snapctl/snapctl/vem/netns"
	"github.com/snapctl/snapctl/vem/pause"
	"github.com/snapctl/snapctl/vem/wake"
)

// startingTime is how long an app that listens nowhere may be starting: what it is connected
// to, its database say, may have no reason to wake it, and no client can.
const startingTime = 5 * time.Minute

// ByIdleness is why an app is hibernated by itself.
const ByIdleness = "idle"

// sleeper hibernates one app when it is idle.
type sleeper struct {
	eng   *Engine
	a     *App
	rec   app.Record
	ns    *netns.NS
	meter *idle.Meter
	judge *idle.Judge
	retry idle.Retry
}

// watchIdle hibernates an app that has had no traffic, and nothing to do, for the
// time it was told.
func (eng *Engine) watchIdle(a *App, ended <-chan struct{}) {
	rec, _ := a.Read()
	if rec.HibernateAfter <= 0 || rec.Pool != "" { // or it is asked again when it is handed out
		return
	}
	eng.tasks.Run(func(ctx context.Context) {
		s, err := eng.newSleeper(ctx, a, rec)
		if err != nil {
			a.Note(err)
			a.setAwake("its traffic can't be watched: " + err.Error())
			eng.log.ErrorContext(ctx, "watch for idleness", slog.String("app", rec.Name), slog.Any("error", err))
			return
		}
		defer s.close(ctx)
		a.setAwake("it was started or woken less than " + rec.HibernateAfter.String() + " ago")
		// Looking four times in the period, it is late by a quarter of it.
		for pause.For(ctx, max(rec.HibernateAfter/4, 50*time.Millisecond), ended) {
			awake, err := s.try(ctx)
			if err != nil {
				return // the app has ended or is being changed
			}
			if awake == "" {
				return
			}
			a.setAwake(awake)
		}
	})
}

func (eng *Engine) newSleeper(ctx context.Context, a *App, rec app.Record) (_ *sleeper, err error) {
	s := &sleeper{eng: eng, a: a, rec: rec}
	if s.ns, err = netns.Open(a.Box.NetPath()); err != nil {
		return nil, err
	}
	s.meter, err = idle.NewMeter(ctx, idle.Options{NS: s.ns, Device: fabric.AppDevice, Own: rec.Own(), Policy: rec.Wake})
	if err != nil {
		return nil, errors.Join(err, s.ns.Close())
	}
	first := idle.Look{At: time.Now(), Used: usedTime(a)}
	s.judge = idle.NewJudge(rec.HibernateAfter, first)
	return s, nil
}

func (s *sleeper) close(ctx context.Context) {
	if err := errors.Join(s.meter.Close(), s.ns.Close()); err != nil {
		s.eng.log.ErrorContext(ctx, "stop watching for idleness", slog.String("app", s.rec.Name), slog.Any("error", err))
	}
}

// try looks at the app and hibernates it if it is idle. It returns what keeps it
// awake, or nothing if it sleeps now.
func (s *sleeper) try(ctx context.Context) (awake string, err error) {
	look, err := s.meter.Look(ctx)
	if err != nil {
		return "", err
	}
	look.Used = usedTime(s.a)
	attended := s.a.attended()
	look.Traffic = look.Traffic || attended != "" // the time begins at the end of the session
	isIdle, awake := s.judge.See(look)
	switch {
	case attended != "":
		return attended, nil
	case !isIdle:
		return awake, nil
	case s.a.Status() != app.Running:
		return "something is being done to it", nil
	case s.rec.Ringing(look.At):
		return "its timer expires about now", nil
	}
	if due, next := s.retry.Due(look.At); !due {
		return "it could not be hibernated; it is tried again after " + next.UTC().Format(time.RFC3339), nil
	}
	why, needsAlarm, err := s.impossible(ctx)
	if err != nil || why != "" {
		return why, err
	}
	op := s.eng.Events.Begin(event.Hibernate, event.About{App: s.rec.Name, Reason: ByIdleness})
	out, err := s.eng.Hibernate(ctx, s.a, Sleep{alarm: s.heed(needsAlarm)}, op)
	op.End(err)
	if useless, ok := errors.AsType[*uselessError](err); ok {
		s.retry.Failed(time.Now(), "")
		return useless.Error(), nil
	}
	if err != nil {
		return s.failed(ctx, err), nil
	}
	if len(out.Sockets) > 0 { // nobody is there to be told
		s.a.Note(checkpoint.Incomplete("hibernate", out.Sockets))
	}
	return "", nil
}

// impossible tells why there is no use in hibernating the app now: what refused it the
// last time is still there, or it has nothing yet that could wake it. needsAlarm: only one
// of its timers could, of which its images tell.
func (s *sleeper) impossible(ctx context.Context) (why string, needsAlarm bool, err error) {
	if was := s.retry.Refused(); was != "" && s.refused(ctx) == was {
		s.retry.Failed(time.Now(), was)
		return "it can't be hibernated as it is: " + was, false, nil
	}
	if s.rec.Wake.Mode == wake.Never {
		return "", false, nil // by command only, as it was told
	}
	pids, err := s.a.Cgroup().PIDs()
	if err != nil {
		return "", false, err
	}
	set, err := collect.App(ctx, pids, s.a.subject().HoldOptions(s.ns, nil))
	if err != nil {
		return "", false, nil //nolint:nilerr // hibernating tells all that it finds
	}
	can := wake.Strongest(set, s.rec.Wake, s.rec.Own())
	if err := set.Close(); err != nil {
		return "", false, err
	}
	switch {
	case can == wake.Nobody && s.rec.Wake.Timers:
		return "", true, nil
	case can == wake.Nobody:
		return "nothing could wake it: it listens nowhere, and has no connection to anybody else", false, nil
	case can == wake.Peers && time.Since(s.rec.CreatedAt) < startingTime:
		return "it listens nowhere yet: it may still be starting", false, nil
	}
	return "", false, nil
}

// refused is what stands in the way of hibernating the app for as long as it does not
// change.
func (s *sleeper) refused(ctx context.Context) string {
	if _, err := s.a.subject().Preflight(ctx, vet.Preflight); err != nil {
		return err.Error()
	}
	return ""
}

// failed notes that the app could not be hibernated, and returns what keeps it awake.
func (s *sleeper) failed(ctx context.Context, err error) string {
	before := s.retry.Refused()
	s.retry.Failed(time.Now(), s.refused(ctx))
	s.a.Note(err)
	if now := s.retry.Refused(); now == "" || now != before {
		s.eng.log.WarnContext(ctx, "hibernate idle app", slog.String("app", s.rec.Name), slog.Any("error", err))
	}
	if s.retry.Refused() != "" {
		return "it can't be hibernated as it is: " + s.retry.Refused()
	}
	return "it could not be hibernated: " + err.Error()
}

// setAwake notes why an app that is to be hibernated when it is idle is awake. What is
// noted of an app that runs is never out of date: whoever follows its processes notes it.
func (a *App) setAwake(why string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.awake = why
}

// WhyAwake is why a running app is awake; empty if it never sleeps by itself.
func (a *App) WhyAwake() string {
	if a.Status() != app.Running {
		return ""
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.awake
}

// usedTime is the processor time that the app has had; 0 if that is unknown.
func usedTime(a *App) time.Duration {
	used, err := a.Cgroup().Used()
	if err != nil {
		return 0
	}
	return used
}
