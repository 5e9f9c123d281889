package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/criu"
	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/openfile"
	"github.com/snapctl/snapctl/snapshot/image/pty"
	"github.com/snapctl/snapctl/snapshot/image/timing"
	"github.com/snapctl/snapctl/snapshot/memory"
)

// Held is a live socket, eventfd or inotify instance that takes the place of a
// saved one. The caller keeps and closes the file.
type Held struct {
	Inode uint64 // of a socket, that it had when it was saved: its name in the images
	// At is where a process had it open, if it is no socket.
	At   image.DescriptorRef
	File *os.File
}

// Place is where the processes are put: what the manifest calls external, as
// it is on this host.
type Place struct {
	Root  string            // the mounted root directory
	Lower string            // the host's directory below it, from which files may be missing that the snapshot has kept
	Net   *os.File          // the network namespace, in which Options.Start starts CRIU
	IPC   bool              // Options.Start starts CRIU in the app's ipc namespace, too
	Dev   string            // the mount for /dev
	Binds map[string]string // mount path inside the app -> source on the host
	Stdio [3]*os.File       // the standard streams; nil if the saved ones were the app's own
	// PIDs lists the processes in the cgroup, as this process numbers them.
	PIDs func() ([]int, error)
	Work string // an existing directory for CRIU's log
	View string // an existing directory, best on a tmpfs: links on the snapshot's file system would change its files' ctime, see snapshot.Dir.Open; what a crash leaves there, snapshot.Sweep removes
}

// Options says what [Run] restores.
type Options struct {
	Snapshot snapshot.Dir
	Manifest *snapshot.Manifest
	Place    Place
	Held     []Held
	Memory   *memory.Store // of the memory files that the manifest names
	Pages    Pages
	// HostFiles has the files of the host that the manifest names.
	HostFiles *hostfile.Store
	// TimersGoOn has the clocks and timers of the processes count the time since they were
	// saved; see [timing.Clocks].
	TimersGoOn bool
	// AcceptChanged has files of binds made that are gone and that the processes could
	// only read.
	AcceptChanged bool
	Hostname      string // empty: the saved one
	// Guard and Start are as in criu.StartOptions.
	Guard *os.File
	Start func(*exec.Cmd) error

	Hooks
}

// Hooks are what [Run] calls on its way.
type Hooks struct {
	// Meanwhile is called while CRIU starts, before the images and the place are
	// looked at but for its cgroup and namespaces, Stdio, Work and View; may be nil.
	Meanwhile func(ctx context.Context) error
	// Connect, Ready and Resuming are as in criu.RestoreOptions.
	Connect  func(ctx context.Context) error
	Ready    func(ctx context.Context, pid int) error
	Resuming func()
	// Step is told the name of each step as it begins; may be nil.
	Step func(name string)
	// Lost is told what the processes will not have again, and what can be done about it;
	// may be nil.
	Lost func(text, remedy string)
	// Note is told what comes back otherwise than it was, and the remedy if there is one;
	// may be nil.
	Note func(text, remedy string)
}

// Pages says how memory comes back.
type Pages int

const (
	// Map maps memory files copy on write where that can be, which takes no
	// longer for much memory than for little. Where the store's files can't be
	// mapped (memory.Store.Mappable) it is Copy.
	Map Pages = iota
	// Copy has CRIU copy every page. The processes then share no memory with the
	// snapshot.
	Copy
)

// pagesTexts are the names of the ways.
var pagesTexts = map[Pages]string{Map: "mapped", Copy: "copied"}

// String is the name of the way.
func (p Pages) String() string {
	if text, ok := pagesTexts[p]; ok {
		return text
	}
	return "Pages(" + strconv.Itoa(int(p)) + ")"
}

// MarshalText implements [encoding.TextMarshaler].
func (p Pages) MarshalText() ([]byte, error) {
	if _, ok := pagesTexts[p]; !ok {
		return nil, fmt.Errorf("encode %s: no such way for memory to come back", p)
	}
	return []byte(p.String()), nil
}

// UnmarshalText implements [encoding.TextUnmarshaler].
func (p *Pages) UnmarshalText(text []byte) error {
	for one, name := range pagesTexts {
		if name == string(text) {
			*p = one
			return nil
		}
	}
	return fmt.Errorf("restore memory %q: want mapped or copied", text)
}

// ErrIncomplete is a place that lacks something the snapshot needs.
var ErrIncomplete = errors.New("restore place is incomplete")

// Run restores the processes and returns the root process's id on the host. If
// it fails the caller kills what is left in the cgroup that Start chose;
// snapshot and held sockets are as before. The error wraps *criu.Error if CRIU
// was the cause.
//
// It needs what CRIU needs, see package criu.
func Run(ctx context.Context, c criu.Client, o Options) (pid int, err error) {
	plan, err := NewPlan(o.Manifest, o.Held)
	if err != nil {
		return 0, err
	}
	if err := plan.openMemory(o); err != nil {
		return 0, err
	}
	defer plan.closeMemory()
	if err := plan.openLent(); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, plan.closeLent()) }()
	if err := plan.openStreams(o.Place); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, plan.streams.close()) }()
	if err := plan.openHostFiles(ctx, o); err != nil {
		return 0, err
	}
	defer plan.host.close()
	if err := plan.makeTerminals(o); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, plan.terminals.close()) }()
	step(o.Step, "start criu")
	started, err := c.StartRestore(ctx, criu.StartOptions{Files: plan.files(), Guard: o.Guard, Start: o.Start})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, started.Close()) }()
	if o.Meanwhile != nil {
		if err := o.Meanwhile(ctx); err != nil {
			return 0, err
		}
	}
	step(o.Step, "prepare images")
	images, drop, err := prepare(ctx, o, plan)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, plan.terminals.serve(), drop()) }() // not the other way round: it stops by the view's files
	ro, err := plan.options(o.Place)
	if err != nil {
		return 0, err
	}
	ro.Images, ro.WorkDir, ro.Root = images, o.Place.Work, o.Place.Root
	ro.Connect, ro.Ready, ro.Resuming = o.Connect, plan.terminals.ready(plan.setOwners(o.Place, plan.keepSize(o.Place, o.Ready))), o.Resuming
	ro.Placed = plan.terminals.attach
	step(o.Step, "restore processes")
	pid, err = started.Run(ctx, ro)
	if err != nil {
		return 0, fmt.Errorf("restore %s: %w", o.Manifest.App, err)
	}
	plan.told.Tell()
	return pid, nil
}

// prepare returns the directory of images that CRIU reads, and a function that
// removes it: a view in which held sockets are files that
// CRIU inherits, memory is mapped, /dev/tty is the terminal that
// it leads to, timers of the first thread are its own, and all timers and clocks are as
// they should be now.
func prepare(ctx context.Context, o Options, plan *Plan) (dir string, drop func() error, err error) {
	terminals, err := pty.HasControl(o.Snapshot.Images())
	if err != nil {
		return "", nil, err
	}
	timers, err := timing.StrayTimers(o.Snapshot.Images())
	if err != nil {
		return "", nil, err
	}
	dir, err = os.MkdirTemp(o.Place.View, ".partial-view-")
	if err != nil {
		return "", nil, fmt.Errorf("make view: %w", err)
	}
	view, err := image.NewView(ctx, o.Snapshot.Images(), dir)
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, view.Remove())
		}
	}()
	replaced, err := openfile.ReplaceSockets(ctx, view, plan.Keys)
	if err != nil {
		return "", nil, err
	}
	files, err := openfile.Replace(ctx, view, plan.Files)
	if err != nil {
		return "", nil, err
	}
	plan.keep(replaced, files)
	if err = openfile.MoveSockets(view, plan.moved()); err != nil {
		return "", nil, err
	}
	if err = plan.setWatches(view, o); err != nil {
		return "", nil, err
	}
	if err = plan.editOwners(view, o); err != nil {
		return "", nil, err
	}
	if terminals {
		if err = pty.Place(ctx, view, plan.Terminals); err != nil {
			return "", nil, err
		}
	}
	if err = plan.terminals.inherit(ctx, view); err != nil {
		return "", nil, err
	}
	if err = timing.PlaceTimers(view, timers); err != nil {
		return "", nil, err
	}
	if err = timing.SetClocks(view, timing.Clocks{SavedAt: o.Manifest.SavedAt, Now: time.Now(), GoOn: o.TimersGoOn}); err != nil {
		return "", nil, err
	}
	if err = timing.RestartPolls(view); err != nil {
		return "", nil, err
	}
	if o.Hostname != "" {
		if err = view.SetHostname(o.Hostname); err != nil {
			return "", nil, err
		}
	}
	if err = plan.editHostFiles(ctx, view); err != nil {
		return "", nil, err
	}
	if err = plan.editBindFiles(ctx, view, o); err != nil {
		return "", nil, err
	}
	if err = plan.editMemory(ctx, view, o); err != nil {
		return "", nil, err
	}
	if err = plan.terminals.lead(view, o); err != nil { // last: it takes images out of the view
		return "", nil, err
	}
	return dir, view.Remove, nil
}

func step(tell func(string), name string) {
	if tell != nil {
		tell(name)
	}
}
