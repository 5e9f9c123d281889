package sleeper

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/calloff"
	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/task"
	"github.com/snapctl/snapctl/snapshot/alarm"
	"github.com/snapctl/snapctl/vem/idle"
	"github.com/snapctl/snapctl/vem/wake"
)

// fake is an app that runs, listens and is idle, unless it is told otherwise, and its meter.
type fake struct {
	status            app.Status
	attended, refused string
	waker             wake.Waker
	unknown           bool // whose traffic could wake it
	first             *alarm.Alarm
	lost              []checkpoint.Outcome
	waiting           []idle.Wait
	traffic           bool

	wakerErr, lookErr, hibernateErr error

	hibernated int
	noted      error
	awake      []string
	told       []event.Event
	now        time.Time
}

func (f *fake) Status() app.Status             { return f.status }
func (f *fake) Attended() string               { return f.attended }
func (f *fake) Used() time.Duration            { return 0 }
func (f *fake) Refused(context.Context) string { return f.refused }
func (f *fake) Note(err error)                 { f.noted = err }
func (f *fake) SetAwake(why string)            { f.awake = append(f.awake, why) }
func (f *fake) Count(e *event.Event)           { f.told = append(f.told, *e) }
func (f *fake) Waker(context.Context) (wake.Waker, bool, error) {
	return f.waker, !f.unknown, f.wakerErr
}

func (f *fake) Hibernate(_ context.Context, heed func(*alarm.Alarm) error, _ *event.Operation) (*engine.Outcome, error) {
	f.hibernated++
	if err := errors.Join(f.hibernateErr, heed(f.first)); err != nil {
		return nil, err
	}
	f.status = app.Held
	return &engine.Outcome{Sockets: f.lost}, nil
}

// Look is a minute after the look before.
func (f *fake) Look(context.Context) (idle.Look, error) {
	f.now = f.now.Add(time.Minute)
	return idle.Look{At: f.now, Traffic: f.traffic, Waiting: f.waiting}, f.lookErr
}

// newFake is such an app, and its watch. It is to sleep after half a minute.
func newFake(t *testing.T, policy wake.Policy) (*fake, *watch) {
	t.Helper()
	f := &fake{status: app.Running, waker: wake.Anybody, now: time.Now()}
	rec := app.Record{Identity: app.Identity{Name: "web", CreatedAt: time.Now()}, Policy: app.Policy{Wake: policy, HibernateAfter: 30 * time.Second}}
	w := newWatch(f, rec, f)
	w.events, w.log = event.NewBus(f), slog.New(slog.DiscardHandler)
	return f, w
}

// sees has a watch look once, and checks what keeps the app awake.
func (w *watch) sees(t *testing.T, awake string) {
	t.Helper()
	got, err := w.try(t.Context())
	qt.Check(t, qt.IsNil(err))
	qt.Check(t, qt.Matches(got, awake))
}

func TestAnIdleAppIsHibernated(t *testing.T) {
	f, w := newFake(t, wake.Policy{})
	w.sees(t, "")
	qt.Check(t, qt.Equals(f.hibernated, 1))
	qt.Assert(t, qt.HasLen(f.told, 2)) // that it begins, and its end
	qt.Check(t, qt.Equals(f.told[0].Kind, event.Hibernate))
	qt.Check(t, qt.Equals(f.told[0].About, event.About{App: "web", Reason: ByIdleness}))
	qt.Check(t, qt.IsNil(f.noted))
}

// TestWhatIsLostIsNoted proves that it is shown with the app, for nobody asked for the hibernation.
func TestWhatIsLostIsNoted(t *testing.T) {
	f, w := newFake(t, wake.Policy{})
	f.lost = []checkpoint.Outcome{{}}
	w.sees(t, "")
	qt.Check(t, qt.IsNotNil(f.noted))
}

func TestWhatKeepsAnAppAwake(t *testing.T) {
	soon := alarm.Alarm{Timer: "timerfd 3 of process 1", At: time.Now().Add(time.Minute)}
	for name, test := range map[string]struct {
		policy wake.Policy
		change func(*fake, *watch)
		awake  string
	}{
		"traffic":         {wake.Policy{}, func(f *fake, _ *watch) { f.traffic = true }, "it had traffic, or was started, less than 30s ago"},
		"a session":       {wake.Policy{}, func(f *fake, _ *watch) { f.attended = "somebody is there" }, "somebody is there"},
		"a request":       {wake.Policy{}, func(f *fake, _ *watch) { f.waiting = []idle.Wait{{Kind: idle.Read}} }, ".*waits to be read"},
		"an operation":    {wake.Policy{}, func(f *fake, _ *watch) { f.status = app.Snapshotting }, "something is being done to it"},
		"nothing wakes":   {wake.Policy{}, func(f *fake, _ *watch) { f.waker = wake.Nobody }, "nothing could wake it: it listens nowhere, and has no connection to anybody else"},
		"it starts":       {wake.Policy{}, func(f *fake, _ *watch) { f.waker = wake.Peers }, "it listens nowhere yet: it may still be starting"},
		"a pause":         {wake.Policy{}, func(_ *fake, w *watch) { w.retry.Failed(time.Now().Add(time.Hour), "") }, "it could not be hibernated; it is tried again after .*"},
		"refused already": {wake.Policy{}, func(f *fake, w *watch) { f.refused = "a device"; w.retry.Failed(time.Now(), f.refused) }, "it can't be hibernated as it is: a device"},
		"a ringing timer": {wake.Policy{Timers: true}, func(_ *fake, w *watch) { w.rec.Alarm, w.rec.StatusAt = &soon, soon.At }, "its timer expires about now"},
	} {
		t.Run(name, func(t *testing.T) {
			f, w := newFake(t, test.policy)
			test.change(f, w)
			w.sees(t, test.awake)
			qt.Check(t, qt.Equals(f.hibernated, 0))
		})
	}
}

// TestAnAppThatMaySleep proves that not every app that nothing could wake is kept awake.
func TestAnAppThatMaySleep(t *testing.T) {
	for name, test := range map[string]struct {
		policy wake.Policy
		change func(*fake, *watch)
	}{
		"woken by command only":    {wake.Policy{Mode: wake.Never}, func(f *fake, _ *watch) { f.waker = wake.Nobody }},
		"with a timer":             {wake.Policy{Timers: true}, func(f *fake, _ *watch) { f.waker, f.first = wake.Nobody, &alarm.Alarm{At: time.Now().Add(time.Hour)} }},
		"it is not known":          {wake.Policy{}, func(f *fake, _ *watch) { f.waker, f.unknown = wake.Nobody, true }},
		"a client, long started":   {wake.Policy{}, func(f *fake, w *watch) { f.waker = wake.Peers; w.rec.CreatedAt = time.Now().Add(-time.Hour) }},
		"what refused it has gone": {wake.Policy{}, func(_ *fake, w *watch) { w.retry.Failed(time.Now(), "a device") }},
		"traffic was long ago":     {wake.Policy{}, func(f *fake, w *watch) { f.traffic = true; w.sees(t, "it had traffic.*"); f.traffic = false }},
	} {
		t.Run(name, func(t *testing.T) {
			f, w := newFake(t, test.policy)
			test.change(f, w)
			w.sees(t, "")
			qt.Check(t, qt.Equals(f.hibernated, 1))
		})
	}
}

// TestAHibernationThatFails proves that it is noted, and not tried again at once.
func TestAHibernationThatFails(t *testing.T) {
	f, w := newFake(t, wake.Policy{})
	f.hibernateErr = errors.New("no room")
	w.sees(t, "it could not be hibernated: no room")
	qt.Check(t, qt.ErrorIs(f.noted, f.hibernateErr))
	f.refused = "a device"
	w.sees(t, "it can't be hibernated as it is: a device")
	qt.Check(t, qt.Equals(f.hibernated, 2))
	w.sees(t, "it can't be hibernated as it is: a device") // it still has it
	qt.Check(t, qt.Equals(f.hibernated, 2))
	f.refused, f.hibernateErr = "", nil
	w.sees(t, "")
}

// TestTrafficCallsItOff proves that it is no failure if traffic comes meanwhile, and that the app is
// not tried again at once.
func TestTrafficCallsItOff(t *testing.T) {
	f, w := newFake(t, wake.Policy{})
	f.hibernateErr = &calloff.Error{By: "data"}
	w.sees(t, `called off: traffic \(data\) came before it slept, and the app goes on`)
	qt.Check(t, qt.IsNil(f.noted))
	due, _ := w.retry.Due(time.Now())
	qt.Check(t, qt.IsFalse(due))
	f.hibernateErr = nil
	w.sees(t, "")
}

// TestTimersOfAnIdleApp proves that an app whose only timer can wake it is not hibernated without
// one, nor just before it.
func TestTimersOfAnIdleApp(t *testing.T) {
	f, w := newFake(t, wake.Policy{Timers: true})
	late := &alarm.Alarm{Timer: "timerfd 3 of process 1", At: time.Now().Add(time.Hour)}
	soon := &alarm.Alarm{Timer: "timerfd 3 of process 1", At: time.Now().Add(alarm.Lead)}
	var useless *uselessError
	qt.Check(t, qt.IsNil(w.heed(true)(late)))
	qt.Check(t, qt.IsNil(w.heed(false)(nil)))
	qt.Check(t, qt.ErrorAs(w.heed(true)(nil), &useless))
	qt.Check(t, qt.ErrorAs(w.heed(false)(soon), &useless))

	f.waker, f.first = wake.Nobody, nil
	w.sees(t, "nothing could wake it: .* no timer is armed")
	qt.Check(t, qt.IsNil(f.noted)) // that is no failure
	f.first = soon
	w.sees(t, "its timer would wake it at once: timerfd 3 of process 1")
	f.first = late
	w.sees(t, "")
}

// TestAWatchEnds proves that a watch ends with the process, with the app's sleep, and when the app
// can't be looked at.
func TestAWatchEnds(t *testing.T) {
	ended := make(chan struct{})
	close(ended)
	f, w := newFake(t, wake.Policy{})
	w.rec.HibernateAfter = time.Hour
	w.untilItSleeps(t.Context(), ended)
	qt.Check(t, qt.Equals(f.hibernated, 0))
	qt.Check(t, qt.DeepEquals(f.awake, []string{"it was started or woken less than 1h0m0s ago"}))

	f, w = newFake(t, wake.Policy{})
	w.rec.HibernateAfter = time.Millisecond
	f.lookErr = errors.New("gone")
	w.untilItSleeps(t.Context(), nil)
	qt.Check(t, qt.Equals(f.hibernated, 0))

	f, w = newFake(t, wake.Policy{})
	w.rec.HibernateAfter = time.Millisecond
	w.untilItSleeps(t.Context(), nil)
	qt.Check(t, qt.Equals(f.status, app.Held))

	f, w = newFake(t, wake.Policy{})
	f.wakerErr = errors.New("no cgroup")
	_, err := w.try(t.Context())
	qt.Check(t, qt.ErrorIs(err, f.wakerErr))
}

// TestWhoIsNotWatched proves that an app which never sleeps by itself, or stands ready, is not
// looked at: it has no sandbox here.
func TestWhoIsNotWatched(t *testing.T) {
	tasks := task.NewTasks(t.Context())
	s := &Sleeper{Events: event.NewBus(nil), Tasks: tasks, Log: slog.New(slog.DiscardHandler)}
	for _, rec := range []app.Record{
		{Identity: app.Identity{Name: "always"}},
		{Identity: app.Identity{Name: "ready"}, Origin: app.Origin{Pool: "t"}, Policy: app.Policy{HibernateAfter: time.Second}},
	} {
		a := &engine.App{App: app.New(t.TempDir(), t.TempDir(), rec)}
		s.Watch(a, nil)
		tasks.Stop()
		qt.Check(t, qt.IsNil(a.Noted()))
	}
}
