package engine_test

import (
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/runtime/engine/enginetest"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/snapshot/alarm"
)

// A hibernation that fails leaves the app running as before, until its processes have ended: then the
// app is held, and the error is told.
func TestHibernateFails(t *testing.T) {
	w := newWorld(t)
	a := w.Run("cache")
	first, _ := a.Read()
	for _, s := range table(t, "hibernate").Steps {
		_, err := w.Hibernate(w.Failing(string(table(t, "hibernate").Point(s.Name))), a)
		if table(t, "hibernate").IsCommitted(s.Name) {
			qt.Check(t, qt.IsNil(err), qt.Commentf("%s", s.Name))
			qt.Check(t, qt.ErrorIs(a.Noted(), fault.ErrInjected))
			w.IsHeld(a)
			qt.Assert(t, qt.IsNil(w.Wake(t.Context(), a)))
			w.IsRunning(a)
			first, _ = a.Read()
			continue
		}
		qt.Check(t, qt.ErrorIs(err, fault.ErrInjected), qt.Commentf("%s", s.Name))
		w.IsRunning(a)
		rec, _ := a.Read()
		qt.Check(t, qt.Equals(rec.Process, first.Process))
	}
	qt.Check(t, qt.HasLen(enginetest.Zombies(t), 0))
}

// A wake that fails leaves the app held, until its processes run.
func TestWakeFails(t *testing.T) {
	w := newWorld(t)
	a := w.Held("cache")
	for _, s := range table(t, "wake").Steps {
		err := w.Wake(w.Failing(string(table(t, "wake").Point(s.Name))), a)
		if table(t, "wake").IsCommitted(s.Name) {
			qt.Check(t, qt.IsNil(err), qt.Commentf("%s", s.Name))
			w.Until("its images are removed", func() bool { return len(w.Names("state/apps/cache")) <= 4 })
			w.IsRunning(a)
			_, err := w.Hibernate(t.Context(), a)
			qt.Assert(t, qt.IsNil(err))
			continue
		}
		qt.Check(t, qt.ErrorIs(err, fault.ErrInjected), qt.Commentf("%s", s.Name))
		qt.Check(t, qt.ErrorIs(a.Noted(), fault.ErrInjected)) // as long as it sleeps
		w.IsHeld(a)
	}
	qt.Assert(t, qt.IsNil(w.Wake(t.Context(), a)))
	rec, _ := a.Read()
	qt.Check(t, qt.Equals(rec.LastError, ""))
	qt.Check(t, qt.Equals(rec.WokenBy, app.ByCommand))
	w.IsRunning(a)
	qt.Check(t, qt.IsNil(w.Wake(t.Context(), a))) // it is awake
	qt.Check(t, qt.HasLen(enginetest.Zombies(t), 0))
}

// An app that changes while it is about to be frozen is tried once more.
func TestHibernateAppThatChanges(t *testing.T) {
	w := newWorld(t)
	a := w.Run("cache")
	w.CRIU.Changed = 1
	_, err := w.Hibernate(t.Context(), a)
	qt.Assert(t, qt.IsNil(err))
	w.IsHeld(a)
	_, err = w.Hibernate(t.Context(), a)
	qt.Check(t, qt.IsNil(err)) // it sleeps
	qt.Assert(t, qt.IsNil(w.Wake(t.Context(), a)))
	w.CRIU.Changed = 2
	_, err = w.Hibernate(t.Context(), a)
	qt.Check(t, qt.ErrorIs(err, checkpoint.ErrChanged))
	w.IsRunning(a)
}

// An app that ends while it is about to be hibernated has ended.
func TestAppEndsWhileItIsHibernated(t *testing.T) {
	w := newWorld(t)
	a := w.Run("cache")
	w.CRIU.Before = func() {
		rec, _ := a.Read()
		qt.Check(t, qt.IsNil(unix.Kill(rec.Process.PID, unix.SIGKILL)))
		qt.Check(t, qt.IsNil(enginetest.Await("its end is noticed", a.HasEnded)))
	}
	_, err := w.Hibernate(t.Context(), a)
	qt.Check(t, qt.ErrorIs(err, enginetest.ErrEnded))
	w.Until("it is stopped", func() bool { return a.Status() == app.Stopped && a.Free() })
	w.IsStopped(a)
	qt.Check(t, qt.HasLen(enginetest.Zombies(t), 0))
}

// A timer of a hibernated app wakes it if it may.
func TestTimerWakes(t *testing.T) {
	w := newWorld(t)
	w.CRIU.Alarm = &alarm.Alarm{Timer: "timerfd 3 of process 1", At: time.Now()}
	rec := enginetest.Record("cron")
	rec.Wake.Timers = true
	a, err := w.Engine.Run(t.Context(), rec)
	qt.Assert(t, qt.IsNil(err))
	w.IsReady(a)
	_, err = w.Hibernate(t.Context(), a)
	qt.Assert(t, qt.IsNil(err))
	w.Until("it is awake", func() bool { return a.Status() == app.Running && a.Free() })
	w.IsRunning(a)
	now, _ := a.Read()
	qt.Check(t, qt.Equals(now.WokenBy, app.ByTimer))

	w.CRIU.Alarm = &alarm.Alarm{Timer: "timerfd 3 of process 1", At: time.Now().Add(time.Hour), Every: time.Minute}
	other := w.Run("clock")
	out, err := w.Hibernate(t.Context(), other)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(out.Notes, 1))
	qt.Check(t, qt.StringContains(out.Notes[0].Text, "it stands still while the app is hibernated"))
}
