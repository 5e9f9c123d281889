package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/snapshot/criu"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/vem/wake"
)

// made is an app of a status, whose directory is there.
func made(t *testing.T, status Status) *App {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "cache")
	qt.Assert(t, qt.IsNil(os.Mkdir(dir, 0o700)))
	return New(dir, t.TempDir(), Record{
		Identity: Identity{Name: "cache"}, State: State{Status: status},
		Spec: &specs.Spec{Process: &specs.Process{Args: []string{"true"}}, Root: &specs.Root{Path: "/"}},
	})
}

// saved is the status that a new daemon would read; "" if it would read none.
// saved is what the record on the disk says.
func saved(t *testing.T, a *App) Record {
	t.Helper()
	rec, err := Read(a.Dir())
	if errors.Is(err, os.ErrNotExist) {
		return Record{}
	}
	qt.Assert(t, qt.IsNil(err))
	return *rec
}

var hibernating = journal.Entry{Kind: "hibernate", Step: "begun", Doing: string(Hibernating)}

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

func TestMark(t *testing.T) {
	a := made(t, Running)
	a.Amend(func(r *Record) { r.Exit = "x" })
	qt.Assert(t, qt.IsNil(a.Mark(journal.Mark{Entry: hibernating, Keep: journal.UntilReboot})))
	qt.Check(t, qt.Equals(a.Status(), Hibernating))
	on := saved(t, a)
	qt.Check(t, qt.Equals(on.Status, Running)) // the one that lasts
	qt.Check(t, qt.Equals(on.Now(), Hibernating))
	qt.Check(t, qt.Equals(on.Operation, hibernating))
	qt.Check(t, qt.Equals(on.Exit, "x"))

	// One that is not written.
	later := hibernating
	later.Step = "frozen"
	at := on.StatusAt
	qt.Assert(t, qt.IsNil(a.Mark(journal.Mark{Entry: later})))
	rec, _ := a.Read()
	qt.Check(t, qt.Equals(rec.Operation.Step, "frozen"))
	qt.Check(t, qt.IsTrue(rec.StatusAt.Equal(at))) // the status is the same
	qt.Check(t, qt.Equals(saved(t, a).Operation.Step, "begun"))

	qt.Assert(t, qt.IsNil(a.Mark(journal.Mark{Ends: string(Held), Keep: journal.Forever})))
	qt.Check(t, qt.Equals(a.Status(), Held))
	on = saved(t, a)
	qt.Check(t, qt.Equals(on.Status, Held))
	qt.Check(t, qt.IsFalse(on.Operation.Open()))

	qt.Assert(t, qt.IsNil(a.Mark(journal.Mark{Entry: journal.Entry{Kind: "save", Step: "begun"}})))
	qt.Check(t, qt.Equals(a.Status(), Held)) // one without a status of its own
	qt.Assert(t, qt.IsNil(a.Mark(journal.Mark{Ends: journal.Same})))
	qt.Check(t, qt.Equals(a.Status(), Held))
}

func TestMarkWithoutADisk(t *testing.T) {
	a := made(t, Held)
	qt.Assert(t, qt.IsNil(os.RemoveAll(a.Dir())))
	err := a.Mark(journal.Mark{Entry: hibernating, Keep: journal.Forever})
	qt.Check(t, qt.ErrorIs(err, os.ErrNotExist))
	rec, _ := a.Read()
	qt.Check(t, qt.Equals(rec.Now(), Held))
	qt.Check(t, qt.IsFalse(rec.Operation.Open()))
	// Only a full disk is no reason not to go on.
	qt.Check(t, qt.ErrorIs(a.Mark(journal.Mark{Entry: hibernating, Keep: journal.Forever, IfRoom: true}), os.ErrNotExist))
}

func TestSettle(t *testing.T) {
	a := made(t, Running)
	qt.Assert(t, qt.IsNil(a.Mark(journal.Mark{Entry: hibernating, Keep: journal.UntilReboot})))
	qt.Assert(t, qt.IsNil(a.Settle(Stopped, journal.Forever, func(r *Record) { r.Exit = "x" })))
	on := saved(t, a)
	qt.Check(t, qt.Equals(on.Now(), Stopped))
	qt.Check(t, qt.Equals(on.Exit, "x"))

	qt.Assert(t, qt.IsNil(os.RemoveAll(a.Dir())))
	err := a.Settle(Running, journal.UntilReboot, func(r *Record) { r.Exit = "" })
	qt.Check(t, qt.ErrorIs(err, os.ErrNotExist))
	rec, _ := a.Read()
	qt.Check(t, qt.Equals(rec.Now(), Running)) // it has happened
	qt.Check(t, qt.Equals(rec.Exit, ""))
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
// handedOut is a ready clone that was handed out and recorded aside.
func handedOut(t *testing.T) *App {
	t.Helper()
	a := made(t, Pooled)
	qt.Assert(t, qt.IsNil(a.Change(func(*Record) {})))
	qt.Assert(t, qt.IsNil(a.Mark(journal.Mark{Entry: journal.Entry{Kind: "hand-out", Step: "begun", Doing: string(Restoring)}})))
	qt.Assert(t, qt.IsNil(a.Mark(journal.Mark{Ends: string(Running), Keep: journal.Aside})))
	return a
}

func TestRecordAside(t *testing.T) {
	a := handedOut(t)
	qt.Check(t, qt.Equals(a.Status(), Running))
	qt.Check(t, qt.Equals(saved(t, a).Status, Pooled))
	b, err := os.ReadFile(filepath.Join(a.asideDir, RecordFile))
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.StringContains(string(b), `"status": "running"`))
	qt.Assert(t, qt.IsNil(a.RecordProper()))
	qt.Check(t, qt.Equals(saved(t, a).Status, Running))

	qt.Assert(t, qt.IsNil(os.RemoveAll(a.Dir())))
	qt.Check(t, qt.IsNil(a.RecordProper())) // it is done
	a = handedOut(t)
	qt.Assert(t, qt.IsNil(os.RemoveAll(a.Dir())))
	qt.Check(t, qt.ErrorIs(a.RecordProper(), os.ErrNotExist))
	(&Registry[*App]{}).Remove(a)
	qt.Check(t, qt.IsNil(a.RecordProper()))
}

// TestMarkOfHandedOut finds out by the spare room what a record survives: only one that is
// written for ever makes it.
func TestMarkOfHandedOut(t *testing.T) {
	for name, test := range map[string]struct {
		doing Status
		aside bool
		lasts bool
	}{
		"aside":         {Hibernating, true, true},
		"not aside":     {Hibernating, false, false},
		"to be removed": {Removing, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			a := handedOut(t)
			if !test.aside {
				qt.Assert(t, qt.IsNil(a.RecordProper()))
			}
			qt.Assert(t, qt.IsNil(os.Remove(filepath.Join(a.Dir(), spareFile))))
			qt.Assert(t, qt.IsNil(a.Mark(journal.Mark{Entry: journal.Entry{Kind: "x", Step: "begun", Doing: string(test.doing)}, Keep: journal.UntilReboot})))
			_, err := os.Lstat(filepath.Join(a.Dir(), spareFile))
			qt.Check(t, qt.Equals(err == nil, test.lasts), qt.Commentf("%v", err))
		})
	}
}

// TestOlderRecord reads what snapctl wrote before there were entries.
func TestOlderRecord(t *testing.T) {
	for status, want := range map[Status]struct {
		lasting Status
		kind    string
	}{
		Creating: {"", "run"}, Restoring: {"", "restore"}, Snapshotting: {Running, "snapshot"}, Hibernating: {Running, "hibernate"},
		Waking: {Held, "wake"}, Resuming: {Held, "wake"}, Removing: {"", "remove"},
		Running: {Running, ""}, Held: {Held, ""}, Stopped: {Stopped, ""}, Pooled: {Pooled, ""},
	} {
		t.Run(string(status), func(t *testing.T) {
			a := made(t, status)
			rec, _ := a.Read()
			qt.Assert(t, qt.IsNil(rec.Write(a.Dir(), journal.UntilReboot)))
			got := saved(t, a)
			qt.Check(t, qt.Equals(got.Status, want.lasting))
			qt.Check(t, qt.Equals(got.Operation.Kind, want.kind))
			qt.Check(t, qt.Equals(got.Now(), status))
			rec.Restacking = &layer.Ref{}
			rec.Status = Held
			qt.Assert(t, qt.IsNil(rec.Write(a.Dir(), journal.UntilReboot)))
			got = saved(t, a)
			qt.Check(t, qt.Equals(got.Operation.Kind, "restack"))
			qt.Check(t, qt.Equals(got.Now(), Held))
		})
	}
}

// What a request does not say of an app's policy stays as it was saved.
func TestPolicyChange(t *testing.T) {
	saved := Record{Policy: Policy{Wake: wake.Policy{Mode: wake.OnConnect}, HibernateAfter: time.Hour, RestoreMemory: restore.Copy, AcceptChanged: true}}
	rec := saved
	PolicyChange{}.Change(&rec)
	qt.Check(t, qt.DeepEquals(rec.Policy, saved.Policy))
	after, pages, changed := time.Minute, restore.Map, false
	PolicyChange{Wake: &wake.Policy{Mode: wake.Never}, After: &after, Pages: &pages, AcceptChanged: &changed}.Change(&rec)
	qt.Check(t, qt.DeepEquals(rec.Policy, Policy{Wake: wake.Policy{Mode: wake.Never}, HibernateAfter: time.Minute, RestoreMemory: restore.Map}))
}
