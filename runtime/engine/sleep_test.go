package engine

import (
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/snapshot/alarm"
)

// A hibernation that fails leaves the app running as before, until its processes have ended: then the
// app is held, and the error is told.
func TestHibernateFails(t *testing.T) {
	w := newWorld(t)
	a := w.run("cache")
	first, _ := a.Read()
	for _, s := range hibernateTable.Steps {
		_, err := w.hibernate(w.failing(string(hibernateTable.Point(s.Name))), a)
		if hibernateTable.IsCommitted(s.Name) {
			qt.Check(t, qt.IsNil(err), qt.Commentf("%s", s.Name))
			qt.Check(t, qt.ErrorIs(a.Noted(), fault.ErrInjected))
			w.isHeld(a)
			qt.Assert(t, qt.IsNil(w.wake(t.Context(), a)))
			w.isRunning(a)
			first, _ = a.Read()
			continue
		}
		qt.Check(t, qt.ErrorIs(err, fault.ErrInjected), qt.Commentf("%s", s.Name))
		w.isRunning(a)
		rec, _ := a.Read()
		qt.Check(t, qt.Equals(rec.Process, first.Process))
	}
	qt.Check(t, qt.HasLen(zombies(t), 0))
}

// A wake that fails leaves the app held, until its processes run.
func TestWakeFails(t *testing.T) {
	w := newWorld(t)
	a := w.held("cache")
	for _, s := range wakeTable.Steps {
		err := w.wake(w.failing(string(wakeTable.Point(s.Name))), a)
		if wakeTable.IsCommitted(s.Name) {
			qt.Check(t, qt.IsNil(err), qt.Commentf("%s", s.Name))
			w.until("its images are removed", func() bool { return len(w.names("state/apps/cache")) <= 4 })
			w.isRunning(a)
			_, err := w.hibernate(t.Context(), a)
			qt.Assert(t, qt.IsNil(err))
			continue
		}
		qt.Check(t, qt.ErrorIs(err, fault.ErrInjected), qt.Commentf("%s", s.Name))
		qt.Check(t, qt.ErrorIs(a.Noted(), fault.ErrInjected)) // as long as it sleeps
		w.isHeld(a)
	}
	qt.Assert(t, qt.IsNil(w.wake(t.Context(), a)))
	rec, _ := a.Read()
	qt.Check(t, qt.Equals(rec.LastError, ""))
	qt.Check(t, qt.Equals(rec.WokenBy, app.ByCommand))
	w.isRunning(a)
	qt.Check(t, qt.IsNil(w.wake(t.Context(), a))) // it is awake
	qt.Check(t, qt.HasLen(zombies(t), 0))
}

// An app that changes while it is about to be frozen is tried once more.
func TestHibernateAppThatChanges(t *testing.T) {
	w := newWorld(t)
	a := w.run("cache")
	w.criu.changed = 1
	_, err := w.hibernate(t.Context(), a)
	qt.Assert(t, qt.IsNil(err))
	w.isHeld(a)
	_, err = w.hibernate(t.Context(), a)
	qt.Check(t, qt.IsNil(err)) // it sleeps
	qt.Assert(t, qt.IsNil(w.wake(t.Context(), a)))
	w.criu.changed = 2
	_, err = w.hibernate(t.Context(), a)
	qt.Check(t, qt.ErrorIs(err, checkpoint.ErrChanged))
	w.isRunning(a)
}

// An app that ends while it is about to be hibernated has ended.
func TestAppEndsWhileItIsHibernated(t *testing.T) {
	w := newWorld(t)
	a := w.run("cache")
	w.criu.before = func() {
		rec, _ := a.Read()
		qt.Check(t, qt.IsNil(unix.Kill(rec.Process.PID, unix.SIGKILL)))
		<-a.ended
	}
	_, err := w.hibernate(t.Context(), a)
	qt.Check(t, qt.ErrorIs(err, errEnded))
	w.until("it is stopped", func() bool { return a.Status() == app.Stopped && a.Free() })
	w.isStopped(a)
	qt.Check(t, qt.HasLen(zombies(t), 0))
}

// A timer of a hibernated app wakes it if it may.
func TestTimerWakes(t *testing.T) {
	w := newWorld(t)
	w.criu.alarm = &alarm.Alarm{Timer: "timerfd 3 of process 1", At: time.Now()}
	rec := record("cron")
	rec.Wake.Timers = true
	a, err := w.eng.Run(t.Context(), rec)
	qt.Assert(t, qt.IsNil(err))
	w.isReady(a)
	_, err = w.hibernate(t.Context(), a)
	qt.Assert(t, qt.IsNil(err))
	w.until("it is awake", func() bool { return a.Status() == app.Running && a.Free() })
	w.isRunning(a)
	now, _ := a.Read()
	qt.Check(t, qt.Equals(now.WokenBy, app.ByTimer))

	w.criu.alarm = &alarm.Alarm{Timer: "timerfd 3 of process 1", At: time.Now().Add(time.Hour), Every: time.Minute}
	other := w.run("clock")
	out, err := w.hibernate(t.Context(), other)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(out.Notes, 1))
	qt.Check(t, qt.StringContains(out.Notes[0].Text, "it stands still while the app is hibernated"))
}
