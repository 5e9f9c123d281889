package engine_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/engine/enginetest"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/testenv"
)

// A new app runs, and whatever step of making it fails, nothing is left of it.
func TestRun(t *testing.T) {
	w := newWorld(t)
	w.Run("neighbour")
	for _, point := range table(t, "run").Points() {
		_, err := w.Engine.Run(w.Failing(string(point)), enginetest.Record("broken"))
		if point == "run.recorded" { // too late
			qt.Check(t, qt.IsNil(err))
			a, err := w.Engine.Apps.Get("broken")
			qt.Assert(t, qt.IsNil(err))
			w.IsRunning(a)
			qt.Check(t, qt.ErrorIs(a.Noted(), fault.ErrInjected))
			continue
		}
		qt.Check(t, qt.ErrorIs(err, fault.ErrInjected), qt.Commentf("%s", point))
		w.IsGone("broken")
		qt.Check(t, qt.HasLen(enginetest.Zombies(t), 0), qt.Commentf("%s", point))
	}
	_, err := w.Engine.Run(t.Context(), enginetest.Record("broken"))
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrAlreadyExists))

	missing := enginetest.Record("missing")
	missing.Spec.Process.Args = []string{"/nothing"}
	_, err = w.Engine.Run(t.Context(), missing)
	qt.Check(t, qt.ErrorMatches(err, "run missing: start sandbox: .*no such file.*"))
	w.IsGone("missing")
	taken := enginetest.Record("taken")
	a, err := w.Engine.Apps.Get("broken")
	qt.Assert(t, qt.IsNil(err))
	rec, _ := a.Read()
	taken.Addr4 = rec.Addr4
	_, err = w.Engine.Run(t.Context(), taken)
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrAlreadyExists))
	w.IsGone("taken")
}

// The end of a program is noticed, however it comes.
func TestEnds(t *testing.T) {
	w := newWorld(t)
	a := w.Run("polite", "/file")
	qt.Assert(t, qt.IsNil(w.Engine.Stop(t.Context(), a, unix.SIGTERM, time.Minute)))
	w.IsStopped(a)
	rec, _ := a.Read()
	qt.Check(t, qt.Equals(rec.Exit, "exit code 7"))
	qt.Check(t, qt.IsNil(w.Engine.Stop(t.Context(), a, unix.SIGTERM, time.Minute)))
	_, err := os.Lstat(filepath.Join(a.Box.Upper(), "file"))
	qt.Check(t, qt.IsNil(err)) // its files stay

	a = w.Run("deaf")
	qt.Assert(t, qt.IsNil(w.Engine.Stop(t.Context(), a, unix.SIGWINCH, time.Nanosecond)))
	w.IsStopped(a)
	rec, _ = a.Read()
	qt.Check(t, qt.Equals(rec.Exit, "signal 9 (SIGKILL)"))

	a = w.Run("itself")
	rec, _ = a.Read()
	qt.Assert(t, qt.IsNil(unix.Kill(rec.Process.PID, unix.SIGTERM)))
	w.Until("it is stopped", func() bool { return a.Status() == app.Stopped && a.Free() })
	w.IsStopped(a)

	_, err = w.Hibernate(t.Context(), a)
	qt.Check(t, qt.ErrorMatches(err, "app itself is stopped: it can't be hibernated"))
	qt.Check(t, qt.ErrorMatches(w.Wake(t.Context(), a), "app itself is stopped: it can't be woken"))

	a = w.Held("asleep")
	qt.Assert(t, qt.IsNil(w.Engine.Stop(t.Context(), a, unix.SIGTERM, time.Minute)))
	w.IsStopped(a)
	qt.Check(t, qt.HasLen(enginetest.Zombies(t), 0))
}

// What runs or is held is removed only by force, and is gone then.
func TestRemove(t *testing.T) {
	w := newWorld(t)
	for name, a := range map[string]*engine.App{"awake": w.Run("awake"), "asleep": w.Held("asleep")} {
		err := w.Engine.Remove(t.Context(), a, false)
		qt.Check(t, qt.ErrorIs(err, errdefs.ErrFailedPrecondition))
		qt.Check(t, qt.ErrorMatches(err, "app "+name+" is (running|held): stop it first, or use --force"))
		qt.Check(t, qt.IsNil(w.Engine.Remove(t.Context(), a, true)))
		w.IsGone(name)
		qt.Check(t, qt.ErrorIs(w.Engine.Remove(t.Context(), a, true), errdefs.ErrNotFound))
	}
	ended := w.Run("ended")
	qt.Assert(t, qt.IsNil(w.Engine.Stop(t.Context(), ended, unix.SIGTERM, time.Minute)))
	// There is no way back: that a step fails is told, and the rest is done.
	var points []string
	for _, p := range table(t, "remove").Points() {
		points = append(points, string(p))
	}
	qt.Check(t, qt.IsNil(w.Engine.Remove(w.Failing(points...), ended, false)))
	qt.Check(t, qt.ErrorIs(ended.Noted(), fault.ErrInjected))
	w.IsGone("ended")
	qt.Check(t, qt.HasLen(enginetest.Zombies(t), 0))
}

// Who waits too long for what is done to an app is told what that is.
func TestBusy(t *testing.T) {
	w := newWorld(t)
	a := w.Run("cache")
	release, ok := a.TryTake("snapshot")
	qt.Assert(t, qt.IsTrue(ok))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := w.Hibernate(ctx, a)
	qt.Check(t, qt.ErrorMatches(err, "hibernate cache: busy: snapshot is going on: context canceled"))
	for _, err := range []error{err, w.Wake(ctx, a), w.Engine.Stop(ctx, a, unix.SIGTERM, 0), w.Engine.Remove(ctx, a, true), a.EndSessions(ctx), w.Engine.DropReady(ctx, a)} {
		qt.Check(t, qt.ErrorIs(err, app.ErrBusy))
		qt.Check(t, qt.ErrorIs(err, context.Canceled))
	}
	release()
	w.IsRunning(a)
}

// A session is part of the app: it keeps the app from being hibernated, and ends with it.
func TestSessions(t *testing.T) {
	testenv.Need(t, testenv.Program("nsenter"))
	w := newWorld(t)
	a := w.Run("dev")
	rec, _ := a.Read()
	start := func() (ended chan error) {
		cmd, err := a.Box.Command(t.Context(), rec.Process.PID, &specs.Process{Args: []string{"/app", "program", "/session"}, Cwd: "/"})
		qt.Assert(t, qt.IsNil(err))
		end, err := a.StartSession(t.Context(), cmd, rec.Process.PID, []string{"program"})
		qt.Assert(t, qt.IsNil(err))
		ended = make(chan error, 1)
		go func() {
			err := cmd.Wait()
			end()
			ended <- err
		}()
		return ended
	}
	ended := start()
	_, err := w.Hibernate(t.Context(), a)
	qt.Check(t, qt.ErrorMatches(err, "(?s)process .* runs \"program\" by `snapctl exec` since .*"))
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrFailedPrecondition))
	qt.Assert(t, qt.IsNil(a.EndSessions(t.Context())))
	qt.Check(t, qt.IsNotNil(<-ended)) // by a signal
	w.IsRunning(a)
	ended = start()
	qt.Assert(t, qt.IsNil(w.Engine.Remove(t.Context(), a, true)))
	qt.Check(t, qt.IsNotNil(<-ended))
	w.IsGone("dev")
	qt.Check(t, qt.IsNil(a.EndSessions(t.Context()))) // there are none
}
