package criu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/checkpoint-restore/go-criu/v8/rpc"
	"golang.org/x/sync/errgroup"
)

// RestoreLog is the name of CRIU's log in the work directory.
const RestoreLog = "restore.log"

// Inherit is a descriptor that takes the place of a saved file.
type Inherit struct {
	Key  string // as in --inherit-fd fd[N]:KEY
	File *os.File
}

// StartOptions says how the CRIU process of a restore is started.
type StartOptions struct {
	Files []*os.File // what it may be told to inherit
	Guard *os.File   // as in DumpOptions
	// Start starts the CRIU process in the cgroup and the namespaces that the
	// tasks are to inherit; nil: cmd.Start.
	Start func(*exec.Cmd) error
}

// RestoreOptions says where [Restore.Run] puts the tasks.
type RestoreOptions struct {
	Images   string // a directory of images, or a view of one
	WorkDir  string // an existing directory for CRIU's log
	Root     string // the mounted root directory
	External []string
	Inherit  []Inherit // of StartOptions.Files

	// Connect makes the network namespace ready that the sockets are to be in. It is
	// called when CRIU has been told what to restore, and CRIU makes no socket before
	// it has returned. If it fails, so does the restore. May be nil.
	Connect func(ctx context.Context) error
	// Placed is called when the first task, whose process id it is given, is in its
	// namespaces, with all mounts, and before there is another one. May be nil.
	Placed func(pid int) error
	// Ready is called when every task is in place and about to run. If it
	// fails, the tasks are killed. Afterwards ctx is not looked at.
	Ready func(ctx context.Context, pid int) error
	// Resuming is called right before the tasks run: if CRIU fails before
	// that they never have.
	Resuming func()
}

// Restore is a CRIU process that has yet to be told what it restores. To execute
// and link it takes some 5 ms, in which the caller can make the rest ready.
type Restore struct {
	c       Client
	s       *session
	numbers map[*os.File]int32 // the descriptors that it has of the files
}

// StartRestore starts a CRIU process. The caller closes it.
func (c Client) StartRestore(ctx context.Context, o StartOptions) (*Restore, error) {
	extra := append(files(o.Guard), o.Files...)
	r := &Restore{c: c, numbers: make(map[*os.File]int32, len(extra))}
	for i, f := range extra {
		r.numbers[f] = int32(firstExtraFile + 1 + i)
	}
	var err error
	if r.s, err = c.start(ctx, process{files: extra, start: o.Start}); err != nil {
		return nil, err
	}
	return r, nil
}

// Close kills the CRIU process, unless Run was called. A second call does nothing.
func (r *Restore) Close() error {
	s := r.s
	r.s = nil
	if s == nil {
		return nil
	}
	s.kill() // it has done nothing yet
	return s.close()
}

// Run makes the saved tasks again and returns the process id of the root task,
// which is a child of the caller. It is called once, and ends the CRIU process.
//
// If ctx ends before the tasks are ready CRIU is killed; the caller then kills what it left in the cgroup.
// Returns an error wrapping *Error if CRIU failed.
func (r *Restore) Run(ctx context.Context, o RestoreOptions) (pid int, err error) {
	s := r.s
	r.s = nil
	defer func() { err = errors.Join(err, s.close()) }()
	stop := context.AfterFunc(ctx, s.kill)
	defer stop()
	images, err := os.Open(o.Images)
	if err != nil {
		return 0, fmt.Errorf("open images directory: %w", err)
	}
	defer images.Close() //nolint:errcheck // only read from
	work, err := os.Open(o.WorkDir)
	if err != nil {
		return 0, fmt.Errorf("open work directory: %w", err)
	}
	defer work.Close() //nolint:errcheck // only read from

	opts := r.c.commonOpts(RestoreLog, images)
	opts.WorkDirFd = dirFD(work)
	opts.Root = new(o.Root)
	opts.External = o.External
	opts.RstSibling = new(true)
	opts.NotifyScripts = new(true)
	// A program on the host may have been upgraded or a log have grown;
	// its size is still checked.
	opts.SkipFileRwxCheck = new(true)
	for _, in := range o.Inherit {
		fd, ok := r.numbers[in.File]
		if !ok {
			return 0, fmt.Errorf("inherit %s: criu was started without it", in.Key)
		}
		opts.InheritFd = append(opts.InheritFd, &rpc.InheritFd{Key: new(in.Key), Fd: new(fd)})
	}

	var connect errgroup.Group
	if o.Connect != nil {
		connect.Go(func() error { return o.Connect(ctx) })
	}
	defer func() {
		if cerr := connect.Wait(); cerr != nil && !errors.Is(err, cerr) {
			err = errors.Join(err, cerr)
		}
	}()
	resumed := false
	root := 0
	resp, err := s.roundTrip(&rpc.CriuReq{Type: new(rpc.CriuReqType_RESTORE), Opts: opts}, func(script string, p int) error {
		if script == "pre-resume" && o.Resuming != nil {
			o.Resuming()
		}
		if script == "setup-namespaces" {
			root = p // only here and in the end CRIU tells it (criu/cr-service.c, send_criu_rpc_script)
		}
		if script == "post-setup-namespaces" {
			// The tasks' files come next (criu/cr-restore.c, restore_root_task).
			if err := connect.Wait(); err != nil || o.Placed == nil {
				return err
			}
			return o.Placed(root)
		}
		if script != "post-restore" {
			return nil
		}
		if err := connect.Wait(); err != nil { // there were no namespaces to set up
			return err
		}
		if !stop() {
			return context.Cause(ctx)
		}
		if o.Ready != nil {
			if err := o.Ready(ctx, p); err != nil {
				return err
			}
		}
		resumed = true
		s.endIfStuck(p, stuckAfter)
		return nil
	})
	if cause := context.Cause(ctx); cause != nil && !resumed {
		err = errors.Join(cause, err)
	}
	if err != nil || !resp.GetSuccess() {
		return 0, failure("restore", resp, filepath.Join(o.WorkDir, RestoreLog), err)
	}
	return int(resp.GetRestore().GetPid()), nil
}
