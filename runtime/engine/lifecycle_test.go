package engine

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
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/testenv"
)

// A new app runs, and whatever step of making it fails, nothing is left of it.
func TestRun(t *testing.T) {
	w := newWorld(t)
	w.run("neighbour")
	for _, point := range runTable.Points() {
		_, err := w.eng.Run(w.failing(string(point)), record("broken"))
		if point == "run.recorded" { // too late
			qt.Check(t, qt.IsNil(err))
			a, err := w.eng.Apps.Get("broken")
			qt.Assert(t, qt.IsNil(err))
			w.isRunning(a)
			qt.Check(t, qt.ErrorIs(a.Noted(), fault.ErrInjected))
			continue
		}
		qt.Check(t, qt.ErrorIs(err, fault.ErrInjected), qt.Commentf("%s", point))
		w.isGone("broken")
		qt.Check(t, qt.HasLen(zombies(t), 0), qt.Commentf("%s", point))
	}
	_, err := w.eng.Run(t.Context(), record("broken"))
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrAlreadyExists))

	missing := record("missing")
	missing.Spec.Process.Args = []string{"/nothing"}
	_, err = w.eng.Run(t.Context(), missing)
	qt.Check(t, qt.ErrorMatches(err, "run missing: start sandbox: .*no such file.*"))
	w.isGone("missing")
	taken := record("taken")
	a, err := w.eng.Apps.Get("broken")
	qt.Assert(t, qt.IsNil(err))
	rec, _ := a.Read()
	taken.Addr4 = rec.Addr4
	_, err = w.eng.Run(t.Context(), taken)
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrAlreadyExists))
	w.isGone("taken")
}

// The end of a program is noticed, however it comes.
func TestEnds(t *testing.T) {
	w := newWorld(t)
	a := w.run("polite", "/file")
	qt.Assert(t, qt.IsNil(w.eng.Stop(t.Context(), a, unix.SIGTERM, time.Minute)))
	w.isStopped(a)
	rec, _ := a.Read()
	qt.Check(t, qt.Equals(rec.Exit, "exit code 7"))
	qt.Check(t, qt.IsNil(w.eng.Stop(t.Context(), a, unix.SIGTERM, time.Minute)))
	_, err := os.Lstat(filepath.Join(a.Box.Upper(), "file"))
	qt.Check(t, qt.IsNil(err)) // its files stay

	a = w.run("deaf")
	qt.Assert(t, qt.IsNil(w.eng.Stop(t.Context(), a, unix.SIGWINCH, time.Nanosecond)))
	w.isStopped(a)
	rec, _ = a.Read()
	qt.Check(t, qt.Equals(rec.Exit, "signal 9 (SIGKILL)"))

	a = w.run("itself")
	rec, _ = a.Read()
	qt.Assert(t, qt.IsNil(unix.Kill(rec.Process.PID, unix.SIGTERM)))
	w.until("it is stopped", func() bool { return a.Status() == app.Stopped && a.Free() })
	w.isStopped(a)

	_, err = w.hibernate(t.Context(), a)
	qt.Check(t, qt.ErrorMatches(err, "app itself is stopped: it can't be hibernated"))
	qt.Check(t, qt.ErrorMatches(w.wake(t.Context(), a), "app itself is stopped: it can't be woken"))

	a = w.held("asleep")
	qt.Assert(t, qt.IsNil(w.eng.Stop(t.Context(), a, unix.SIGTERM, time.Minute)))
	w.isStopped(a)
	qt.Check(t, qt.HasLen(zombies(t), 0))
}

// What runs or is held is removed only by force, and is gone then.
func TestRemove(t *testing.T) {
	w := newWorld(t)
	for name, a := range map[string]*App{"awake": w.run("awake"), "asleep": w.held("asleep")} {
		err := w.eng.Remove(t.Context(), a, false)
		qt.Check(t, qt.ErrorIs(err, errdefs.ErrFailedPrecondition))
		qt.Check(t, qt.ErrorMatches(err, "app "+name+" is (running|held): stop it first, or use --force"))
		qt.Check(t, qt.IsNil(w.eng.Remove(t.Context(), a, true)))
		w.isGone(name)
		qt.Check(t, qt.ErrorIs(w.eng.Remove(t.Context(), a, true), errdefs.ErrNotFound))
	}
	ended := w.run("ended")
	qt.Assert(t, qt.IsNil(w.eng.Stop(t.Context(), ended, unix.SIGTERM, time.Minute)))
	// There is no way back: that a step fails is told, and the rest is done.
	var points []string
	for _, p := range removeTable.Points() {
		points = append(points, string(p))
	}
	qt.Check(t, qt.IsNil(w.eng.Remove(w.failing(points...), ended, false)))
	qt.Check(t, qt.ErrorIs(ended.Noted(), fault.ErrInjected))
	w.isGone("ended")
	qt.Check(t, qt.HasLen(zombies(t), 0))
}

// Who waits too long for what is done to an app is told what that is.
func TestBusy(t *testing.T) {
	w := newWorld(t)
	a := w.run("cache")
	release, ok := a.TryTake("snapshot")
	qt.Assert(t, qt.IsTrue(ok))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := w.hibernate(ctx, a)
	qt.Check(t, qt.ErrorMatches(err, "hibernate cache: busy: snapshot is going on: context canceled"))
	for _, err := range []error{err, w.wake(ctx, a), w.eng.Stop(ctx, a, unix.SIGTERM, 0), w.eng.Remove(ctx, a, true), a.EndSessions(ctx), w.eng.DropReady(ctx, a)} {
		qt.Check(t, qt.ErrorIs(err, app.ErrBusy))
		qt.Check(t, qt.ErrorIs(err, context.Canceled))
	}
	release()
	w.isRunning(a)
}

// A session is part of the app: it keeps the app from being hibernated, and ends with it.
func TestSessions(t *testing.T) {
	testenv.Need(t, testenv.Program("nsenter"))
	w := newWorld(t)
	a := w.run("dev")
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
	_, err := w.hibernate(t.Context(), a)
	qt.Check(t, qt.ErrorMatches(err, "(?s)process .* runs \"program\" by `snapctl exec` since .*"))
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrFailedPrecondition))
	qt.Assert(t, qt.IsNil(a.EndSessions(t.Context())))
	qt.Check(t, qt.IsNotNil(<-ended)) // by a signal
	w.isRunning(a)
	ended = start()
	qt.Assert(t, qt.IsNil(w.eng.Remove(t.Context(), a, true)))
	qt.Check(t, qt.IsNotNil(<-ended))
	w.isGone("dev")
	qt.Check(t, qt.IsNil(a.EndSessions(t.Context()))) // there are none
}
