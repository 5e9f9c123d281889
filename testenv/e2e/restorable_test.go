package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/gate"
	"github.com/snapctl/snapctl/testenv/host"
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

// TestStopRehearses takes a bound file away in the moment between the look at the running app
// and the rehearsal of what was saved: the app goes on, with its files, its client and its
// clock, and nothing of the snapshot is left. Once the file is back, the app is ended by
// a snapshot that can be restored.
func TestStopRehearses(t *testing.T) {
	w := New(t, "python3")
	dir, err := os.MkdirTemp(testenv.BaseDir(), "bind-") //nolint:usetesting // scratch hosts don't see t.TempDir
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(os.RemoveAll(dir))) })
	conf := filepath.Join(dir, "conf")
	qt.Assert(t, qt.IsNil(os.WriteFile(conf, []byte("conf"), 0o600)))
	w.Run(&api.RunRequest{Name: "app", Endpoint: "10.77.0.7", Binds: []*api.Bind{{Source: dir, Destination: "/b"}}, Args: []string{"python3", "-c", `
import socket
conf = open("/b/conf")
server = socket.create_server(("0.0.0.0", 7000))
while True:
    client, _ = server.accept()
    while client.recv(100):
        conf.seek(0)
        client.sendall(conf.read().encode())
`}})
	client := w.Connect("10.77.0.7", 7000)
	ask := func() {
		t.Helper()
		_, err := client.Write([]byte("?"))
		qt.Assert(t, qt.IsNil(err))
		got := make([]byte, 4)
		_, err = client.Read(got)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.Equals(string(got), "conf"))
	}
	ask()
	gates, err := os.MkdirTemp("", "gate") //nolint:usetesting // a socket's path is short
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(os.RemoveAll(gates))) })
	g := gate.New(t, gates, "snapshot.dumped")
	qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), syscall.SIGTERM, host.Daemon{Env: gate.Env(g.Fault())})))
	w.Dial()

	refused := make(chan host.Result, 1)
	go func() {
		r, _ := w.Snapctl(t.Context(), "snapshot", "--stop", "--name", "stopped", "app")
		refused <- r
	}()
	stop, err := g.Wait(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(os.Rename(conf, conf+".away")))
	qt.Assert(t, qt.IsNil(stop.Continue()))
	r := <-refused
	open(t, g)
	qt.Assert(t, qt.Equals(r.Code, 1))
	qt.Assert(t, qt.StringContains(r.Stderr, "app app goes on, for no app could be made of the snapshot: "))
	qt.Assert(t, qt.StringContains(r.Stderr, conf))
	w.once("app", api.Status_STATUS_RUNNING)
	w.Running("app")
	ask() // it has the file still open
	qt.Assert(t, qt.HasLen(w.snapshots(), 0))
	w.empties("snapshots", "layers", "memory")

	qt.Assert(t, qt.IsNil(os.Rename(conf+".away", conf)))
	w.OK("snapshot", "--stop", "--name", "stopped", "app")
	w.remove("app")
	qt.Assert(t, qt.Equals(w.CLI("restore", "stopped", "--as", "app").Code, 6)) // its client is reset
	client = w.Connect("10.77.0.7", 7000)
	ask()
	w.OK("rm", "--force", "app")
	w.OK("snapshots", "rm", "stopped")
}
