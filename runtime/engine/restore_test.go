package engine

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/template"
)

// An app that is made of a snapshot runs, and nothing is left of it if a step fails.
func TestRestore(t *testing.T) {
	w := newWorld(t)
	qt.Assert(t, qt.IsNil(w.base(t.Context())))
	for _, s := range restoreTable.Steps[:len(restoreTable.Steps)-1] {
		_, err := w.restore(w.failing("restore."+s.Name), "base", "copy")
		qt.Check(t, qt.ErrorIs(err, fault.ErrInjected), qt.Commentf("%s", s.Name))
		w.isGone("copy")
		qt.Check(t, qt.HasLen(zombies(t), 0), qt.Commentf("%s", s.Name))
	}
	a, err := w.restore(t.Context(), "base", "copy")
	qt.Assert(t, qt.IsNil(err))
	w.isRunning(a)
	_, err = os.Lstat(a.Box.Root() + template.InstancePath)
	qt.Check(t, qt.IsNil(err))
	_, err = w.restore(t.Context(), "base", "copy")
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrAlreadyExists))
	w.isMoved(a)
	_, err = w.restore(t.Context(), "nothing", "other")
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrNotFound))
	qt.Assert(t, qt.IsNil(w.clone(t.Context(), "base", "clone")))
	w.isRunning(w.app("clone"))
}

// A snapshot of an app that had ended starts its program anew, with its files.
func TestRestoreOfAnAppThatHadEnded(t *testing.T) {
	w := newWorld(t)
	a := w.run("job", "/file")
	qt.Assert(t, qt.IsNil(w.eng.Stop(t.Context(), a, unix.SIGTERM, time.Minute)))
	_, err := w.snapshot(t.Context(), a, SnapshotRequest{Name: "job"})
	qt.Assert(t, qt.IsNil(err))
	again, err := w.restore(t.Context(), "job", "again")
	qt.Assert(t, qt.IsNil(err))
	w.isRunning(again)
	w.isWritten(again)
	_, err = w.restore(w.failing("restore.furnished"), "job", "broken")
	qt.Check(t, qt.ErrorIs(err, fault.ErrInjected))
	w.isGone("broken")
}

// What the rules say of a clone is done to it, and to no other.
func TestPlanOfAClone(t *testing.T) {
	w := newWorld(t)
	qt.Assert(t, qt.IsNil(w.base(t.Context())))
	name, content := template.Text("other-host"), "of the clone"
	rules := &template.Rules{
		MachineID: template.MachineIDKeep, Hostname: name, Env: map[string]template.Text{"CLONE": "1"},
		Files: []template.File{{Path: "/own", Content: &content}}, Signal: "SIGWINCH",
		Publish: []template.Publication{{HostPort: "18080", Port: "80"}},
	}
	a, err := w.cloneBy(t.Context(), "base", "clone", rules)
	qt.Assert(t, qt.IsNil(err))
	w.isRunning(a)
	rec, _ := a.Read()
	qt.Check(t, qt.Equals(rec.Spec.Hostname, "other-host"))
	qt.Check(t, qt.SliceContains(rec.Spec.Process.Env, "CLONE=1"))
	qt.Assert(t, qt.HasLen(rec.Publish, 1))
	qt.Check(t, qt.Equals(rec.Publish[0].HostPort, 18080))
	b, err := os.ReadFile(filepath.Join(a.Box.Root(), "own"))
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(string(b), content))

	_, err = w.cloneBy(t.Context(), "base", "second", rules) // its port is taken
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrAlreadyExists))
	qt.Check(t, qt.ErrorMatches(err, "publish host port 18080/tcp: already exists: app clone has it"))
	w.isGone("second")
	failing := &template.Rules{MachineID: template.MachineIDKeep, Run: []template.Command{{Args: []template.Text{"/nothing"}}}}
	_, err = w.cloneBy(t.Context(), "base", "third", failing)
	qt.Check(t, qt.ErrorMatches(err, "(?s).*run /nothing: .*"))
	w.isGone("third")
}

// A clone that stands ready has no name, and is nobody's, until it is handed out: then it runs.
func TestReadyClone(t *testing.T) {
	w := newWorld(t)
	qt.Assert(t, qt.IsNil(w.base(t.Context())))
	for _, s := range fillTable.Steps {
		_, err := w.fill(w.failing("fill-pool."+s.Name), "base", "1")
		qt.Check(t, qt.ErrorIs(err, fault.ErrInjected), qt.Commentf("%s", s.Name))
		w.isGone("_pool-1")
	}
	qt.Check(t, qt.HasLen(zombies(t), 0))
	a, err := w.fill(t.Context(), "base", "1")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(a.Status(), app.Pooled))
	state, err := a.Cgroup().State()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(state.Frozen))
	qt.Assert(t, qt.IsNil(w.handOut(t.Context(), a, "clone")))
	qt.Check(t, qt.Equals(w.app("clone"), a))
	qt.Check(t, qt.Equals(a.Status(), app.Running))
	qt.Assert(t, qt.IsNil(a.RecordProper()))
	w.isRunning(a)

	for _, step := range []string{"begun", "thawed"} {
		a, err := w.fill(t.Context(), "base", "2")
		qt.Assert(t, qt.IsNil(err))
		err = w.handOut(w.failing("hand-out."+step), a, "broken")
		qt.Check(t, qt.ErrorIs(err, fault.ErrInjected), qt.Commentf("%s", step))
		w.isGone("broken")
		w.isGone("_pool-2")
	}
	dropped, err := w.fill(t.Context(), "base", "3")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(w.eng.DropReady(t.Context(), a))) // it was handed out
	w.isRunning(a)
	qt.Assert(t, qt.IsNil(w.eng.DropReady(t.Context(), dropped)))
	w.isGone("_pool-3")
}

// Whoever asks for the address of a clone that stands ready gets it.
func TestAddressOfAReadyClone(t *testing.T) {
	w := newWorld(t)
	qt.Assert(t, qt.IsNil(w.base(t.Context())))
	ready, err := w.fill(t.Context(), "base", "1")
	qt.Assert(t, qt.IsNil(err))
	was, _ := ready.Read()
	rec := record("asks")
	rec.Addr4 = was.Addr4
	a, err := w.eng.Run(t.Context(), rec)
	qt.Assert(t, qt.IsNil(err))
	now, _ := a.Read()
	qt.Check(t, qt.Equals(now.Addr4, was.Addr4))
	w.isRunning(a)
	w.isGone("_pool-1")
}

// The end of a clone that stands ready is noticed, and it is not handed out.
func TestReadyCloneEnds(t *testing.T) {
	w := newWorld(t)
	qt.Assert(t, qt.IsNil(w.base(t.Context())))
	a, err := w.fill(t.Context(), "base", "1")
	qt.Assert(t, qt.IsNil(err))
	rec, _ := a.Read()
	qt.Assert(t, qt.IsNil(unix.Kill(rec.Process.PID, unix.SIGKILL)))
	w.until("it is stopped", func() bool { return a.Status() == app.Stopped && a.Free() })
	r, _, err := w.eng.TakeReady(a, "clone", func(*app.Record) {})
	qt.Check(t, qt.IsTrue(r == nil))
	qt.Check(t, qt.IsNil(err))
	qt.Check(t, qt.IsNil(errors.Join(w.eng.DropReady(t.Context(), a))))
	w.isGone("_pool-1")
}

// isMoved proves that an app whose address another one has gets another one only if it may, and is told.
func (w *world) isMoved(other *App) {
	t := w.t
	t.Helper()
	source, rec, err := w.saved(t.Context(), "base")
	qt.Assert(t, qt.IsNil(err))
	defer source.Close()
	has, _ := other.Read()
	rec.Name, rec.Addr4 = "moved", has.Addr4
	_, _, err = w.eng.Restore(t.Context(), RestoreRequest{Source: source, Record: rec, Op: w.operation(event.Restore)})
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrAlreadyExists))
	w.isGone("moved")
	a, out, err := w.eng.Restore(t.Context(), RestoreRequest{Source: source, Record: rec, Anywhere: true, Op: w.operation(event.Restore)})
	qt.Assert(t, qt.IsNil(err))
	w.isRunning(a)
	now, _ := a.Read()
	qt.Check(t, qt.Not(qt.Equals(now.Addr4, has.Addr4)))
	qt.Assert(t, qt.HasLen(out.Notes, 1))
	qt.Check(t, qt.StringContains(out.Notes[0].Text, "app copy has that endpoint"))
}
