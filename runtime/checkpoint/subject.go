// Package checkpoint saves an app by CRIU, and revives it, with all that CRIU can't save
// alone: sockets and what waits in them, unix sockets and files that lead out of the app,
// eventfds, message queues, terminals, memory files that are mapped, files of the host,
// watches, locks. What the app has in its network namespace is the business of its package
// netstate.
//
//	Preflight ─▶ Hibernate: images + what is held ─▶ Revive with what is held
//	          └▶ Copy:      images, files         ─▶ Revive anew, any number of times
//
// It keeps no state. An app comes in as a [Subject], what it is saved and revived with as
// [Tools]. What is to be done at a certain moment, while the app is frozen or before its
// processes run, is a function that is handed in. What is otherwise than before is told as
// notes.
package checkpoint

import (
	"log/slog"
	"path/filepath"
	"time"

	"github.com/snapctl/snapctl/runtime/cgroup"
	"github.com/snapctl/snapctl/runtime/checkpoint/netstate"
	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/criu"
	"github.com/snapctl/snapctl/snapshot/freezer"
	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/preflight"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/netconf"
)

// Tools are what the apps of a host are saved and revived with. They may be used for several
// apps at the same time.
type Tools struct {
	CRIU      criu.Client
	Cgroups   *cgroup.Tree
	Memory    *memory.Store
	Layers    *layer.Store
	HostFiles *hostfile.Store
	Log       *slog.Logger
	// Last finds an app's last snapshot, whose memory is not stored again; nil, or "": there is none.
	Last func(app string) snapshot.Dir
	Shortcuts
}

// DefaultCopyAhead is a size of memory, in MiB, that CRIU saves in some 30 ms: it is not worth while to
// copy less while the app runs.
const DefaultCopyAhead = 32

// Shortcuts say what has an app stand still for less time than CRIU takes alone. Each can be turned off.
type Shortcuts struct {
	// HideFrom is from how many TCP connections on those of an app are hidden from CRIU, see
	// package veil; 0: never.
	HideFrom int
	// CopyAhead is from how many MiB of private memory of a process on that is copied while the app runs,
	// see package ahead; 0: never.
	CopyAhead int
	// Tracer is the program that serves package inject, for CopyAhead.
	Tracer string
}

// Subject is an app that is saved or revived, as it is when the operation begins. Nobody else
// does anything with the app meanwhile.
type Subject struct {
	Name string // for messages
	Box  *sandbox.Sandbox
	PID  int // of its root process; 0 if it has no processes
	// Standard is what the app's network namespace has that was made for the app; its
	// addresses are those by which the app knows itself.
	Standard  netconf.Standard
	Held      *hold.Set       // what is held of the app; nil if it has processes, or lost what was held
	Layers    []layer.Ref     // below the app's own files
	Memory    []memory.File   // that its processes map
	HostFiles []hostfile.File // kept ones that its processes may map or have open
	Sessions  []Session       // that are going on in it
	// Accept are the protections that its processes may lose.
	Accept []preflight.Protection
	// AcceptChanged has files of binds made that are gone, see restore.Options.
	AcceptChanged bool
	// Note is told what the app has otherwise than before, or will have, and what can be done
	// about it, if anything can. It may be called by several at the same time.
	Note func(text, remedy string)
	// Failed is told an error that is no reason to fail, when the app runs already.
	Failed func(error)
}

// Session is one `snapctl exec` that is going on. Its processes are in the app's cgroup and
// namespaces, but not of the app: their parent is the daemon, and their input and output lead
// to it. So they are not saved.
type Session struct {
	PID   int // of its first process, on the host
	Args  []string
	Since time.Time
}

// NetState is the app, to package netstate.
func (s *Subject) NetState() *netstate.App {
	return &netstate.App{
		NetPath: s.Box.NetPath(), Standard: s.Standard, PIDs: s.cgroup().PIDs, Held: s.Held,
		Repair: filepath.Join(s.work(), "repair.json"), Note: s.Note,
	}
}

func (s *Subject) cgroup() freezer.Cgroup { return freezer.Cgroup(s.Box.Cgroup().Path()) }

// work is where CRIU writes its logs for the app.
func (s *Subject) work() string { return WorkDir(s.Box) }

// WorkDir is the directory in which CRIU works for an app. The caller makes it, together with
// the app's sandbox.
func WorkDir(box *sandbox.Sandbox) string { return filepath.Join(box.RunDir, "work") }
