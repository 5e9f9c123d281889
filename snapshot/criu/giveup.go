package criu

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// A dump of much memory is one long write for CRIU, in which nobody can tell it anything; and a CRIU
// that is killed leaves its parasite in the tasks. But it can be made to fail: with a limit of zero
// bytes on the size of files (setrlimit(2), RLIMIT_FSIZE) its next write gets EFBIG, and it undoes
// what it did to the tasks, as it does when a disk is full.
//
// The signal that comes with the error, SIGXFSZ, ends a process that does not ignore it. What is
// ignored stays so in a program that is executed, so CRIU is started by a shell that ignores it.

// ignoring returns a command that runs CRIU with SIGXFSZ ignored.
func ignoring(ctx context.Context, path string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", `trap '' XFSZ; exec "$0" "$@"`, path}, args...)...)
}

// giveUp makes a process that ignores SIGXFSZ fail at its next write to a file. A process that does
// not ignore it would end, and is left alone: CRIU is told to stop when it asks the next time.
// The process must not have been waited for.
func giveUp(pid int) error {
	ignored, err := ignoresXFSZ(pid)
	if err != nil || !ignored {
		return err
	}
	if err := unix.Prlimit(pid, unix.RLIMIT_FSIZE, &unix.Rlimit{}, nil); err != nil {
		return fmt.Errorf("limit the files of process %d: %w", pid, err)
	}
	return nil
}

// ignoresXFSZ reads what signals a process ignores (proc_pid_status(5), SigIgn).
func ignoresXFSZ(pid int) (bool, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false, fmt.Errorf("read what process %d ignores: %w", pid, err)
	}
	_, rest, _ := bytes.Cut(status, []byte("\nSigIgn:"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	set, err := strconv.ParseUint(string(bytes.TrimSpace(line)), 16, 64)
	if err != nil {
		return false, fmt.Errorf("read what process %d ignores: %w", pid, err)
	}
	return set&(1<<(unix.SIGXFSZ-1)) != 0, nil
}

// giveUpWhen has CRIU give up when ctx ends, until settled is called. That returns false if ctx has
// ended: then CRIU may have failed already. Only the first call decides. The caller calls it before
// the session is closed.
func (s *session) giveUpWhen(ctx context.Context) (settled func() bool) {
	var done sync.WaitGroup
	done.Add(1)
	stop := context.AfterFunc(ctx, func() {
		defer done.Done()
		_ = giveUp(s.cmd.Process.Pid) // it is told when it asks the next time
	})
	return sync.OnceValue(func() bool {
		if stop() {
			return true
		}
		done.Wait()
		return false
	})
}
