package freezer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// ErrUnseizable is a process that can't be traced while it is frozen.
var ErrUnseizable = errors.New("process can't be seized")

const (
	seizeTime  = 5 * time.Second      // for all processes to be seizable
	seizePause = 2 * time.Millisecond // in which they go on, between two looks
)

// FreezeSeizable is Freeze at a moment when every process can be seized by a
// tracer. One that waits for the child that it made by vfork(2) can't: the
// wait is killable and no more (kernel/fork.c, wait_for_vfork_done), so it
// counts as frozen and yet never stops for a tracer, until the child goes on.
// CRIU would wait ten seconds for it. A shell makes most of its children so.
//
// Returns an error wrapping ErrUnseizable, and lets all go on, if there is no
// such moment for five seconds.
func (c Cgroup) FreezeSeizable(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, seizeTime, ErrUnseizable)
	defer cancel()
	for {
		if err := c.Freeze(ctx); err != nil {
			return errors.Join(context.Cause(ctx), err)
		}
		pid, err := c.unseizable()
		if err == nil && pid == 0 {
			return nil
		}
		if err := errors.Join(err, c.Thaw()); err != nil {
			return err
		}
		pause := time.NewTimer(seizePause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return fmt.Errorf("freeze process %d, which waits for a child: %w", pid, context.Cause(ctx))
		}
	}
}

// unseizable finds a process of which a thread sleeps uninterruptibly.
func (c Cgroup) unseizable() (pid int, err error) {
	pids, err := c.PIDs()
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		dir := filepath.Join("/proc", strconv.Itoa(pid), "task")
		threads, err := os.ReadDir(dir)
		if err != nil {
			continue // it has ended
		}
		for _, thread := range threads {
			b, err := os.ReadFile(filepath.Join(dir, thread.Name(), "stat"))
			if err != nil {
				continue // it has ended
			}
			// The second field, in parentheses, may hold anything.
			if rest := b[bytes.LastIndexByte(b, ')')+1:]; len(rest) > 1 && rest[1] == 'D' {
				return pid, nil
			}
		}
	}
	return 0, nil
}
