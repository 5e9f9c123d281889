package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv"
)

// TestStopOnlyWhatCanBeRestored ends no app by a snapshot that nobody could restore. It is
// told before the app is frozen; without --stop it is a note; and once it is put right the
// app is ended, and restored.
func TestStopOnlyWhatCanBeRestored(t *testing.T) {
	w := New(t)
	away := func(dir string) error { return os.Rename(dir, dir+".away") }
	back := func(dir string) error { return errors.Join(os.RemoveAll(dir), os.Rename(dir+".away", dir)) }
	instance := "mkdir -p /run/snapctl; rm -rf /run/snapctl/instance.json; "
	for name, one := range map[string]struct {
		setup        string // what the app does first
		held         bool
		change, undo func(dir string) error
		undoInside   string
		want         string
	}{
		"bind gone, held": {held: true, change: away, undo: back, want: "which the app has at /b"},
		"file gone, held": {
			setup: "exec 3</b/conf; ", held: true, want: "descriptor 3 of process",
			change: func(dir string) error { return os.Rename(dir+"/conf", dir+"/x") },
			undo:   func(dir string) error { return os.Rename(dir+"/x", dir+"/conf") },
		},
		"instance directory": {setup: instance + "mkdir /run/snapctl/instance.json; ", undoInside: instance, want: "/run/snapctl/instance.json is something else"},
		"instance open":      {setup: instance + "echo {} >/run/snapctl/instance.json; exec 3</run/snapctl/instance.json; ", want: "a process has it open"},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			top, err := os.MkdirTemp(testenv.BaseDir(), "bind-") //nolint:usetesting // scratch hosts don't see t.TempDir
			qt.Assert(t, qt.IsNil(err))
			t.Cleanup(func() { qt.Check(t, qt.IsNil(os.RemoveAll(top))) })
			dir := filepath.Join(top, "b")
			qt.Assert(t, qt.IsNil(os.Mkdir(dir, 0o755)))
			qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(dir, "conf"), []byte("conf"), 0o600)))
			w.OK("run", "--name", "app", "--bind", dir+":/b", "--", "/bin/sh", "-c", one.setup+"echo READY; exec sleep 1000")
			w.Until("it is ready", func() error {
				if r := w.CLI("logs", "app"); !strings.Contains(r.Stdout, "READY") {
					return errors.New(r.Stdout)
				}
				return nil
			})
			status := api.Status_STATUS_RUNNING
			if one.held {
				status = api.Status_STATUS_HELD
				w.OK("hibernate", "app")
			}
			if one.change != nil {
				qt.Assert(t, qt.IsNil(one.change(dir)))
			}
			r := w.CLI("snapshot", "--stop", "--name", "stopped", "app")
			qt.Assert(t, qt.Not(qt.Equals(r.Code, 0)))
			qt.Assert(t, qt.StringContains(r.Stderr, one.want))
			qt.Assert(t, qt.IsFalse(strings.Contains(r.Stderr, "goes on, for"))) // which is said after the freeze
			w.once("app", status)
			r = w.CLI("snapshot", "--name", "noted", "app")
			qt.Assert(t, qt.Equals(r.Code, 0), qt.Commentf("%s", r.Stderr))
			qt.Assert(t, qt.StringContains(r.Stderr, "note: no app could be made of the snapshot now: "))
			qt.Assert(t, qt.StringContains(r.Stderr, one.want))
			w.OK("snapshots", "rm", "noted")
			if one.undo != nil {
				qt.Assert(t, qt.IsNil(one.undo(dir)))
			}
			if one.undoInside != "" {
				w.OK("exec", "app", "--", "/bin/sh", "-c", one.undoInside)
			}
			if one.undo != nil || one.undoInside != "" {
				w.OK("snapshot", "--stop", "--name", "stopped", "app")
				w.remove("app")
				w.OK("restore", "stopped")
				w.OK("snapshots", "rm", "stopped")
			}
			w.OK("rm", "--force", "app")
		})
	}
}
