package server

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/cgroup"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/process"
	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/vem/netns"
)

// live adds the app "web": a process in namespaces of its own, which has a listener at
// 127.0.0.1:80 in a network namespace that has nothing else.
func (w *world) live(t *testing.T) *engine.App {
	t.Helper()
	testenv.Need(t, testenv.Root)
	cgroups, err := cgroup.Open(fmt.Sprintf("/snapctl-test-server-%d", os.Getpid()), filepath.Join(w.dir, "run"))
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(cgroups.Delete())) })
	var box *sandbox.Sandbox
	t.Cleanup(func() {
		if box != nil {
			qt.Check(t, qt.IsNil(box.Remove()))
		}
	})
	ns, err := netns.New()
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(ns.Close())) })
	var listener *os.File
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "cat")
	stdin, err := cmd.StdinPipe() // it runs until this is closed
	qt.Assert(t, qt.IsNil(err))
	err = ns.Do(func() error {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp4", "127.0.0.1:80")
		if err != nil {
			return err
		}
		defer l.Close()
		if listener, err = l.(*net.TCPListener).File(); err != nil {
			return err
		}
		cmd.ExtraFiles = []*os.File{listener}
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Setsid: true, Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		}
		return cmd.Start()
	})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(listener.Close()))
	t.Cleanup(func() {
		qt.Check(t, qt.IsNil(stdin.Close()))
		qt.Check(t, qt.IsNil(cmd.Wait()))
	})
	rec := app.Record{
		Identity: app.Identity{Name: "web"}, Spec: spec(),
		Address: app.Address{Network: "blue", Addr4: netip.MustParseAddr("10.77.0.7"), Inside4: netip.MustParseAddr("127.0.0.1"), Publish: []app.Publication{{Proto: "tcp", HostPort: 8080, Port: 80}}},
		State:   app.State{Status: app.Running, Process: process.Identity{PID: cmd.Process.Pid}},
	}
	a := w.make(t, rec)
	box = sandbox.New(sandbox.Config{
		Name: "web", StateDir: a.Dir(), RunDir: filepath.Join(w.dir, "run", "web"), Spec: rec.Spec, Cgroups: cgroups,
		NetNS: fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid),
	})
	a.Box = box
	inside, err := box.Enclose(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(inside.Close()))
	qt.Assert(t, qt.IsNil(box.Cgroup().Add(cmd.Process.Pid)))
	w.apps.Add(a)
	return a
}

// TestTableOfSockets proves that a socket is shown with its app's address as others know it, and
// with the process that has it.
func TestTableOfSockets(t *testing.T) {
	w := begin(t)
	a := w.live(t)
	w.add(t, "gone", app.Stopped) // has no namespace
	rows, err := w.VemTable(t.Context(), &api.VemTableRequest{})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(rows, 1))
	rec, _ := a.Read()
	r := rows[0]
	qt.Check(t, qt.Equals(r.GetApp(), "web"))
	qt.Check(t, qt.Equals(r.GetLocal(), "10.77.0.7:80"))
	qt.Check(t, qt.Equals(r.GetRemote(), "*"))
	qt.Check(t, qt.Equals(r.GetActual(), fmt.Sprintf("pid %d", rec.Process.PID)))
	qt.Check(t, qt.Equals(r.GetState(), "LISTEN"))
	qt.Check(t, qt.Equals(r.GetSendQueueBytes(), 0)) // its backlog is no bytes

	for _, req := range []*api.VemTableRequest{{App: "gone"}, {Network: "red"}} {
		rows, err = w.VemTable(t.Context(), req)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.HasLen(rows, 0), qt.Commentf("%v", req))
	}
	for text, want := range map[string]string{"127.0.0.1:9": "10.77.0.7:9", "10.1.1.1:9": "10.1.1.1:9", "[::1]:9": "[::1]:9"} {
		qt.Check(t, qt.Equals(outside(&rec, netip.MustParseAddrPort(text)).String(), want))
	}
	qt.Check(t, qt.Equals(remoteText(netip.MustParseAddrPort("10.1.1.1:9")), "10.1.1.1:9"))
}

// TestIDs proves that what an app knows by its own ids is found on the host.
func TestIDs(t *testing.T) {
	w := begin(t)
	a := w.live(t)
	rec, _ := a.Read()
	ids, err := w.IDs(t.Context(), "web")
	qt.Assert(t, qt.IsNil(err))
	got := make(map[string]string)
	for _, id := range ids {
		got[id.GetKind()+" "+id.GetVirtual()] = id.GetActual()
	}
	ipc, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/ipc", rec.Process.PID))
	qt.Assert(t, qt.IsNil(err))
	for virtual, actual := range map[string]string{
		"hostname box": "web", "address 127.0.0.1": "10.77.0.7", "port 10.77.0.7:80/tcp": "*:8080/tcp",
		"path /": a.Box.Root(), "pid 1": strconv.Itoa(rec.Process.PID), "namespace ipc": ipc,
	} {
		qt.Check(t, qt.Equals(got[virtual], actual), qt.Commentf("%s", virtual))
	}
	held := w.add(t, "cache", app.Held) // has no process
	ids, err = w.IDs(t.Context(), held.Name())
	qt.Assert(t, qt.IsNil(err))
	for _, id := range ids {
		qt.Check(t, qt.Not(qt.Equals(id.GetKind(), "pid")))
		qt.Check(t, qt.Not(qt.Equals(id.GetKind(), "namespace")))
	}
}
