// Package freezer stops and ends all processes of a cgroup at once.
//
// It works on a cgroup v2 directory (cgroup.freeze since Linux 5.2,
// cgroup.kill since 5.14, Documentation/admin-guide/cgroup-v2.rst), which may
// belong to the v2 part of a hybrid host. Writing needs CAP_DAC_OVERRIDE or
// ownership of the cgroup.
package freezer

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Cgroup is the path of a cgroup v2 directory.
type Cgroup string

// State is what cgroup.events says.
type State struct {
	Populated bool // it has a process that is not a zombie
	Frozen    bool // all processes are stopped
}

// Freeze stops every process and returns when all have stopped. If ctx ends
// first, they go on. Freezing a frozen cgroup does nothing.
func (c Cgroup) Freeze(ctx context.Context) error {
	if err := c.write("cgroup.freeze", "1"); err != nil {
		return err
	}
	err := c.wait(ctx, func(s State) bool { return s.Frozen || !s.Populated })
	if err != nil {
		return errors.Join(fmt.Errorf("freeze %s: %w", c, err), c.Thaw())
	}
	return nil
}

// Begin asks the kernel to freeze the processes, and does not wait until they are.
func (c Cgroup) Begin() error { return c.write("cgroup.freeze", "1") }

// Thaw lets every process go on.
func (c Cgroup) Thaw() error { return c.write("cgroup.freeze", "0") }

// Kill ends every process, frozen or not, and returns when none is left. The
// parents still have to reap them. A cgroup that does not exist has none.
func (c Cgroup) Kill(ctx context.Context) error {
	err := c.write("cgroup.kill", "1")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := c.killLeaderless(); err != nil {
		return fmt.Errorf("kill %s: %w", c, err)
	}
	if err := c.wait(ctx, func(s State) bool { return !s.Populated }); err != nil {
		return fmt.Errorf("kill %s: %w", c, err)
	}
	return c.Thaw() // the next process here is to run
}

// killLeaderless ends the processes whose first thread has ended while others go on. The
// kernel kills only the first thread of each process in the cgroup (kernel/cgroup/cgroup.c,
// __cgroup_kill: send_sig), and a signal to a thread that has ended ends nobody
// (kernel/signal.c, complete_signal). kill(2) is for the process.
func (c Cgroup) killLeaderless() error {
	pids, err := c.PIDs()
	if err != nil {
		return err
	}
	var errs []error
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // it has ended
		}
		if rest := b[bytes.LastIndexByte(b, ')')+1:]; len(rest) < 2 || rest[1] != 'Z' {
			continue
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("process %d: %w", pid, err))
		}
	}
	return errors.Join(errs...)
}

// State reads cgroup.events.
func (c Cgroup) State() (State, error) {
	b, err := os.ReadFile(filepath.Join(string(c), "cgroup.events"))
	if err != nil {
		return State{}, fmt.Errorf("read cgroup state: %w", err)
	}
	return parseEvents(string(b)), nil
}

// PIDs lists the processes, also those of cgroups below it, as the caller's pid
// namespace numbers them. A cgroup that does not exist has none.
func (c Cgroup) PIDs() ([]int, error) {
	pids, err := c.own()
	if err != nil {
		return nil, err
	}
	// A program may have made cgroups below, if it has mounted them.
	below, err := os.ReadDir(string(c))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	for _, entry := range below {
		if !entry.IsDir() {
			continue
		}
		more, err := Cgroup(filepath.Join(string(c), entry.Name())).PIDs()
		if err != nil {
			return nil, err
		}
		pids = append(pids, more...)
	}
	return pids, nil
}

// own lists the processes of this very cgroup.
func (c Cgroup) own() ([]int, error) {
	b, err := os.ReadFile(filepath.Join(string(c), "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) { // it was removed just now
		return nil, nil
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil // a threaded one: its processes are listed by the domain above
	}
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	in := bufio.NewScanner(bytes.NewReader(b))
	for in.Scan() {
		pid, err := strconv.Atoi(in.Text())
		if err != nil {
			return nil, fmt.Errorf("list processes: %w", err)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// Used is how much processor time the processes have had. Every v2 cgroup tells,
// with or without the cpu controller (cgroup-v2.rst, "cpu.stat").
func (c Cgroup) Used() (time.Duration, error) {
	b, err := os.ReadFile(filepath.Join(string(c), "cpu.stat"))
	if err != nil {
		return 0, fmt.Errorf("read processor time: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, "usage_usec "); ok {
			us, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			return time.Duration(us) * time.Microsecond, err
		}
	}
	return 0, fmt.Errorf("read processor time: no usage_usec in %s/cpu.stat", c)
}

func parseEvents(text string) State {
	var s State
	for line := range strings.Lines(text) {
		switch strings.TrimSpace(line) {
		case "populated 1":
			s.Populated = true
		case "frozen 1":
			s.Frozen = true
		}
	}
	return s
}

func (c Cgroup) write(file, value string) error {
	f, err := os.OpenFile(filepath.Join(string(c), file), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	_, err = f.WriteString(value)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s of %s: %w", file, c, err)
	}
	return nil
}

// wait returns when cgroup.events satisfies ok. The kernel announces each
// change of the file by POLLPRI (cgroup-v2.rst, "Core Interface Files").
func (c Cgroup) wait(ctx context.Context, ok func(State) bool) error {
	f, err := os.Open(filepath.Join(string(c), "cgroup.events"))
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read from
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return err
	}
	wake := os.NewFile(uintptr(stop), "eventfd")
	defer wake.Close() //nolint:errcheck // an eventfd
	signalled := make(chan struct{})
	cancel := context.AfterFunc(ctx, func() {
		defer close(signalled)
		_, _ = wake.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0})
	})
	defer func() {
		if !cancel() {
			<-signalled
		}
	}()

	buf := make([]byte, 256)
	fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}, {Fd: int32(stop), Events: unix.POLLIN}}
	for {
		n, err := f.ReadAt(buf, 0)
		if n == 0 && err != nil {
			return err
		}
		if ok(parseEvents(string(buf[:n]))) {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
