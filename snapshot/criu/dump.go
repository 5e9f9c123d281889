package criu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/checkpoint-restore/go-criu/v8/rpc"
)

// DumpLog is the name of CRIU's log in the work directory.
const DumpLog = "dump.log"

// DumpOptions says what [Client.Dump] saves and what becomes of the tasks.
type DumpOptions struct {
	PID          int      // the root task
	Images       string   // an existing directory
	WorkDir      string   // an existing directory for what is written after Saved: log and statistics
	Root         string   // the root directory of the root task, as the caller sees it
	FreezeCgroup string   // the cgroup v2 directory that holds exactly these tasks, frozen by Begin at the latest
	External     []string // CRIU's --external values
	LeaveRunning bool     // let the tasks go on (frozen, if FreezeCgroup was) afterwards
	Guard        *os.File // CRIU keeps it open until it ends, even if the caller dies; may be nil

	// Start starts the CRIU process on a thread of the caller's choice; nil:
	// cmd.Start. A namespace that CRIU shares with the tasks is not saved, and
	// the tasks are restored into the one that CRIU is started in then.
	Start func(*exec.Cmd) error
	// Begin is called when CRIU has started and is about to look at the tasks,
	// so that its start is not part of the time they stand still.
	Begin func(ctx context.Context) error
	// Unseen is called after Begin and returns what sock_diag(7) says of unix
	// sockets of the tasks, and of their peers, that are not in CRIU's network
	// namespace: CRIU would not find them. May be nil.
	Unseen func() [][]byte
	// Saved is called once everything is in Images and before the tasks
	// end or go on. If it fails, they go on, whatever LeaveRunning says,
	// and Dump returns its error. This is the point of no return.
	Saved func(ctx context.Context) error
	// Done is called when CRIU has let go of the tasks, but has yet to end.
	Done func() error
}

// Dump saves a process tree. It leaves TCP alone: connections are saved as
// closed, the network is not locked, connections not yet accepted are skipped.
//
// If ctx ends before Saved has returned, the tasks go on at once, also from the middle of their
// memory, and Dump returns why ctx ended (context.Cause). Returns an error wrapping *Error if CRIU
// failed; the tasks then go on.
func (c Client) Dump(ctx context.Context, o DumpOptions) (err error) {
	dir, err := os.Open(o.Images)
	if err != nil {
		return fmt.Errorf("open images directory: %w", err)
	}
	defer dir.Close() //nolint:errcheck // only read from
	work, err := os.Open(o.WorkDir)
	if err != nil {
		return fmt.Errorf("open work directory: %w", err)
	}
	defer work.Close() //nolint:errcheck // only read from
	s, err := c.start(ctx, process{files: files(o.Guard), start: o.Start, ends: true})
	if err != nil {
		return err
	}
	told := func() error { return nil }
	defer func() { err = errors.Join(err, s.close(), told()) }()
	settled := s.giveUpWhen(ctx)
	defer settled()

	opts := c.commonOpts(DumpLog, dir)
	opts.WorkDirFd = dirFD(work)
	opts.Pid = new(int32(o.PID))
	opts.Root = new(o.Root)
	opts.FreezeCgroup = new(o.FreezeCgroup)
	opts.External = o.External
	opts.LeaveRunning = new(o.LeaveRunning)
	opts.LinkRemap = new(true)
	opts.IrmapScanPaths = watchedPaths()
	opts.TcpSkipInFlight = new(true)
	opts.GhostLimit = new(uint32(1 << 30))
	opts.NotifyScripts = new(true)

	begin := func() error {
		if o.Begin != nil {
			if err := o.Begin(ctx); err != nil {
				return err
			}
		}
		if o.Unseen == nil {
			return nil
		}
		sockets := o.Unseen()
		if len(sockets) == 0 {
			return nil
		}
		wait, err := tellUnseen(s.cmd.Process.Pid, sockets)
		if err == nil {
			told = wait
		}
		return err
	}
	saved := false
	resp, err := s.roundTrip(&rpc.CriuReq{Type: new(rpc.CriuReqType_DUMP), Opts: opts}, func(script string, _ int) error {
		if ctx.Err() != nil && !saved {
			return context.Cause(ctx)
		}
		switch script {
		case "pre-dump":
			return begin()
		case "post-dump":
			if o.Saved != nil {
				if err := o.Saved(ctx); err != nil {
					return err
				}
			}
			if saved = settled(); !saved {
				return context.Cause(ctx)
			}
		}
		return nil
	})
	if o.Done != nil {
		err = errors.Join(err, o.Done())
	}
	if !settled() && resp != nil && !resp.GetSuccess() {
		return fmt.Errorf("criu dump: %w", because(ctx, err))
	}
	if err != nil || !resp.GetSuccess() {
		e := failure("dump", resp, filepath.Join(o.WorkDir, DumpLog), err)
		e.Alone = !s.refused
		return e
	}
	return nil
}

// because is why a request failed whose ctx has ended: what it failed with, unless that says only
// that ctx has ended.
func because(ctx context.Context, err error) error {
	if err == nil || errors.Is(err, ctx.Err()) {
		return context.Cause(ctx)
	}
	return err
}

// watchedPaths are where CRIU looks for what an inotify watch of the app is on,
// besides its own few hints. An overlay has no file handles by which CRIU could
// find it (fsnotify.c, check_open_handle; irmap.c, hints). CRIU searches them in
// this order, and only if there is such a watch.
func watchedPaths() []string {
	return []string{"/tmp", "/run", "/srv", "/app", "/opt", "/home", "/root", "/var/lib", "/var/www", "/var/tmp", "/usr/local", "/etc"}
}

// commonOpts are the options of a dump and of the restore from it.
func (c Client) commonOpts(logFile string, images *os.File) *rpc.CriuOpts {
	return &rpc.CriuOpts{
		ImagesDirFd:       dirFD(images),
		LogLevel:          new(cmp.Or(c.LogLevel, 2)),
		LogFile:           new(logFile),
		TcpClose:          new(true),
		NetworkLock:       new(rpc.CriuNetworkLockMethod_SKIP),
		ManageCgroups:     new(true),
		ManageCgroupsMode: new(rpc.CriuCgMode_IGNORE),
		FileLocks:         new(true),
		OrphanPtsMaster:   new(true),
	}
}

// dirFD names a directory of ours: CRIU opens it as /proc/PID/fd/N of its
// client, other than inherited descriptors, which are its own.
func dirFD(dir *os.File) *int32 { return new(int32(dir.Fd())) }

// files lists the files that are there.
func files(some ...*os.File) []*os.File {
	return slices.DeleteFunc(some, func(f *os.File) bool { return f == nil })
}
