package checkpoint

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/image/openfile"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/mqueue"
	"github.com/snapctl/snapctl/vem/hold/vet"
)

// openQueueOfProgram makes a POSIX message queue.
func openQueueOfProgram() (any, error) {
	return mqOpen(&snapshot.Queue{Name: "/jobs", Mode: 0o600, UID: os.Getuid(), GID: os.Getgid(), Messages: 5, Size: 64, Flags: os.O_RDWR}, "jobs")
}

// begun is the app, about to be saved.
func (r *rig) begun(t *testing.T, after snapshot.After) *taking {
	t.Helper()
	o, err := r.tools.begin(t.Context(), r.Subject, Saving{Target: filepath.Join(t.TempDir(), "target")}, after)
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(o.close)
	return o
}

// of are the external things of a kind.
func of(kind snapshot.ExternalKind, list []snapshot.External) (found []snapshot.External) {
	for _, e := range list {
		if e.Kind == kind {
			found = append(found, e)
		}
	}
	return found
}

// TestWhatCRIUIsTold proves that CRIU is told of all that leads out of the app, before the app is
// frozen, and that one CRIU at a time works on it.
func TestWhatCRIUIsTold(t *testing.T) {
	r := launch(t, "lent")
	o := r.begun(t, snapshot.End)
	list := o.Manifest.External
	qt.Check(t, qt.HasLen(of(snapshot.ExternalNet, list), 1))
	binds := of(snapshot.ExternalBind, list)
	qt.Assert(t, qt.HasLen(binds, 1))
	qt.Check(t, qt.Equals(binds[0].Path, "/data"))
	qt.Check(t, qt.SliceContains(o.External, "mnt[/data]:"+binds[0].Key))
	qt.Check(t, qt.SliceContains(o.External, "mnt[/dev]:dev"))
	for _, v := range r.Box.Views() {
		qt.Check(t, qt.SliceContains(o.External, "mnt["+v.Path+"]:"+v.Key))
	}
	sockets := of(snapshot.ExternalUnix, list)
	qt.Assert(t, qt.HasLen(sockets, 1)) // to the test
	qt.Check(t, qt.Equals(sockets[0].SocketType, unix.SOCK_STREAM))
	qt.Check(t, qt.SliceContains(o.External, sockets[0].Key))
	qt.Check(t, qt.IsTrue(slices.ContainsFunc(o.External, func(name string) bool { return strings.HasPrefix(name, "file[") })))
	qt.Check(t, qt.Equals(o.PID, r.PID))

	_, err := r.tools.begin(t.Context(), r.Subject, Saving{}, snapshot.End)
	qt.Check(t, qt.ErrorMatches(err, "lock app app: a CRIU process still works on it: .*"))
}

// TestPreflightOfAnApp proves that an app whose things can be held is not refused, and that only a
// copy says what it will have otherwise.
func TestPreflightOfAnApp(t *testing.T) {
	r := launch(t, "lent", "counter", "watch")
	seen, err := r.Preflight(t.Context(), vet.Preflight)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsNotNil(seen))
	_, err = r.Preflight(t.Context(), vet.PreflightCopy)
	qt.Assert(t, qt.IsNil(err))

	// Whoever is in the app's cgroup and not of the app is in the way.
	cmd := exec.CommandContext(t.Context(), "cat")
	input, err := cmd.StdinPipe()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(cmd.Start()))
	qt.Assert(t, qt.IsNil(r.Box.Cgroup().Add(cmd.Process.Pid)))
	r.Sessions = []Session{{PID: cmd.Process.Pid, Args: []string{"cat"}}}
	_, err = r.Preflight(t.Context(), vet.Preflight)
	qt.Check(t, qt.ErrorMatches(err, "process .* runs \"cat\" by `snapctl exec` .*"))
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrFailedPrecondition))
	qt.Check(t, qt.IsNil(errors.Join(input.Close(), cmd.Wait())))
}

// TestHoldOfAnApp proves that all that CRIU can't save is held before the processes may end, and
// that what CRIU was not told of is not.
func TestHoldOfAnApp(t *testing.T) {
	r := launch(t, "lent", "counter")
	o := r.begun(t, snapshot.End)
	var kept *hold.Set
	o.o.Hold = func(_ context.Context, set *hold.Set) error {
		kept = set
		return nil
	}
	var passed []string
	o.o.At = func(_ context.Context, step string) error {
		passed = append(passed, step)
		return nil
	}
	l := &holding{h: o}
	qt.Assert(t, qt.IsNil(l.Hold(t.Context(), r.pids(t))))
	qt.Assert(t, qt.IsNotNil(kept))
	qt.Check(t, qt.Equals(l.set, kept))
	qt.Check(t, qt.DeepEquals(passed, []string{"frozen", "collected", "held"}))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(l.set.Close())) })
	list := lossy(kept)
	qt.Check(t, qt.HasLen(of(snapshot.ExternalEventfd, list), 1))
	files := of(snapshot.ExternalFile, list)
	qt.Assert(t, qt.HasLen(files, 1))
	qt.Check(t, qt.Equals(files[0].Path, "/data/log"))
	qt.Check(t, qt.Equals(files[0].Open.Flags&unix.O_APPEND, unix.O_APPEND))

	f, err := r.openLent(files[0]) // once more, after a reboot
	qt.Assert(t, qt.IsNil(err))
	_, err = f.WriteString("two\n")
	qt.Check(t, qt.IsNil(errors.Join(err, f.Close())))
	b, err := os.ReadFile(filepath.Join(r.data, "log"))
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(string(b), "one\ntwo\n"))

	kept = nil
	r.make(t, "outside")
	qt.Check(t, qt.ErrorIs((&holding{h: o}).Hold(t.Context(), r.pids(t)), ErrChanged))
	qt.Check(t, qt.IsNil(kept)) // nothing was held
}

// TestCopyOfAFrozenApp proves that a copy of the app is given what the app has open outside, and that
// what was opened meanwhile is seen.
func TestCopyOfAFrozenApp(t *testing.T) {
	r := launch(t, "lent", "counter")
	o := r.begun(t, snapshot.GoOn)
	look := frozenLook{s: r.Subject, opt: o.hold, announced: o.External}
	list, err := look.frozen(t.Context(), r.pids(t))
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(of(snapshot.ExternalEventfd, list), 1))
	qt.Check(t, qt.HasLen(of(snapshot.ExternalFile, list), 0)) // a copy opens it by its path

	r.make(t, "outside")
	_, err = look.frozen(t.Context(), r.pids(t))
	qt.Check(t, qt.ErrorIs(err, ErrChanged))
}

// TestWatchesAndMovedSockets proves that both are found by the paths that the app has for them.
func TestWatchesAndMovedSockets(t *testing.T) {
	r := launch(t, "watch", "moved")
	o := r.begun(t, snapshot.GoOn)
	watched, err := o.watched(t.Context(), r.pids(t))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(watched, 1))
	qt.Check(t, qt.Equals(watched[0].Path, "/app"))
	key := openfile.WatchKey{Device: watched[0].Device, Inode: watched[0].Inode}
	qt.Check(t, qt.Not(qt.Equals(key.Inode, 0)))

	moved, err := o.moved(t.Context(), r.Subject, r.pids(t))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(moved, 1))
	qt.Check(t, qt.Equals(moved[0].Kind, snapshot.ExternalMoved))
	qt.Check(t, qt.Equals(moved[0].Path, "/second"))
	held, err := o.heldMoved(t.Context(), r.pids(t))
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(held, moved))

	// A socket that can't be bound where its file is can be held, and not copied.
	r.make(t, "far")
	_, err = o.moved(t.Context(), r.Subject, r.pids(t))
	qt.Check(t, qt.ErrorIs(err, hold.ErrUnsupported))
	_, err = o.heldMoved(t.Context(), r.pids(t))
	qt.Check(t, qt.IsNil(err))
}

// TestQueuesOfAnApp proves that the ipc namespace of an app with POSIX message queues is kept, and
// that such an app has no System V objects, which would be lost.
func TestQueuesOfAnApp(t *testing.T) {
	r := launch(t, "queue")
	o := r.begun(t, snapshot.End)
	qt.Assert(t, qt.IsNil(o.keepQueues(t.Context(), r.Subject)))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(r.Box.DropIPC())) })
	qt.Check(t, qt.HasLen(of(snapshot.ExternalIPC, o.Manifest.External), 1))
	qt.Check(t, qt.SliceContains(o.External, "mnt["+mqueue.Mount+"]:mqueue"))
	kept, err := r.Box.KeepsIPC()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(kept))
	qt.Check(t, qt.IsNil(r.onlyQueues()))
	r.make(t, "shm")
	qt.Check(t, qt.ErrorMatches(r.onlyQueues(), ".*System V shared memory.*"))
}

// TestNoQueues proves that the ipc namespace of other apps is saved by CRIU.
func TestNoQueues(t *testing.T) {
	r := launch(t, "shm")
	o := r.begun(t, snapshot.End)
	before := len(o.External)
	qt.Assert(t, qt.IsNil(o.keepQueues(t.Context(), r.Subject)))
	qt.Check(t, qt.HasLen(o.External, before))
	kept, err := r.Box.KeepsIPC()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsFalse(kept))
	qt.Check(t, qt.IsNil(r.onlyQueues())) // System V objects alone are saved
}

// TestRoomForCRIU proves that an app at its limit of processes can be restored, and has its limit
// afterwards.
func TestRoomForCRIU(t *testing.T) {
	r := launch(t)
	qt.Assert(t, qt.Equals(r.limit(t), "100"))
	tighten, err := r.tools.makeRoom(r.Subject)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(r.limit(t), "1124"))
	tighten()
	qt.Check(t, qt.Equals(r.limit(t), "100"))
}

// TestPlaceOfAnApp proves that an app is restored where it was.
func TestPlaceOfAnApp(t *testing.T) {
	r := launch(t)
	p, err := r.place(r.ns)
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(sandbox.Streams(p.Stdio).Close())) })
	qt.Check(t, qt.Equals(p.Root, r.Box.Root()))
	qt.Check(t, qt.Equals(p.Binds["/data"], r.data))
	qt.Check(t, qt.Equals(p.Binds[mqueue.Mount], r.Box.Queues()))
	qt.Check(t, qt.IsFalse(p.IPC))
	pids, err := p.PIDs()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(pids, []int{r.PID}))
	qt.Check(t, qt.IsTrue(r.has(r.PID)))
	qt.Check(t, qt.IsFalse(r.has(os.Getpid())))
}
