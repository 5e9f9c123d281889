package checkpoint

import (
	"context"
	"errors"
	"log/slog"
	"os/exec"
	"slices"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/checkpoint/netstate"
	"github.com/snapctl/snapctl/runtime/process"
	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/settings"
	"github.com/snapctl/snapctl/snapshot/sysv"
	"github.com/snapctl/snapctl/vem/netns"
	"github.com/snapctl/snapctl/vem/sockopt"
	"github.com/snapctl/snapctl/vem/tcprepair"
)

// Revival says what processes are made of, and how.
type Revival struct {
	From     snapshot.Dir
	Manifest *snapshot.Manifest
	Pages    restore.Pages
	Hostname string // empty: the saved one
	// Frozen processes do not run before they are thawed.
	Frozen     bool
	TimersGoOn bool // as in restore.Options
	// Connections are made again; those that are held are not among them.
	Connections []tcprepair.Connection
	// Options are those of sockets that CRIU makes; nil if there are none. It is called
	// when what is restored has been checked.
	Options func() (sockopt.Saved, error)
	Step    func(name string) // is told the name of each step as it begins
	// At is as in [Saving]: it is called before CRIU is started.
	At func(ctx context.Context, step string) error
	// Enclose makes as much of the sandbox as there must be before CRIU is started, and
	// returns its network namespace, which Revive closes.
	Enclose func(ctx context.Context) (*netns.NS, error)
	// SetNetwork has the app's own network settings made again, for they are not there.
	// With Connect that is always done.
	SetNetwork bool
	// Meanwhile is called while CRIU starts: it makes the rest of the sandbox, and checks
	// what is restored. nil if nothing is left to do.
	Meanwhile func(ctx context.Context) error
	// Connect connects the network, before CRIU makes sockets; nil if it is.
	Connect func(ctx context.Context, ns *netns.NS) error
	// Ready is called when everything is as it was, and the processes, of which pid is the
	// first, are about to run: the last moment at which an error ends them. May be nil.
	Ready func(ctx context.Context, pid int) error
}

// Revive makes the processes of a saved app, with the sockets that are held. If it fails no
// process is left, and what is held is as before. The caller closes the process.
func (t *Tools) Revive(ctx context.Context, s *Subject, r Revival) (_ *process.Process, err error) {
	r.Step("prepare sandbox")
	ns, err := r.Enclose(ctx)
	if err != nil {
		return nil, err
	}
	defer ns.Close() //nolint:errcheck // a handle
	var connect func(context.Context) error
	if r.Connect != nil {
		connect = func(ctx context.Context) error {
			if err := r.Connect(ctx, ns); err != nil {
				return err
			}
			return s.NetState().SetSettings(ns, r.From)
		}
	} else if r.SetNetwork {
		if err := s.NetState().SetSettings(ns, r.From); err != nil {
			return nil, err
		}
	}
	if err := s.restoreQueues(r.Manifest); err != nil {
		return nil, err
	}
	place, err := s.place(ns)
	if err != nil {
		return nil, err
	}
	defer sandbox.Streams(place.Stdio).Close() //nolint:errcheck // the app has its own
	g, err := openGuard(s)
	if err != nil {
		return nil, err
	}
	defer g.Close() //nolint:errcheck // a lock
	defer func() {
		if err != nil {
			err = errors.Join(err, s.cgroup().Kill(context.WithoutCancel(ctx)), process.Reap(s.Box.Cgroup().Name()))
		}
	}()
	held, drop, err := s.sockets(r.Manifest, r.From.Images())
	if err != nil {
		return nil, err
	}
	defer drop()
	if len(r.Connections) > 0 && connect != nil { // their sockets are made before CRIU's start
		if err := connect(ctx); err != nil {
			return nil, err
		}
		connect = nil
	}
	again, err := netstate.Reconnect(ctx, ns, r.Connections)
	if err != nil {
		return nil, err
	}
	defer again.Close() //nolint:errcheck // the processes have the sockets, or nobody may
	held = append(held, again.Held()...)
	locks, unlock, err := s.neededLocks(r.Manifest, r.From.Images(), held)
	defer func() { unlock() }()
	if err != nil {
		return nil, err
	}
	if err := awaitLocks(ctx, locks, r.Step); err != nil {
		return nil, err
	}
	tighten, err := t.makeRoom(s)
	if err != nil {
		return nil, err
	}
	defer tighten()
	return t.run(ctx, s, &r, restore.Options{
		Snapshot: r.From, Manifest: r.Manifest, Place: *place, Held: held, Memory: t.Memory, HostFiles: t.HostFiles, Pages: r.Pages,
		AcceptChanged: s.AcceptChanged, TimersGoOn: r.TimersGoOn, Hostname: r.Hostname, Guard: g.File,
		Start: func(cmd *exec.Cmd) error { return s.Box.StartInside(ns, cmd) },
		Hooks: restore.Hooks{
			Meanwhile: r.Meanwhile, Connect: connect, Step: r.Step, Note: s.Note, Lost: s.Note,
			Ready: func(ctx context.Context, pid int) error { return s.complete(ctx, ns, &r, again, pid) },
		},
	}, locks)
}

// run runs CRIU. o lacks what is called when CRIU starts, and when it lets the processes run.
func (t *Tools) run(ctx context.Context, s *Subject, r *Revival, o restore.Options, locks []restore.Lock) (_ *process.Process, err error) {
	resuming := false
	var criuPID int
	var ferr error
	start := o.Start
	o.Start = func(cmd *exec.Cmd) error {
		if err := r.At(ctx, "starting"); err != nil {
			return err
		}
		err := start(cmd)
		if err == nil {
			criuPID = cmd.Process.Pid
		}
		return err
	}
	o.Resuming = func() {
		resuming = true
		if r.Frozen {
			ferr = t.freezeRestored(s, criuPID)
		}
	}
	guarded, quit := s.guardLocks(ctx, locks)
	defer quit()
	pid, err := restore.Run(guarded, t.CRIU, o)
	if err == nil {
		err = ferr // the processes run, and should not: they are ended
	}
	if err != nil && resuming && !r.Frozen {
		// CRIU has failed so late that the app may have run all the same.
		pids, perr := s.cgroup().PIDs()
		proc, oerr := process.OpenRoot(pids)
		if perr = errors.Join(perr, oerr); proc != nil || perr != nil {
			t.Log.ErrorContext(ctx, "CRIU failed after resuming", slog.String("app", s.Name), slog.Any("error", err))
			return proc, perr
		}
	}
	if err != nil {
		return nil, err
	}
	return process.Open(pid)
}

// complete is called when all processes are there, of which pid is the first, and none runs.
// It does what CRIU does not.
func (s *Subject) complete(ctx context.Context, ns *netns.NS, r *Revival, again *netstate.Reconnection, pid int) error {
	if err := again.Release(); err != nil {
		return err
	}
	if r.Options != nil {
		saved, err := r.Options()
		if err != nil {
			return err
		}
		if err := s.NetState().SetOptions(ctx, ns, pid, saved); err != nil {
			return err
		}
	}
	s.fillTerminals(r.Manifest)
	if err := s.setAgain(r.Manifest, pid); err != nil || r.Ready == nil {
		return err
	}
	return r.Ready(ctx, pid)
}

// setAgain sets what CRIU does not: the settings of the processes that were restored, and
// marks of System V objects. A setting that this host does not allow is a note, and no reason
// to fail.
func (s *Subject) setAgain(m *snapshot.Manifest, pid int) error {
	if len(m.Settings) == 0 && m.SystemV == nil {
		return nil
	}
	pids, err := s.cgroup().PIDs()
	if err != nil {
		return err
	}
	notes, err := settings.Apply(pids, m.Settings)
	if err != nil {
		return err
	}
	marks, err := sysv.Apply(pid, m.SystemV)
	if err != nil {
		return err
	}
	for _, n := range slices.Concat(notes, marks) {
		s.Note(n, "")
	}
	return nil
}

// freezeRestored freezes processes that CRIU is about to let run. They are stopped by ptrace
// still. CRIU is in their cgroup, and is moved out of it first, since it must not be frozen
// with them.
func (t *Tools) freezeRestored(s *Subject, criuPID int) error {
	if err := t.Cgroups.Expel(criuPID); err != nil {
		return err
	}
	return s.cgroup().Begin()
}

// heldFiles are the descriptors that are held.
func (s *Subject) heldFiles() []restore.Held {
	if s.Held == nil {
		return nil
	}
	held := make([]restore.Held, 0, len(s.Held.Sockets)+len(s.Held.Objects))
	for i := range s.Held.Sockets {
		held = append(held, restore.Held{Inode: s.Held.Sockets[i].ImageInode(), File: s.Held.Sockets[i].File})
	}
	for _, o := range s.Held.Objects {
		held = append(held, restore.Held{At: image.DescriptorRef(o.Owners[0]), File: o.File})
	}
	return held
}
