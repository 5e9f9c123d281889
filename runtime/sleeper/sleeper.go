// Package sleeper hibernates apps that have been idle for the time that their records name.
//
// It stands above the engine, which tells it of each process that it begins to follow: see
// [Sleeper.Watch]. From then on the app is looked at, until its process ends. What an app does on
// its network is told by package idle; what else keeps it awake is decided here: somebody is at
// work in it, a timer expires about now, it can't be hibernated as it is, or nothing could wake
// it. Why an app is awake is noted with the app, and shown to users.
package sleeper

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/task"
	"github.com/snapctl/snapctl/snapshot/alarm"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/hold/collect"
	"github.com/snapctl/snapctl/vem/hold/vet"
	"github.com/snapctl/snapctl/vem/idle"
	"github.com/snapctl/snapctl/vem/netns"
	"github.com/snapctl/snapctl/vem/wake"
)

// Engine is what a sleeper asks of the engine, as [engine.Engine] does it.
type Engine interface {
	Hibernate(ctx context.Context, a *engine.App, how engine.Sleep, op *event.Operation) (*engine.Outcome, error)
}

// Sleeper hibernates the idle apps of one daemon.
type Sleeper struct {
	Engine Engine
	Events *event.Bus
	Tasks  *task.Tasks
	Log    *slog.Logger
}

// Watch hibernates an app that has had no traffic, and nothing to do, for the time it was told.
// It watches until ended is closed. It returns at once.
func (s *Sleeper) Watch(a *engine.App, ended <-chan struct{}) {
	rec, _ := a.Read()
	if rec.HibernateAfter <= 0 || rec.Pool != "" { // or it is asked again when it is handed out
		return
	}
	s.Tasks.Run(func(ctx context.Context) {
		w, end, err := s.newWatch(ctx, a, rec)
		if err != nil {
			a.Note(err)
			a.SetAwake("its traffic can't be watched: " + err.Error())
			s.Log.ErrorContext(ctx, "watch for idleness", slog.String("app", rec.Name), slog.Any("error", err))
			return
		}
		defer func() {
			if err := end(); err != nil {
				s.Log.ErrorContext(ctx, "stop watching for idleness", slog.String("app", rec.Name), slog.Any("error", err))
			}
		}()
		w.untilItSleeps(ctx, ended)
	})
}

// newWatch begins to watch a running app. The caller calls end.
func (s *Sleeper) newWatch(ctx context.Context, a *engine.App, rec app.Record) (_ *watch, end func() error, err error) {
	ns, err := netns.Open(a.Box.NetPath())
	if err != nil {
		return nil, nil, err
	}
	meter, err := idle.NewMeter(ctx, idle.Options{NS: ns, Device: fabric.AppDevice, Own: rec.Own(), Policy: rec.Wake})
	if err != nil {
		return nil, nil, errors.Join(err, ns.Close())
	}
	w := newWatch(&running{App: a, engine: s.Engine, rec: rec, ns: ns}, rec, meter)
	w.events, w.log = s.Events, s.Log
	return w, func() error { return errors.Join(meter.Close(), ns.Close()) }, nil
}

// running is an app that runs, to a watch.
type running struct {
	*engine.App
	engine Engine
	rec    app.Record // when the watch began
	ns     *netns.NS  // the app's
}

func (r *running) Used() time.Duration {
	used, err := r.Cgroup().Used()
	if err != nil {
		return 0
	}
	return used
}

func (r *running) Refused(ctx context.Context) string {
	if _, err := r.Subject().Preflight(ctx, vet.Preflight); err != nil {
		return err.Error()
	}
	return ""
}

func (r *running) Waker(ctx context.Context) (who wake.Waker, known bool, err error) {
	pids, err := r.Cgroup().PIDs()
	if err != nil {
		return wake.Nobody, false, err
	}
	set, err := collect.App(ctx, pids, r.Subject().HoldOptions(r.ns, nil))
	if err != nil {
		return wake.Nobody, false, nil //nolint:nilerr // hibernating tells all that it finds
	}
	return wake.Strongest(set, r.rec.Wake, r.rec.Own()), true, set.Close()
}

func (r *running) Hibernate(ctx context.Context, heed func(*alarm.Alarm) error, op *event.Operation) (*engine.Outcome, error) {
	return r.engine.Hibernate(ctx, r.App, engine.Sleep{Alarm: heed, IfQuiet: true}, op)
}
