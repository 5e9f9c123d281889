// Package process finds processes by what they belong to, and ends them by
// pidfd, so that a process id that was given to another one is never hit.
package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Proc is one process at one time.
type Proc struct {
	PID   int
	PPID  int
	Comm  string
	State byte   // as in proc_pid_stat(5): R, S, D, Z, ...
	Start uint64 // clock ticks since boot; with PID it names a process for ever
}

// ErrGone tells that there is no such process.
var ErrGone = errors.New("process is gone")

// Zombie tells that the process has ended and waits for its parent.
func (p Proc) Zombie() bool { return p.State == 'Z' || p.State == 'X' }

// Get reads one process. It returns an error wrapping ErrGone if there is none.
func Get(pid int) (Proc, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			err = ErrGone
		}
		return Proc{}, fmt.Errorf("read process %d: %w", pid, err)
	}
	return parse(string(b))
}

// parse reads a line of /proc/PID/stat. The name may hold spaces and
// parentheses: it ends at the last one.
func parse(stat string) (Proc, error) {
	open, end := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
	if open < 1 || end < open {
		return Proc{}, fmt.Errorf("parse process status %q", stat)
	}
	rest := strings.Fields(stat[end+1:])
	if len(rest) < 20 {
		return Proc{}, fmt.Errorf("parse process status %q", stat)
	}
	pid, err1 := strconv.Atoi(strings.TrimSpace(stat[:open]))
	ppid, err2 := strconv.Atoi(rest[1])
	start, err3 := strconv.ParseUint(rest[19], 10, 64) // field 22
	if err := errors.Join(err1, err2, err3); err != nil {
		return Proc{}, fmt.Errorf("parse process status: %w", err)
	}
	return Proc{PID: pid, PPID: ppid, Comm: stat[open+1 : end], State: rest[0][0], Start: start}, nil
}

// List returns all processes of the machine, in no order.
func List() ([]Proc, error) {
	names, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var all []Proc
	for _, name := range names {
		pid, err := strconv.Atoi(filepath.Base(name))
		if err != nil {
			continue // not a process
		}
		p, err := Get(pid)
		if errors.Is(err, ErrGone) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// Namespace returns the inode of a namespace ("net", "mnt", ...) of a process,
// or 0 if the process is gone or a zombie.
func Namespace(pid int, kind string) uint64 {
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/%s", pid, kind), &st); err != nil {
		return 0
	}
	return st.Ino
}

// Handle is a process that stays the same one even when its id is given away.
type Handle struct {
	pid int
	fd  int
}

// Open opens whoever has the id now. It returns an error wrapping ErrGone if
// nobody has. The caller closes the handle.
func Open(pid int) (*Handle, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		err = ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	return &Handle{pid: pid, fd: fd}, nil
}

// PID is the id under which the process was opened.
func (h *Handle) PID() int { return h.pid }

// Kill sends SIGKILL. A process that is gone is no error.
func (h *Handle) Kill() error {
	if err := unix.PidfdSendSignal(h.fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", h.pid, err)
	}
	return nil
}

// Wait waits until the process has ended, or ctx has.
func (h *Handle) Wait(ctx context.Context) error {
	if err := wait(ctx, h.fd); err != nil {
		return fmt.Errorf("wait for end of process %d: %w", h.pid, err)
	}
	return nil
}

// Close closes the handle.
func (h *Handle) Close() error { return unix.Close(h.fd) }

// wait returns when the process of a pidfd has ended: it polls readable then,
// pidfd_open(2). The end of ctx is looked at ten times a second.
func wait(ctx context.Context, pidfd int) error {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 100)
		switch {
		case n > 0:
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
}
