package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNoDaemon tells that the host has no running daemon.
var ErrNoDaemon = errors.New("no daemon runs on this host")

const (
	readyTime  = 30 * time.Second     // for a daemon to answer
	readyPoll  = 5 * time.Millisecond // between looks at its socket
	shownLines = 200                  // of its log in a failure
)

// daemon is one run of snapctld.
type daemon struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // set before done is closed
}

// wait waits for the daemon's end.
func (d *daemon) wait(ctx context.Context) error {
	select {
	case <-d.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for daemon: %w", ctx.Err())
	}
}

// Daemon says how a daemon is started. The zero value will do.
type Daemon struct {
	Args []string // more arguments
	Env  []string // more environment, such as gate.Env
}

// StartDaemon starts snapctld inside the host and waits until its socket
// accepts connections. What a daemon of this host left in the state directory,
// the run directory and the namespaces is there, as after a crash or an
// upgrade. The daemon outlives ctx. Its output goes to a file: [Host.DaemonLog].
func (h *Host) StartDaemon(ctx context.Context, opt Daemon) error {
	path, err := h.Install(ctx, "snapctld")
	if err != nil {
		return err
	}
	log, err := os.OpenFile(h.daemonLog(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	defer log.Close() //nolint:errcheck // the daemon has its own

	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return errors.New("start daemon: host is closed")
	}
	if h.daemon != nil && !ended(h.daemon) {
		return errors.New("start daemon: one is running")
	}
	args := append([]string{"--state-dir", h.StateDir(), "--run-dir", RunDir, "--criu", h.criu}, slices.Concat(h.args, opt.Args)...)
	d := &daemon{cmd: h.Command(context.WithoutCancel(ctx), path, args...), done: make(chan struct{})}
	d.cmd.Env = append(d.cmd.Env, opt.Env...)
	d.cmd.Stdout, d.cmd.Stderr = log, log
	// Out of reach of an interrupt at the terminal, as a service is.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := d.cmd.Start(); err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	h.daemon = d
	go func() { // ends with the process, at the latest in Close
		d.err = d.cmd.Wait()
		close(d.done)
	}()
	return h.ready(ctx, d)
}

// ready waits until the daemon's socket accepts. There is no event to wait for:
// between bind and listen the socket is there and refuses.
func (h *Host) ready(ctx context.Context, d *daemon) error {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, "unix", h.Socket())
		if err == nil {
			var pid int
			if pid, err = listener(conn); err == nil && pid == d.cmd.Process.Pid {
				return conn.Close()
			}
			err = errors.Join(fmt.Errorf("process %d listens", pid), err, conn.Close())
		}
		select {
		case <-tick.C:
		case <-d.done:
			return fmt.Errorf("start daemon: it ended: %w\n%s", d.err, h.DaemonLog())
		case <-ctx.Done():
			return fmt.Errorf("start daemon: %w\n%s", err, h.DaemonLog())
		}
	}
}

// listener is the process at the other end: a child of a killed daemon may have
// its listener for a moment, until it executes its program.
func listener(conn net.Conn) (pid int, err error) {
	raw, err := conn.(*net.UnixConn).SyscallConn() //nolint:errcheck // what "unix" makes
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var cerr error
	err = raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, cerr); err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}

func ended(d *daemon) bool {
	select {
	case <-d.done:
		return true
	default:
		return false
	}
}

// running returns the daemon, or ErrNoDaemon.
func (h *Host) running() (*daemon, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.daemon == nil || ended(h.daemon) {
		return nil, ErrNoDaemon
	}
	return h.daemon, nil
}

// DaemonPID is the running daemon. It returns ErrNoDaemon if there is none.
func (h *Host) DaemonPID() (int, error) {
	d, err := h.running()
	if err != nil {
		return 0, err
	}
	return d.cmd.Process.Pid, nil
}

// KillDaemon sends the daemon a signal and waits for its end. The processes
// that it started stay. It returns ErrNoDaemon if there is none.
func (h *Host) KillDaemon(ctx context.Context, sig syscall.Signal) error {
	d, err := h.running()
	if err != nil {
		return err
	}
	if err := d.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal daemon: %w", err)
	}
	return d.wait(ctx)
}

// WaitDaemon waits for the daemon to end by itself, as it does at a fault
// point, and returns how it ended.
func (h *Host) WaitDaemon(ctx context.Context) (*os.ProcessState, error) {
	h.mu.Lock()
	d := h.daemon
	h.mu.Unlock()
	if d == nil {
		return nil, ErrNoDaemon
	}
	if err := d.wait(ctx); err != nil {
		return nil, err
	}
	return d.cmd.ProcessState, nil
}

// RestartDaemon kills the daemon, if one runs, with a signal and starts it again.
func (h *Host) RestartDaemon(ctx context.Context, sig syscall.Signal, opt Daemon) error {
	if err := h.KillDaemon(ctx, sig); err != nil && !errors.Is(err, ErrNoDaemon) {
		return err
	}
	return h.StartDaemon(ctx, opt)
}

func (h *Host) daemonLog() string { return h.Path("log", "snapctld") }

// DaemonLog returns the end of what all daemons of the host have logged.
func (h *Host) DaemonLog() string {
	b, err := os.ReadFile(h.daemonLog())
	if errors.Is(err, fs.ErrNotExist) {
		return "(no daemon was started)"
	}
	if err != nil {
		return err.Error()
	}
	lines := strings.SplitAfter(string(b), "\n")
	return strings.Join(lines[max(0, len(lines)-shownLines):], "")
}
