package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/host"
)

// TestTemplatesOnFullDisk has the state directory on a file system of its own, on
// which layers are stacked above the host's root, and fills it.
func TestTemplatesOnFullDisk(t *testing.T) {
	w := newWorld(t, host.Config{}, func(h *host.Host) {
		qt.Assert(t, qt.IsNil(os.MkdirAll(h.StateDir(), 0o700)))
		run(t, h, "mount", "-t", "tmpfs", "-o", "size=96m", "none", h.StateDir())
	}, "mount")
	w.actor(&api.RunRequest{Name: "web", Endpoint: actorEndpoint})
	c := w.caller(actorEndpoint)
	c.tell("alloc 8", "mkdir /data/gone", "write /data/file shared", "write /data/gone/file shared")
	ballast := filepath.Join(w.Outside(w.StateDir()), "ballast")
	fill(t, ballast)
	_, err := w.API.CreateTemplate(t.Context(), &api.CreateTemplateRequest{Name: "t", App: "web"}, nil)
	qt.Assert(t, qt.ErrorMatches(err, "(?s).*[Nn]o space left on device.*"))
	qt.Assert(t, qt.HasLen(w.snapshots(), 0))
	qt.Assert(t, qt.IsNil(os.Remove(ballast)))
	w.template("t", "web", "")
	one := w.clone("t", "one", nil)
	w.pool("t", 1)

	fill(t, ballast)
	names := w.names()
	// The one that stands ready comes last: what is left of it is removed, and its place on
	// the disk is enough for others.
	for _, use := range []api.PoolUse{api.PoolUse_POOL_USE_NEVER, api.PoolUse_POOL_USE_ONLY} {
		count := int32(2)
		if use == api.PoolUse_POOL_USE_ONLY {
			count = 1
		}
		_, err = w.tryClones(&api.CloneRequest{Template: "t", Count: count, Pool: use})
		qt.Assert(t, qt.ErrorMatches(err, "(?s).*[Nn]o space left on device.*"))
		qt.Assert(t, qt.DeepEquals(w.names(), names))
	}
	qt.Assert(t, qt.Equals(c.ask("count"), "1"))
	qt.Assert(t, qt.IsNil(os.Remove(ballast)))
	c = w.caller(one.GetEndpoint())
	qt.Assert(t, qt.Equals(c.ask("read /data/gone/file"), "shared"))
	c.tell("remove /data/gone")
	w.template("t2", "one", "")
	two := w.caller(w.clone("t2", "two", nil).GetEndpoint())
	qt.Assert(t, qt.Equals(two.ask("list /data"), "file"))
	w.pooled("t", 1)
	fill(t, ballast)
	for _, name := range w.names() {
		qt.Check(t, qt.IsNil(w.API.Remove(t.Context(), &api.RemoveRequest{Name: name, Force: true})))
	}
	qt.Assert(t, qt.IsNil(w.API.RemoveTemplate(t.Context(), "t2")))
	qt.Assert(t, qt.IsNil(w.API.RemoveTemplate(t.Context(), "t")))
	qt.Assert(t, qt.IsNil(os.Remove(ballast)))
	w.empty()
}

// TestDamagedTemplate has no clone made of what is not what was saved.
func TestDamagedTemplate(t *testing.T) {
	w := New(t)
	w.actor(&api.RunRequest{Name: "web", Endpoint: actorEndpoint})
	c := w.caller(actorEndpoint)
	c.tell("alloc 8", "mkdir /data", "write /data/file shared")
	for name, pattern := range map[string]string{"memory": "memory/*", "layer": "layers/*/tree/data/file", "list": "layers/*/files.json", "image": "snapshots/*/images/core-1.img"} {
		t.Run(name, func(t *testing.T) {
			w := &World{Host: w.Host, API: w.API, t: t}
			w.template("t", "web", "")
			w.remove(w.clone("t", "good", nil).GetName())
			w.pool("t", 1)
			found, err := filepath.Glob(filepath.Join(w.StateDir(), pattern))
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.Not(qt.HasLen(found, 0)))
			for _, path := range found {
				info, err := os.Lstat(path)
				qt.Assert(t, qt.IsNil(err))
				qt.Assert(t, qt.IsNil(os.Chmod(path, 0o600)))
				qt.Assert(t, qt.IsTrue(flip(t, path, info)))
			}
			_, err = w.tryClones(&api.CloneRequest{Template: "t", Count: 2})
			qt.Assert(t, qt.ErrorMatches(err, `(?s).*damaged.*`))
			qt.Assert(t, qt.DeepEquals(w.names(), []string{"web"}))
			qt.Assert(t, qt.IsNil(w.API.RemoveTemplate(t.Context(), "t")))
		})
	}
	w.RemoveAll()
	w.empty()
}

// TestTemplatesOutliveReboot starts a host anew that had clones: those that slept
// wake, the others have stopped, and new ones are made.
func TestTemplatesOutliveReboot(t *testing.T) {
	w := New(t, "ip", "nft")
	w.actor(&api.RunRequest{Name: "web", Endpoint: actorEndpoint})
	w.caller(actorEndpoint).tell("mkdir /data", "write /data/file shared")
	w.template("t", "web", "{hostname: '{{ .Name }}'}")
	w.remove("web")
	w.pool("t", 2)
	asleep, awake := w.clone("t", "asleep", nil), w.clone("t", "awake", nil)
	w.caller(asleep.GetEndpoint()).tell("write /data/own asleep")
	w.Hibernate("asleep")
	w.pooled("t", 2)
	ends := append(w.poolOf(), int(awake.GetPid()), w.holderPID())
	qt.Assert(t, qt.HasLen(ends, 4))
	qt.Assert(t, qt.IsNil(w.KillDaemon(t.Context(), syscall.SIGKILL)))
	for _, pid := range ends {
		w.kill(pid)
	}
	w.powerOff(t)
	qt.Assert(t, qt.IsNil(w.StartDaemon(t.Context(), host.Daemon{})))
	w.Dial()
	qt.Assert(t, qt.Equals(w.CLI("wake", "asleep").Code, 6)) // without its sockets
	c := w.caller(asleep.GetEndpoint())
	qt.Assert(t, qt.Equals(c.ask("instance"), "asleep"))
	qt.Assert(t, qt.Equals(c.ask("host"), "asleep"))
	qt.Assert(t, qt.Equals(c.ask("list /data"), "file own"))
	qt.Assert(t, qt.Equals(c.instance().Generation, asleep.GetGeneration()))
	qt.Assert(t, qt.Equals(w.Show("awake").GetStatus(), api.Status_STATUS_STOPPED))
	w.pooled("t", 2)
	for _, a := range []*api.App{w.clone("t", "pooled", nil), w.clones(&api.CloneRequest{Template: "t", Pool: api.PoolUse_POOL_USE_NEVER})[0].GetApp()} {
		c := w.caller(a.GetEndpoint())
		qt.Assert(t, qt.Equals(c.ask("host"), a.GetName()))
		qt.Assert(t, qt.Equals(c.ask("list /data"), "file"))
	}
	w.RemoveAll()
	w.empty()
}

// TestConnectionsOfClones has a clone see the end of every connection that was
// frozen, while those of the original go on.
func TestConnectionsOfClones(t *testing.T) {
	w := New(t)
	w.actor(&api.RunRequest{Name: "peer", Endpoint: "10.77.0.50"})
	w.caller("10.77.0.50").close()
	w.actor(&api.RunRequest{Name: "web", Endpoint: actorEndpoint})
	c := w.caller(actorEndpoint)
	qt.Assert(t, qt.StringContains(c.ask("open tcp 10.77.0.50:7000"), actorEndpoint)) // outbound
	qt.Assert(t, qt.StringContains(c.ask("open tcp 127.0.0.1:7000"), "127.0.0.1"))    // internal
	w.Until("all sessions are there", func() error {
		if n := c.ask("sessions"); n != "4" { // c, both ends of the internal one, and the outbound one
			return fmt.Errorf("%s", n)
		}
		return nil
	})
	w.template("t", "web", "{connections: {inbound: reset, outbound: reset, internal: reset}}")
	w.pool("t", 1)
	for _, r := range w.clones(&api.CloneRequest{Template: "t", Count: 3}) {
		clone := w.caller(r.GetApp().GetEndpoint())
		w.Until("the old ones have ended", func() error {
			if n := clone.ask("sessions"); n != "1" {
				return fmt.Errorf("%s", n)
			}
			return nil
		})
		from := clone.ask("dial tcp 10.77.0.50:7000 peer")
		qt.Assert(t, qt.StringContains(from, r.GetApp().GetEndpoint()+":"))
	}
	qt.Assert(t, qt.Equals(c.ask("sessions"), "4"))
	w.RemoveAll()
	w.empty()
}

// TestHalfATemplate finds what a daemon leaves that dies while it makes or removes
// a template, and a snapshot that is somebody's.
func TestHalfATemplate(t *testing.T) {
	w := New(t)
	w.actor(&api.RunRequest{Name: "web", Endpoint: actorEndpoint})
	w.caller(actorEndpoint)
	_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "web", Name: "s"}, nil)
	qt.Assert(t, qt.IsNil(err))
	w.template("own", "web", "")
	// The name of the snapshot that it would take is another's.
	_, err = w.API.CreateTemplate(t.Context(), &api.CreateTemplateRequest{Name: "s", App: "web"}, nil)
	qt.Assert(t, qt.ErrorIs(err, errdefs.ErrAlreadyExists))
	_, err = w.API.CreateTemplate(t.Context(), &api.CreateTemplateRequest{Name: "of-s", Snapshot: "s"}, nil)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(w.snapshots(), []string{"own", "s"}))
	qt.Assert(t, qt.IsNil(w.KillDaemon(t.Context(), syscall.SIGKILL)))
	for _, name := range []string{"own", "of-s"} {
		path := filepath.Join(w.StateDir(), "templates", name+".json")
		b, err := os.ReadFile(path)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsNil(os.WriteFile(path, bytes.Replace(b, []byte("{"), []byte(`{"half": true,`), 1), 0o600)))
		qt.Assert(t, qt.IsNil(os.WriteFile(path+".new", []byte("{"), 0o600)))
	}
	qt.Assert(t, qt.IsNil(w.StartDaemon(t.Context(), host.Daemon{})))
	w.Dial()
	templates, err := w.API.ListTemplates(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(templates, 0))
	w.empties("templates")
	qt.Assert(t, qt.DeepEquals(w.snapshots(), []string{"s"}))
	w.template("own", "web", "")
	w.clone("own", "x", nil)
	w.RemoveAll()
	w.empty()
}

// TestTemplateOfAHeldApp is made without waking the app, whose clients go on when
// it is woken; clones see them gone.
func TestTemplateOfAHeldApp(t *testing.T) {
	w := New(t)
	w.actor(&api.RunRequest{Name: "web", Endpoint: actorEndpoint})
	c := w.caller(actorEndpoint)
	c.tell("mkdir /data", "write /data/file shared")
	qt.Assert(t, qt.Equals(c.ask("count"), "1"))
	w.Hibernate("web")
	w.template("t", "web", "{hostname: '{{ .Name }}'}")
	qt.Assert(t, qt.Equals(w.Show("web").GetStatus(), api.Status_STATUS_HELD))
	w.pool("t", 1)
	for _, r := range w.clones(&api.CloneRequest{Template: "t", Count: 3}) {
		clone := w.caller(r.GetApp().GetEndpoint())
		qt.Assert(t, qt.Equals(clone.ask("host"), r.GetName()))
		qt.Assert(t, qt.Equals(clone.ask("read /data/file"), "shared"))
		qt.Assert(t, qt.Equals(clone.ask("count"), "2"))
		w.Until("the old session has ended", func() error {
			if n := clone.ask("sessions"); n != "1" {
				return fmt.Errorf("%s", n)
			}
			return nil
		})
		w.Hibernate(r.GetName())
		qt.Assert(t, qt.Equals(clone.ask("count"), "3"))
	}
	qt.Assert(t, qt.Equals(w.Show("web").GetStatus(), api.Status_STATUS_HELD))
	qt.Assert(t, qt.Equals(c.ask("count"), "2"))
	w.Running("web")
	w.RemoveAll()
	w.empty()
}
