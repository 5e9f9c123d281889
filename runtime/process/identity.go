package process

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Identity names a process for good: a process id is used again, but not together with
// the moment at which the process began.
type Identity struct {
	PID       int    `json:"pid,omitempty"`
	StartTime uint64 `json:"start_time,omitempty"` // clock ticks since boot: /proc/PID/stat, field 22
}

// Identify returns the identity of a process that is there.
func Identify(pid int) (Identity, error) {
	start, err := startTime(pid)
	return Identity{PID: pid, StartTime: start}, err
}

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

// ParentOf is the id of a process's parent (proc_pid_stat(5), field 4).
func ParentOf(pid int) (int, error) {
	f, err := statFields(pid)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(f[1])
}

// Open opens the process of this identity, or returns nil if that process has ended or
// is about to end: a process that was killed a moment ago is no reason to give up the
// snapshot that was taken before. The caller closes the process.
func (r Identity) Open() *Process {
	if r.PID == 0 {
		return nil
	}
	p, err := Open(r.PID)
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
