// Package process holds on to processes that are no children of the daemon any more, or
// never were: by a pidfd while the daemon runs, and by an identity across its restarts.
package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Process is the root process of an app. It is not bound to its parent: a
// daemon that was restarted opens it again by its id.
type Process struct {
	PID   int
	pidfd *os.File
}

// ExitStatus tells how a process ended.
type ExitStatus struct {
	Known    bool // false: ended while no daemon could see how
	Code     int  // the exit code, if it was not a signal
	Signal   int  // the signal that ended it, or 0
	ExitedAt time.Time
}

func (s ExitStatus) String() string {
	switch {
	case !s.Known:
		return "exit status unknown"
	case s.Signal != 0:
		return fmt.Sprintf("signal %d (%s)", s.Signal, unix.SignalName(unix.Signal(s.Signal)))
	default:
		return fmt.Sprintf("exit code %d", s.Code)
	}
}

// Open opens a running process. The caller closes it. Needs Linux 5.10.
func Open(pid int) (*Process, error) {
	// Non-blocking, so that Go's poller waits for it (pidfd_open(2), Linux 5.10).
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	return &Process{PID: pid, pidfd: os.NewFile(uintptr(fd), "pidfd")}, nil
}

// Close releases the descriptor; the process goes on.
func (p *Process) Close() error { return p.pidfd.Close() }

// Signal sends a signal to the process. Returns an error wrapping
// os.ErrProcessDone if it has ended.
func (p *Process) Signal(sig unix.Signal) error {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := raw.Control(func(fd uintptr) { serr = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return err
	}
	if errors.Is(serr, unix.ESRCH) {
		return os.ErrProcessDone
	}
	if serr != nil {
		return fmt.Errorf("signal process %d: %w", p.PID, serr)
	}
	return nil
}

// Wait returns when the process has ended, and reaps it if it is a child of
// this process. Returns an error wrapping os.ErrClosed once Close was called.
func (p *Process) Wait() (ExitStatus, error) {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return ExitStatus{}, err
	}
	var status ExitStatus
	err = raw.Read(func(fd uintptr) bool {
		if !hasEnded(fd) {
			return false
		}
		status = reap(int(fd))
		return true
	})
	if err != nil {
		return ExitStatus{}, fmt.Errorf("wait for process %d: %w", p.PID, err)
	}
	return status, nil
}

// hasEnded asks a pidfd. A signal of the Go runtime's own may interrupt poll(2), also one
// that does not wait; nobody would ask again then.
func hasEnded(pidfd uintptr) bool {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0)
		if !errors.Is(err, unix.EINTR) {
			return n > 0 && err == nil
		}
	}
}

// reap reads how an ended process ended.
func reap(pidfd int) ExitStatus {
	s := ExitStatus{ExitedAt: time.Now()}
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PIDFD, pidfd, &info, unix.WEXITED, nil); err == nil {
		// siginfo_t of SIGCHLD, sigaction(2): pid, uid, then the status.
		fields := (*[4]int32)(unsafe.Add(unsafe.Pointer(&info), siginfoPayload))
		s.Known = true
		if info.Code == 1 { // CLD_EXITED
			s.Code = int(fields[2])
		} else {
			s.Signal = int(fields[2])
		}
		return s
	}
	// Not a child of ours: the kernel keeps the status for holders of a
	// pidfd since Linux 6.15 (PIDFD_INFO_EXIT).
	if wait, ok := pidfdExit(pidfd); ok {
		s.Known = true
		if wait.Signaled() {
			s.Signal = int(wait.Signal())
		} else {
			s.Code = wait.ExitStatus()
		}
	}
	return s
}

// siginfoPayload is the offset of siginfo_t's union on 64-bit systems.
const siginfoPayload = 16

// pidfdInfo is struct pidfd_info of <linux/pidfd.h>, version 1.
type pidfdInfo struct {
	mask     uint64
	cgroupID uint64
	pids     [3]uint32
	ids      [8]uint32
	exitCode int32
}

const (
	pidfdInfoExit = 1 << 3
	pidfdGetInfo  = 0xc040ff0b // _IOWR(0xFF, 11, struct pidfd_info), 64 bytes
)

func pidfdExit(pidfd int) (unix.WaitStatus, bool) {
	info := pidfdInfo{mask: pidfdInfoExit}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(pidfd), pidfdGetInfo, uintptr(unsafe.Pointer(&info)))
	if errno != 0 || info.mask&pidfdInfoExit == 0 {
		return 0, false
	}
	return unix.WaitStatus(info.exitCode), true
}

// Stop asks a process to end and, when ctx ends first, returns ctx's error; the
// process may then still run.
func (p *Process) Stop(ctx context.Context, sig unix.Signal, ended <-chan struct{}) error {
	if err := p.Signal(sig); err != nil {
		if errors.Is(err, os.ErrProcessDone) {
			return nil
		}
		return err
	}
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
