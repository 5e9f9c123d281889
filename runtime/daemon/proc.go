package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/snapshot/freezer"
)

// statFields are the fields of /proc/PID/stat from the third on.
func statFields(pid int) ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, fmt.Errorf("read process %d: %w", pid, err)
	}
	// The second field, in parentheses, may hold anything.
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 20 {
		return nil, fmt.Errorf("read process %d: unexpected format", pid)
	}
	return fields, nil
}

// startTime is when a process began, in clock ticks since boot: with its id it
// names a process for good (proc_pid_stat(5), field 22).
func startTime(pid int) (uint64, error) {
	f, err := statFields(pid)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(f[19], 10, 64)
}

// parentOf is the id of a process's parent (field 4).
func parentOf(pid int) (int, error) {
	f, err := statFields(pid)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(f[1])
}

// openRecorded opens the process that a record names, or returns nil if that
// process has ended or is about to: one that was killed a moment ago is no
// reason to give up the snapshot that was taken before.
func openRecorded(r processRecord) *sandbox.Process {
	if r.PID == 0 {
		return nil
	}
	p, err := sandbox.OpenProcess(r.PID)
	if err != nil {
		return nil
	}
	if start, err := startTime(r.PID); err != nil || start != r.StartTime || ending(r.PID) {
		_ = p.Close()
		return nil
	}
	return p
}

// ending tells whether a process has ended, is in its last system call or has
// been sent SIGKILL: PF_EXITING of <linux/sched.h>, proc_pid_stat(5).
func ending(pid int) bool {
	const exiting = 4
	f, err := statFields(pid)
	if err != nil || f[0] == "Z" || f[0] == "X" {
		return true
	}
	if flags, err := strconv.ParseUint(f[6], 10, 64); err == nil && flags&exiting != 0 {
		return true
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return true
	}
	for line := range strings.Lines(string(b)) {
		if name, value, _ := strings.Cut(line, ":"); name == "SigPnd" || name == "ShdPnd" {
			if set, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64); err == nil && set&(1<<(unix.SIGKILL-1)) != 0 {
				return true
			}
		}
	}
	return false
}

// rootProcess finds the process of a cgroup that is number 1 in its pid
// namespace, or returns nil.
func rootProcess(group freezer.Cgroup) (*sandbox.Process, error) {
	pids, err := group.PIDs()
	if err != nil {
		return nil, err
	}
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue // it ended meanwhile
		}
		for line := range strings.Lines(string(b)) {
			// NSpid lists the numbers from our namespace inwards.
			if f := strings.Fields(line); len(f) > 2 && f[0] == "NSpid:" && f[len(f)-1] == "1" {
				return sandbox.OpenProcess(pid)
			}
		}
	}
	return nil, nil
}

// reapOrphans reaps the ended processes of a cgroup that CRIU made as children
// of this process, of a restore that did not come to its end. The kernel shows
// a zombie's cgroup until it is reaped (cgroup-v2.rst, "Processes").
func reapOrphans(group string) error {
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		return err
	}
	for _, list := range lists {
		b, err := os.ReadFile(list)
		if err != nil {
			continue // that thread has ended
		}
		for text := range strings.FieldsSeq(string(b)) {
			pid, err := strconv.Atoi(text)
			if err != nil {
				return fmt.Errorf("reap processes: %w", err)
			}
			f, err := statFields(pid)
			if err != nil || f[0] != "Z" || !inCgroup(pid, group) {
				continue
			}
			if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED, nil); err != nil && !errors.Is(err, unix.ECHILD) {
				return fmt.Errorf("reap process %d: %w", pid, err)
			}
		}
	}
	return nil
}

func inCgroup(pid int, group string) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	return err == nil && strings.Contains("\n"+string(b), "\n0::"+group+"\n")
}
