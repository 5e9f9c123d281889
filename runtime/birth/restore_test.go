package birth

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
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/engine/enginetest"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/template"
	"github.com/snapctl/snapctl/testenv"
)

// An app that is made of a snapshot runs, and nothing is left of it if a step fails.
func TestRestore(t *testing.T) {
	w := newWorld(t)
	qt.Assert(t, qt.IsNil(w.Base(t.Context())))
	for _, s := range restoreTable.Steps[:len(restoreTable.Steps)-1] {
		_, err := w.restore(w.Failing("restore."+s.Name), "base", "copy")
		qt.Check(t, qt.ErrorIs(err, fault.ErrInjected), qt.Commentf("%s", s.Name))
		w.IsGone("copy")
		qt.Check(t, qt.HasLen(enginetest.Zombies(t), 0), qt.Commentf("%s", s.Name))
	}
	a, err := w.restore(t.Context(), "base", "copy")
	qt.Assert(t, qt.IsNil(err))
	w.IsRunning(a)
	_, err = os.Lstat(a.Box.Root() + template.InstancePath)
	qt.Check(t, qt.IsNil(err))
	_, err = w.restore(t.Context(), "base", "copy")
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrAlreadyExists))
	w.isMoved(a)
	_, err = w.restore(t.Context(), "nothing", "other")
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrNotFound))
	qt.Assert(t, qt.IsNil(w.clone(t.Context(), "base", "clone")))
	w.IsRunning(w.App("clone"))
}

// A snapshot of an app that had ended starts its program anew, with its files.
func TestRestoreOfAnAppThatHadEnded(t *testing.T) {
	w := newWorld(t)
	a := w.Run("job", "/file")
	qt.Assert(t, qt.IsNil(w.Engine.Stop(t.Context(), a, unix.SIGTERM, time.Minute)))
	_, err := w.Snapshot(t.Context(), a, engine.SnapshotRequest{Name: "job"})
	qt.Assert(t, qt.IsNil(err))
	again, err := w.restore(t.Context(), "job", "again")
	qt.Assert(t, qt.IsNil(err))
	w.IsRunning(again)
	w.IsWritten(again)
	_, err = w.restore(w.Failing("restore.furnished"), "job", "broken")
	qt.Check(t, qt.ErrorIs(err, fault.ErrInjected))
	w.IsGone("broken")
}

// A snapshot is checked while an app is made of it. If it is damaged nothing is left of the app.
func TestRestoreOfADamagedSnapshot(t *testing.T) {
	w := newWorld(t)
	qt.Assert(t, qt.IsNil(w.Base(t.Context())))
	images := w.Engine.Store.Dir("base").Images()
	qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(images, "processes"), []byte("other"), 0o600)))
	_, err := w.restore(t.Context(), "base", "broken")
	qt.Check(t, qt.ErrorMatches(err, "(?s).*damaged.*"))
	w.IsGone("broken")
	qt.Check(t, qt.HasLen(enginetest.Zombies(t), 0))
}

// What the rules say of a clone is done to it, and to no other.
func TestPlanOfAClone(t *testing.T) {
	w := newWorld(t)
	qt.Assert(t, qt.IsNil(w.Base(t.Context())))
	name, content := template.Text("other-host"), "of the clone"
	rules := &template.Rules{
		MachineID: template.MachineIDKeep, Hostname: name, Env: map[string]template.Text{"CLONE": "1"},
		Files: []template.File{{Path: "/own", Content: &content}}, Signal: "SIGWINCH",
		Publish: []template.Publication{{HostPort: "18080", Port: "80"}},
	}
	a, err := w.cloneBy(t.Context(), "base", "clone", rules, Birth{})
	qt.Assert(t, qt.IsNil(err))
	w.IsRunning(a)
	rec, _ := a.Read()
	qt.Check(t, qt.Equals(rec.Spec.Hostname, "other-host"))
	qt.Check(t, qt.SliceContains(rec.Spec.Process.Env, "CLONE=1"))
	qt.Assert(t, qt.HasLen(rec.Publish, 1))
	qt.Check(t, qt.Equals(rec.Publish[0].HostPort, 18080))
	b, err := os.ReadFile(filepath.Join(a.Box.Root(), "own"))
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(string(b), content))

	_, err = w.cloneBy(t.Context(), "base", "second", rules, Birth{}) // its port is taken
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrAlreadyExists))
	qt.Check(t, qt.ErrorMatches(err, "publish host port 18080/tcp: already exists: app clone has it"))
	w.IsGone("second")
	failing := &template.Rules{MachineID: template.MachineIDKeep, Run: []template.Command{{Args: []template.Text{"/nothing"}}}}
	_, err = w.cloneBy(t.Context(), "base", "third", failing, Birth{})
	qt.Check(t, qt.ErrorMatches(err, "(?s).*run /nothing: .*"))
	w.IsGone("third")
}

// A clone that stands ready has no name, and is nobody's, until it is handed out: then it runs.
func TestReadyClone(t *testing.T) {
	w := newWorld(t)
	qt.Assert(t, qt.IsNil(w.Base(t.Context())))
	for _, s := range fillTable.Steps {
		_, err := w.fill(w.Failing("fill-pool."+s.Name), "base", "1")
		qt.Check(t, qt.ErrorIs(err, fault.ErrInjected), qt.Commentf("%s", s.Name))
		w.IsGone("_pool-1")
	}
	qt.Check(t, qt.HasLen(enginetest.Zombies(t), 0))
	a, err := w.fill(t.Context(), "base", "1")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(a.Status(), app.Pooled))
	state, err := a.Cgroup().State()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(state.Frozen))
	qt.Assert(t, qt.IsNil(w.handOut(t.Context(), a, "clone")))
	qt.Check(t, qt.Equals(w.App("clone"), a))
	qt.Check(t, qt.Equals(a.Status(), app.Running))
	qt.Assert(t, qt.IsNil(a.RecordProper()))
	w.IsRunning(a)

	for _, step := range []string{"begun", "thawed"} {
		a, err := w.fill(t.Context(), "base", "2")
		qt.Assert(t, qt.IsNil(err))
		err = w.handOut(w.Failing("hand-out."+step), a, "broken")
		qt.Check(t, qt.ErrorIs(err, fault.ErrInjected), qt.Commentf("%s", step))
		w.IsGone("broken")
		w.IsGone("_pool-2")
	}
	dropped, err := w.fill(t.Context(), "base", "3")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(w.Engine.DropReady(t.Context(), a))) // it was handed out
	w.IsRunning(a)
	qt.Assert(t, qt.IsNil(w.Engine.DropReady(t.Context(), dropped)))
	w.IsGone("_pool-3")
}

// A command of the rules runs in a clone before it has traffic, whether the clone stood ready or not.
func TestCommandsOfRules(t *testing.T) {
	testenv.Need(t, testenv.Program("nsenter"))
	w := newWorld(t)
	qt.Assert(t, qt.IsNil(w.Base(t.Context())))
	rules := &template.Rules{
		MachineID: template.MachineIDKeep, Hostname: "other-host",
		Run: []template.Command{{Args: []template.Text{"/app", "write", "/file"}, User: "0:0"}},
	}
	a, err := w.cloneBy(t.Context(), "base", "clone", rules, Birth{})
	qt.Assert(t, qt.IsNil(err))
	w.IsRunning(a)
	w.IsWritten(a)

	ready, err := w.fill(t.Context(), "base", "1")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(w.handOutBy(t.Context(), ready, "ready", rules)))
	qt.Assert(t, qt.IsNil(ready.RecordProper()))
	w.IsRunning(ready)
	w.IsWritten(ready)
	rec, _ := ready.Read()
	qt.Check(t, qt.Equals(rec.Spec.Hostname, "other-host"))

	rules.Run[0].User = "nobody"
	_, err = w.cloneBy(t.Context(), "base", "broken", rules, Birth{})
	qt.Check(t, qt.ErrorMatches(err, `(?s)run /app write /file: user "?nobody.*`))
	w.IsGone("broken")
}

// A clone shares the files of the snapshot, or has a copy, and is told what it has in common with others.
func TestWhatClonesShare(t *testing.T) {
	w := newWorld(t)
	_, err := w.Snapshot(t.Context(), w.Held("cache", "/file"), engine.SnapshotRequest{Name: "saved"})
	qt.Assert(t, qt.IsNil(err))
	for files, layers := range map[Files]int{SharedFiles: 1, PrivateFiles: 0} {
		name := [...]string{SharedFiles: "shares", PrivateFiles: "copies"}[files]
		images := &template.Images{Repeats: []string{"OpenSSL in process 1"}}
		a, err := w.cloneBy(t.Context(), "saved", name, sameAgain(), Birth{Files: files, Images: images})
		qt.Assert(t, qt.IsNil(err))
		w.IsRunning(a)
		w.IsWritten(a)
		rec, _ := a.Read()
		qt.Check(t, qt.HasLen(rec.Layers, layers), qt.Commentf("%s", name))
		qt.Assert(t, qt.HasLen(rec.Notes, 1))
		qt.Check(t, qt.StringContains(rec.Notes[0].Text, "OpenSSL in process 1"))
	}
}

// Whoever asks for the address of a clone that stands ready gets it.
func TestAddressOfAReadyClone(t *testing.T) {
	w := newWorld(t)
	qt.Assert(t, qt.IsNil(w.Base(t.Context())))
	ready, err := w.fill(t.Context(), "base", "1")
	qt.Assert(t, qt.IsNil(err))
	was, _ := ready.Read()
	rec := enginetest.Record("asks")
	rec.Addr4 = was.Addr4
	a, err := w.Engine.Run(t.Context(), rec)
	qt.Assert(t, qt.IsNil(err))
	now, _ := a.Read()
	qt.Check(t, qt.Equals(now.Addr4, was.Addr4))
	w.IsRunning(a)
	w.IsGone("_pool-1")
}

// The end of a clone that stands ready is noticed, and it is not handed out.
func TestReadyCloneEnds(t *testing.T) {
	w := newWorld(t)
	qt.Assert(t, qt.IsNil(w.Base(t.Context())))
	a, err := w.fill(t.Context(), "base", "1")
	qt.Assert(t, qt.IsNil(err))
	rec, _ := a.Read()
	qt.Assert(t, qt.IsNil(unix.Kill(rec.Process.PID, unix.SIGKILL)))
	w.Until("it is stopped", func() bool { return a.Status() == app.Stopped && a.Free() })
	r, _, err := w.maker.TakeReady(a, "clone", func(*app.Record) {})
	qt.Check(t, qt.IsTrue(r == nil))
	qt.Check(t, qt.IsNil(err))
	qt.Check(t, qt.IsNil(errors.Join(w.Engine.DropReady(t.Context(), a))))
	w.IsGone("_pool-1")
}

// isMoved proves that an app whose address another one has gets another one only if it may, and is told.
func (w *world) isMoved(other *engine.App) {
	t := w.T
	t.Helper()
	source, rec, err := w.saved(t.Context(), "base")
	qt.Assert(t, qt.IsNil(err))
	defer source.Close()
	has, _ := other.Read()
	rec.Name, rec.Addr4 = "moved", has.Addr4
	_, _, err = w.maker.Restore(t.Context(), RestoreRequest{Source: source, Record: rec, Op: w.Operation(event.Restore)})
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrAlreadyExists))
	w.IsGone("moved")
	a, out, err := w.maker.Restore(t.Context(), RestoreRequest{Source: source, Record: rec, Anywhere: true, Op: w.Operation(event.Restore)})
	qt.Assert(t, qt.IsNil(err))
	w.IsRunning(a)
	now, _ := a.Read()
	qt.Check(t, qt.Not(qt.Equals(now.Addr4, has.Addr4)))
	qt.Assert(t, qt.HasLen(out.Notes, 1))
	qt.Check(t, qt.StringContains(out.Notes[0].Text, "app copy has that endpoint"))
}
