package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/snapshot/criu"
)

// made is an app of a status, whose directory is there.
func made(t *testing.T, status Status) *App {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "cache")
	qt.Assert(t, qt.IsNil(os.Mkdir(dir, 0o700)))
	return New(dir, Record{
		Identity: Identity{Name: "cache"}, State: State{Status: status},
		Spec: &specs.Spec{Process: &specs.Process{Args: []string{"true"}}, Root: &specs.Root{Path: "/"}},
	})
}

// saved is the status that a new daemon would read; "" if it would read none.
func saved(t *testing.T, a *App) Status {
	t.Helper()
	rec, err := Read(a.Dir())
	if errors.Is(err, os.ErrNotExist) {
		return ""
	}
	qt.Assert(t, qt.IsNil(err))
	return rec.Status
}

func TestOneOperationAtATime(t *testing.T) {
	a := made(t, Running)
	release, err := a.Take(t.Context(), "hibernate")
	qt.Assert(t, qt.IsNil(err))
	_, op := a.Read()
	qt.Check(t, qt.Equals(op, "hibernate"))
	a.Remark("it has a timer", "")
	a.Remark("it has a timer", "")
	a.Remark("it has a queue", "drain it")
	qt.Check(t, qt.DeepEquals(a.Remarked(), []Note{{Text: "it has a timer"}, {Text: "it has a queue", Remedy: "drain it"}}))

	qt.Check(t, qt.IsFalse(a.Free()))
	_, ok := a.TryTake("wake")
	qt.Check(t, qt.IsFalse(ok))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = a.Take(ctx, "wake")
	qt.Check(t, qt.ErrorIs(err, ErrBusy))
	qt.Check(t, qt.ErrorIs(err, context.Canceled))
	qt.Check(t, qt.ErrorMatches(err, "wake cache: busy: hibernate is going on: .*"))

	release()
	release, ok = a.TryTake("wake")
	qt.Assert(t, qt.IsTrue(ok))
	qt.Check(t, qt.HasLen(a.Remarked(), 0)) // those of the operation before are told
	release()
	_, op = a.Read()
	qt.Check(t, qt.Equals(op, ""))

	a.TakeForGood()
	_, ok = a.TryTake("stop")
	qt.Check(t, qt.IsFalse(ok))
}

func TestStepIsOnTheDisk(t *testing.T) {
	a := made(t, Running)
	qt.Assert(t, qt.IsNil(a.Step(Hibernating, journal.UntilReboot, func(r *Record) { r.Exit = "x" })))
	qt.Check(t, qt.Equals(a.Status(), Hibernating))
	qt.Check(t, qt.Equals(saved(t, a), Hibernating))

	illegal := a.Step(Resuming, journal.UntilReboot, nil)
	var step *StepError
	qt.Assert(t, qt.ErrorAs(illegal, &step))
	qt.Check(t, qt.DeepEquals(*step, StepError{App: "cache", From: Hibernating, To: Resuming}))
	qt.Check(t, qt.Equals(saved(t, a), Hibernating))

	qt.Assert(t, qt.IsNil(os.RemoveAll(a.Dir())))
	qt.Check(t, qt.ErrorIs(a.Step(Held, journal.Forever, nil), os.ErrNotExist))
	qt.Check(t, qt.Equals(a.Status(), Hibernating))
}

func TestAssumeIsNotOnTheDisk(t *testing.T) {
	a := made(t, Held)
	qt.Assert(t, qt.IsNil(a.Step(Stopped, journal.UntilReboot, nil)))
	var step *StepError
	qt.Check(t, qt.ErrorAs(a.Assume(Waking, func(r *Record) { r.Exit = "x" }), &step))
	rec, _ := a.Read()
	qt.Check(t, qt.Equals(rec.Exit, ""))
	qt.Assert(t, qt.IsNil(a.Assume(Removing, nil)))
	qt.Check(t, qt.Equals(a.Status(), Removing))
	qt.Check(t, qt.Equals(saved(t, a), Stopped))
}

// What has happened is so although it can't be recorded. The notes of the operation,
// which change asks for, are told then too.
func TestSettleWithoutADisk(t *testing.T) {
	a := made(t, Resuming)
	qt.Assert(t, qt.IsNil(os.RemoveAll(a.Dir())))
	a.Remark("it has a timer", "")
	err := a.Settle(Running, journal.UntilReboot, func(r *Record) { r.Notes = a.Remarked() })
	qt.Check(t, qt.ErrorIs(err, os.ErrNotExist))
	rec, _ := a.Read()
	qt.Check(t, qt.Equals(rec.Status, Running))
	qt.Check(t, qt.DeepEquals(rec.Notes, []Note{{Text: "it has a timer"}}))

	var step *StepError
	qt.Check(t, qt.ErrorAs(a.Settle(Waking, journal.UntilReboot, nil), &step))
	qt.Check(t, qt.Equals(a.Status(), Running))
}

func TestChange(t *testing.T) {
	a := made(t, Held)
	qt.Assert(t, qt.IsNil(a.Change(func(r *Record) { r.Relinking = true })))
	rec, err := Read(a.Dir())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(rec.Relinking))
	a.Amend(func(r *Record) { r.Boot = "b" })
	qt.Assert(t, qt.IsNil(os.RemoveAll(a.Dir())))
	qt.Check(t, qt.ErrorIs(a.Change(func(r *Record) { r.Relinking = false }), os.ErrNotExist))
	now, _ := a.Read()
	qt.Check(t, qt.IsTrue(now.Relinking))
	qt.Check(t, qt.Equals(now.Boot, "b"))
}

func TestNote(t *testing.T) {
	a := made(t, Held)
	qt.Check(t, qt.IsNil(a.Noted()))
	failed := fmt.Errorf("wake cache: %w", &criu.Error{Op: "restore", Message: "no 0"})
	a.Note(failed)
	rec, _ := a.Read()
	qt.Check(t, qt.Equals(rec.LastError, "wake cache: CRIU could not make the processes again\nCRIU: no 0"))
	qt.Check(t, qt.Equals(a.Noted(), failed))
	a.Note(nil)
	rec, _ = a.Read()
	qt.Check(t, qt.Equals(rec.LastError, ""))
	qt.Check(t, qt.IsNil(a.Noted()))
}

// A clone that was handed out is on record beside the record proper, which is written
// later unless the clone was removed meanwhile.
func TestRecordAside(t *testing.T) {
	a, dir := made(t, Pooled), t.TempDir()
	qt.Assert(t, qt.IsNil(a.Change(func(*Record) {})))
	qt.Assert(t, qt.IsNil(a.Assume(Restoring, nil)))
	qt.Assert(t, qt.IsNil(a.RecordAside(dir)))
	qt.Check(t, qt.Equals(a.Status(), Running))
	qt.Check(t, qt.Equals(saved(t, a), Pooled))
	qt.Assert(t, qt.IsNil(a.RecordProper()))
	qt.Check(t, qt.Equals(saved(t, a), Running))

	qt.Assert(t, qt.IsNil(os.RemoveAll(a.Dir())))
	qt.Check(t, qt.IsNil(a.RecordProper())) // it is done
	a = made(t, Restoring)
	qt.Assert(t, qt.IsNil(a.RecordAside(dir)))
	qt.Assert(t, qt.IsNil(os.RemoveAll(a.Dir())))
	qt.Check(t, qt.ErrorIs(a.RecordProper(), os.ErrNotExist))
	(&Registry[*App]{}).Remove(a)
	qt.Check(t, qt.IsNil(a.RecordProper()))
}

// The first step of a clone whose record is aside records for good that it was handed
// out: nobody else does then. Only that makes a spare file.
func TestStepOfHandedOut(t *testing.T) {
	for name, test := range map[string]struct {
		to    Status
		aside bool
		lasts bool
	}{
		"aside":         {Hibernating, true, true},
		"not aside":     {Hibernating, false, false},
		"to be removed": {Removing, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			a := made(t, Restoring)
			if test.aside {
				qt.Assert(t, qt.IsNil(a.RecordAside(t.TempDir())))
			} else {
				qt.Assert(t, qt.IsNil(a.Assume(Running, nil)))
			}
			qt.Assert(t, qt.IsNil(a.Step(test.to, journal.UntilReboot, nil)))
			_, err := os.Lstat(filepath.Join(a.Dir(), spareFile))
			qt.Check(t, qt.Equals(err == nil, test.lasts), qt.Commentf("%v", err))
		})
	}
}
