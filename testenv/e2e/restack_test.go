package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/testenv/gate"
	"github.com/snapctl/snapctl/testenv/host"
)

// TestSnapshotOfHeldSharesFiles takes snapshots of hibernated apps: nothing is
// copied, and the files are right on both sides.
func TestSnapshotOfHeldSharesFiles(t *testing.T) { everyLayout(t, snapshotOfHeld) }

func snapshotOfHeld(t *testing.T, w *World) {
	t.Helper()
	s := w.files()
	s.sh("dd if=/dev/urandom of=/data/big bs=1M count=16 2>/dev/null")
	for g := range 3 {
		want := s.sees()
		w.Hibernate(s.name)
		before := w.blocks("layers") + w.blocks("apps/"+s.name+"/storage")
		name := fmt.Sprint("s", g)
		for range 2 { // there is nothing new in the second
			_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: s.name, Name: name}, nil)
			qt.Assert(t, qt.IsNil(err))
			name += "-again"
		}
		qt.Assert(t, qt.Equals(w.Show(s.name).GetStatus(), api.Status_STATUS_HELD))
		after := w.blocks("layers") + w.blocks("apps/"+s.name+"/storage")
		qt.Assert(t, qt.IsTrue(after-before < 256<<10), qt.Commentf("%d bytes were copied", after-before))
		if g == 1 {
			w.killDaemon()
		}
		// The connection outlived it all.
		qt.Assert(t, qt.Equals(s.c.ask("echo awake"), "awake"))
		w.Running(s.name)
		qt.Assert(t, qt.Equals(s.sees(), want))
		for i, from := range []string{fmt.Sprint("s", g), fmt.Sprint("s", g, "-again")} {
			copied := fmt.Sprintf("r%d-%d", g, i)
			_, err := w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: from, As: copied, Endpoint: fmt.Sprint("10.77.1.", 10*g+i+1)}, nil)
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.Equals(w.shared(copied).sees(), want))
		}
		if g == 0 { // the names of a file are still its names, with layers below
			s.sh("echo more >>/data/many/1; cmp /data/many/1 /data/linked")
		}
		s.sh(changes[g])
		r := w.shared(fmt.Sprintf("r%d-0", g))
		qt.Assert(t, qt.Equals(r.sees(), want)) // it is nobody else's
		s.sh("echo " + fmt.Sprint(g) + " >>/data/big")
	}
	w.RemoveAll()
	w.empty()
	w.noStubs()
}

// TestSnapshotOfHeldWithSockets: where a held unix socket has the files' mount, they are
// copied, and the socket is at its path all the same.
func TestSnapshotOfHeldWithSockets(t *testing.T) {
	w := New(t, "python3")
	w.actor(&api.RunRequest{Name: "g0", Endpoint: actorEndpoint}, "--unix", "/data.sock")
	s := w.shared("g0")
	s.c.tell("mkdir /data", "write /data/file 0")
	want := s.sees()
	w.Hibernate("g0")
	_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "g0", Name: "s"}, nil)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(s.c.ask("echo awake"), "awake"))
	w.Running("g0")
	qt.Assert(t, qt.Equals(s.sees(), want))
	qt.Assert(t, qt.Equals(s.c.ask("dial unix /data.sock echo there"), "there"))
	_, err = w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: "s", As: "r", Endpoint: "10.77.1.1"}, nil)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(w.shared("r").sees(), want))
}

// TestSnapshotOfHeldInUse: where somebody is in a held app's root, its files are copied.
func TestSnapshotOfHeldInUse(t *testing.T) {
	w := New(t, "python3")
	w.actor(&api.RunRequest{Name: "g0", Endpoint: actorEndpoint})
	s := w.shared("g0")
	s.c.tell("mkdir /data", "write /data/file 0")
	want := s.sees()
	w.Hibernate("g0")
	visitor := w.Command(t.Context(), "sh", "-c", "cd "+host.RunDir+"/apps/g0/root && echo in && exec cat")
	in, err := visitor.StdinPipe()
	qt.Assert(t, qt.IsNil(err))
	out, err := visitor.StdoutPipe()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(visitor.Start()))
	buf := make([]byte, 3)
	_, err = out.Read(buf)
	qt.Assert(t, qt.IsTrue(err == nil && string(buf) == "in\n"))
	_, err = w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "g0", Name: "s"}, nil)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsTrue(w.blocks("apps/g0/storage/upper") > 0)) // still its own
	qt.Assert(t, qt.IsNil(in.Close()))
	qt.Assert(t, qt.IsNil(visitor.Wait()))
	qt.Assert(t, qt.Equals(s.c.ask("echo awake"), "awake"))
	w.Running("g0")
	qt.Assert(t, qt.Equals(s.sees(), want))
	_, err = w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: "s", As: "r", Endpoint: "10.77.1.1"}, nil)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(w.shared("r").sees(), want))
}

// TestSharedFilesOutliveReboot: stubs are made anew for what was held.
func TestSharedFilesOutliveReboot(t *testing.T) {
	w := New(t, "python3", "ip", "nft")
	s := w.files()
	w.template("t", "g0", "")
	want := make(map[string]string)
	for _, name := range []string{"c", "d"} {
		w.clone("t", name, nil)
		c := w.shared(name)
		c.sh(changes[0])
		want[name] = c.sees()
		w.Hibernate(name)
	}
	w.Hibernate("g0")
	_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "c", Name: "s"}, nil)
	qt.Assert(t, qt.IsNil(err))
	holder := w.holderPID()
	qt.Assert(t, qt.IsNil(w.KillDaemon(t.Context(), syscall.SIGKILL)))
	w.kill(holder)
	w.powerOff(t)
	qt.Assert(t, qt.IsNil(w.StartDaemon(t.Context(), host.Daemon{})))
	w.Dial()
	for _, name := range []string{"c", "d", s.name} {
		qt.Assert(t, qt.Equals(w.CLI("wake", name).Code, 6)) // its sockets are lost
		if name != s.name {
			qt.Assert(t, qt.Equals(w.shared(name).sees(), want[name]))
		}
	}
	_, err = w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: "s", As: "r", Endpoint: "10.77.1.1"}, nil)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(w.shared("r").sees(), want["c"]))
}

// TestCrashOfStoppedSnapshot kills the daemon while it makes the files of an app that
// has ended a layer.
func TestCrashOfStoppedSnapshot(t *testing.T) {
	for _, point := range []fault.Name{"restack.begun", "restack.placed", "restack.switched"} {
		t.Run(string(point), func(t *testing.T) {
			w := New(t)
			w.actor(&api.RunRequest{Name: "g0", Endpoint: actorEndpoint})
			w.caller(actorEndpoint).tell("mkdir /data", "write /data/file 0")
			w.OK("stop", "--signal", "KILL", "g0")
			qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), syscall.SIGTERM, host.Daemon{Env: gate.Env(gate.Kill(point))})))
			w.Dial()
			_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "g0", Name: "s"}, nil)
			qt.Assert(t, qt.IsNotNil(err))
			_, err = w.WaitDaemon(t.Context())
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.IsNil(w.StartDaemon(t.Context(), host.Daemon{})))
			w.Dial()
			w.nothingPartial()
			qt.Assert(t, qt.Equals(w.Show("g0").GetStatus(), api.Status_STATUS_STOPPED))
			_, err = w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "g0", Name: "s"}, nil)
			qt.Assert(t, qt.IsNil(err))
			_, err = w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: "s", As: "r", Endpoint: "10.77.1.1"}, nil)
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.Equals(w.caller("10.77.1.1").ask("read /data/file"), "0"))
		})
	}
}

// TestSnapshotOfStopped saves an app that has ended: what is made of it runs the program
// anew, with the files that it left.
func TestSnapshotOfStopped(t *testing.T) { everyLayout(t, snapshotOfStopped) }

func snapshotOfStopped(t *testing.T, w *World) {
	t.Helper()
	s := w.files()
	s.sh("dd if=/dev/urandom of=/data/big bs=1M count=16 2>/dev/null; " + changes[0])
	want, _, _ := strings.Cut(s.sees(), " held ")
	sees := func(name string) string { return strings.TrimSpace(w.shared(name).sees()) }
	s.c.close()
	w.OK("stop", "--signal", "KILL", "g0")
	before := w.blocks("layers") + w.blocks("apps/g0/storage")
	_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "g0", Name: "s"}, nil)
	qt.Assert(t, qt.IsNil(err))
	w.template("t", "g0", "hostname: 'clone-{{ .Number }}'\nsignal: HUP\n")
	after := w.blocks("layers") + w.blocks("apps/g0/storage")
	qt.Assert(t, qt.IsTrue(after-before < 256<<10), qt.Commentf("%d bytes were copied", after-before))
	qt.Assert(t, qt.Equals(w.Show("g0").GetStatus(), api.Status_STATUS_STOPPED))
	qt.Assert(t, qt.StringContains(w.OK("inspect", "s"), "s"))

	_, err = w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: "s", As: "r", Endpoint: "10.77.1.1"}, nil)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(sees("r"), want))
	w.killDaemon()
	for i, r := range w.clones(&api.CloneRequest{Template: "t", Count: 2}) {
		c := w.shared(r.GetName())
		qt.Assert(t, qt.Equals(sees(c.name), want))
		qt.Assert(t, qt.Equals(c.c.ask("count"), "1"))
		qt.Assert(t, qt.Equals(c.c.ask("host"), fmt.Sprint("clone-", i+1)))
		qt.Assert(t, qt.Equals(c.c.instance().Name, c.name))
		qt.Assert(t, qt.IsTrue(w.blocks("apps/"+c.name+"/storage") < 128<<10))
		w.Hibernate(c.name)
		qt.Assert(t, qt.Equals(c.c.ask("count"), "2"))
		w.Running(c.name)
	}
	_, err = w.API.SetPool(t.Context(), &api.SetPoolRequest{Template: "t", Size: 1})
	qt.Assert(t, qt.ErrorMatches(err, `(?s).*has no processes that could stand ready.*`))
	w.remove("g0")
	qt.Assert(t, qt.Equals(sees("t-1"), want))
	w.RemoveAll()
	w.empty()
	w.noStubs()
}

// TestRestackThatIsNotRecorded makes files of apps a layer, and then can't write that
// down: until it is, nobody goes on without these files.
func TestRestackThatIsNotRecorded(t *testing.T) {
	for name, sleep := range map[string]func(w *World){
		"held":    func(w *World) { w.Hibernate("g0") },
		"stopped": func(w *World) { w.OK("stop", "--signal", "KILL", "g0") },
	} {
		t.Run(name, func(t *testing.T) {
			w := New(t)
			w.actor(&api.RunRequest{Name: "g0", Endpoint: actorEndpoint})
			c := w.caller(actorEndpoint)
			c.tell("mkdir /data", "write /data/file 0")
			sleep(w)
			g := gate.New(t, w.Dir(), "restack.placed")
			qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), syscall.SIGTERM, host.Daemon{Env: gate.Env(g.Fault())})))
			w.Dial()
			done := make(chan error, 1)
			go func() {
				_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "g0", Name: "s"}, nil)
				done <- err
			}()
			stop, err := g.Wait(t.Context())
			qt.Assert(t, qt.IsNil(err))
			// The record is written beside, where a directory is in the way.
			obstacle := w.Outside(filepath.Join(w.StateDir(), "apps/g0/app.json.new"))
			qt.Assert(t, qt.IsNil(os.MkdirAll(filepath.Join(obstacle, "x"), 0o700)))
			t.Cleanup(func() { qt.Check(t, qt.IsNil(os.RemoveAll(obstacle))) })
			qt.Assert(t, qt.IsNil(stop.Continue()))
			qt.Assert(t, qt.IsNotNil(<-done))

			_, err = w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "g0", Name: "s"}, nil)
			qt.Assert(t, qt.IsNotNil(err))
			if name == "held" {
				_, err = w.API.Wake(t.Context(), &api.WakeRequest{Name: "g0"}, nil)
				qt.Assert(t, qt.IsNotNil(err))
				qt.Assert(t, qt.Equals(w.Show("g0").GetStatus(), api.Status_STATUS_HELD))
			}
			qt.Assert(t, qt.IsNil(os.RemoveAll(obstacle)))
			_, err = w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "g0", Name: "s"}, nil)
			qt.Assert(t, qt.IsNil(err))
			_, err = w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: "s", As: "r", Endpoint: "10.77.1.1"}, nil)
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.Equals(w.caller("10.77.1.1").ask("read /data/file"), "0"))
			if name == "held" {
				qt.Assert(t, qt.Equals(c.ask("read /data/file"), "0"))
			}
		})
	}
}

// TestSnapshotOfFilesThatOthersHaveOpen saves an app without processes, a file of which
// a program of the host has open for writing: what that writes is not in the snapshot.
func TestSnapshotOfFilesThatOthersHaveOpen(t *testing.T) {
	for name, sleep := range map[string]func(w *World){
		"held":    func(w *World) { w.Hibernate("g0") },
		"stopped": func(w *World) { w.OK("stop", "--signal", "KILL", "g0") },
	} {
		t.Run(name, func(t *testing.T) {
			w := New(t)
			a := w.actor(&api.RunRequest{Name: "g0", Endpoint: actorEndpoint})
			c := w.caller(actorEndpoint)
			c.tell("mkdir /data", "write /data/file 0")
			f, err := os.OpenFile(fmt.Sprintf("/proc/%d/root/data/file", a.GetPid()), os.O_RDWR, 0)
			qt.Assert(t, qt.IsNil(err))
			defer f.Close()
			sleep(w)
			_, err = w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "g0", Name: "s"}, nil)
			qt.Assert(t, qt.IsNil(err))
			_, err = f.WriteAt([]byte("1"), 0)
			qt.Assert(t, qt.IsNil(err))
			_, err = w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: "s", As: "r", Endpoint: "10.77.1.1"}, nil)
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.Equals(w.caller("10.77.1.1").ask("read /data/file"), "0"))
			if name == "held" { // its file is still its own
				qt.Assert(t, qt.Equals(c.ask("read /data/file"), "1"))
			}
		})
	}
}
