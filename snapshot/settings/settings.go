// Package settings keeps what the kernel is told of processes and threads from outside,
// and CRIU does not save: the processors that they may use, their priority for I/O, the
// slack of their timers, and the like. It is read while an app is frozen, saved with it,
// and set again when all of its processes are there and none runs.
//
// Only what differs from this process's own settings is saved: CRIU is its child, and what
// CRIU restores has them.
//
// Reading needs CAP_SYS_PTRACE, setting CAP_SYS_NICE. Cost: some 20 us a thread.
package settings

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Task has the settings of one thread. Those that are as usual are left out.
type Task struct {
	Process int    `json:"process"` // as the app numbers it
	Thread  int    `json:"thread"`  // the same of the thread; the process's number for its first one
	Name    string `json:"name"`
	// CPUs are the processors that it may use.
	CPUs []int `json:"cpus,omitempty"`
	// IOPriority is as in ioprio_set(2): class and level in one number.
	IOPriority *int `json:"io_priority,omitempty"`
	// TimerSlackNS is as in PR_SET_TIMERSLACK.
	TimerSlackNS *uint64 `json:"timer_slack_ns,omitempty"`
	// SliceNS is the time slice that the thread asked for by sched_setattr(2), since
	// Linux 6.12.
	SliceNS *uint64 `json:"slice_ns,omitempty"`
	// CoreFilter is /proc/PID/coredump_filter, hexadecimal, of the whole process.
	CoreFilter string `json:"core_filter,omitempty"`
	// AutogroupNice is that of /proc/PID/autogroup, of the whole session.
	AutogroupNice *int `json:"autogroup_nice,omitempty"`
}

func (t *Task) who() string {
	if t.Thread != t.Process {
		return fmt.Sprintf("thread %d (%s) of process %d inside the app", t.Thread, t.Name, t.Process)
	}
	return fmt.Sprintf("process %d (%s) inside the app", t.Process, t.Name)
}

// plain tells whether all is as usual.
func (t *Task) plain() bool {
	return t.CPUs == nil && t.IOPriority == nil && t.TimerSlackNS == nil && t.SliceNS == nil && t.CoreFilter == "" && t.AutogroupNice == nil
}

// state are the settings of a thread, all of them.
type state struct {
	cpus       unix.CPUSet
	io         int
	slack      uint64
	slice      uint64 // 0: not known
	coreFilter string // "": not known
	autogroup  int
}

// Read reads the settings of frozen processes, whose ids are given as the caller's pid
// namespace numbers them. Notes are settings that can't be set again.
func Read(pids []int) (tasks []Task, notes []string, err error) {
	usual, err := readState(os.Getpid(), os.Getpid())
	if err != nil {
		return nil, nil, err
	}
	for _, pid := range pids {
		inside, err := threadsOf(pid)
		if err != nil {
			return nil, nil, err
		}
		for _, t := range inside {
			s, err := readState(pid, t.outside)
			if gone(err) {
				continue // a zombie has no memory, and so no filter
			}
			if err != nil {
				return nil, nil, fmt.Errorf("read settings of process %d: %w", pid, err)
			}
			task := Task{Process: t.process, Thread: t.thread, Name: t.name}
			task.differ(s, usual, t.thread == t.process)
			if !task.plain() {
				tasks = append(tasks, task)
			}
			if t.thread == t.process {
				notes = append(notes, personality(pid, &task)...)
			}
		}
	}
	return tasks, notes, nil
}

// differ fills in what is not as usual.
func (t *Task) differ(s, usual state, first bool) {
	if s.cpus != usual.cpus {
		for cpu := range len(s.cpus) * 64 {
			if s.cpus.IsSet(cpu) {
				t.CPUs = append(t.CPUs, cpu)
			}
		}
	}
	if s.io != usual.io {
		t.IOPriority = &s.io
	}
	if s.slack != usual.slack {
		t.TimerSlackNS = &s.slack
	}
	if s.slice != usual.slice && s.slice != 0 && usual.slice != 0 {
		t.SliceNS = &s.slice
	}
	if !first {
		return
	}
	if s.coreFilter != usual.coreFilter {
		t.CoreFilter = s.coreFilter
	}
	if s.autogroup != 0 {
		t.AutogroupNice = &s.autogroup
	}
}

func readState(pid, tid int) (s state, err error) {
	if err := unix.SchedGetaffinity(tid, &s.cpus); err != nil {
		return s, fmt.Errorf("get CPU affinity: %w", err)
	}
	if s.io, err = ioPriority(tid); err != nil {
		return s, err
	}
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/timerslack_ns", tid)); err == nil {
		if s.slack, err = strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64); err != nil {
			return s, fmt.Errorf("parse timer slack: %w", err)
		}
	} else if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.EPERM) {
		return s, err
	}
	if attr, err := unix.SchedGetAttr(tid, 0); err == nil && attr.Policy <= schedIdle {
		s.slice = attr.Runtime // 0 before Linux 6.12 (kernel/sched/syscalls.c, get_params)
	}
	if tid != pid {
		return s, nil
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/coredump_filter", pid))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return s, err
	}
	s.coreFilter = strings.TrimSpace(string(b))
	s.autogroup = autogroupNice(pid)
	return s, nil
}

// Policies of linux/sched.h: from SCHED_NORMAL to SCHED_IDLE, without the two of real time
// in between, a thread has a slice.
const schedIdle = 5

// ioPriority is what ioprio_get(2) tells of a thread.
func ioPriority(tid int) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, ioprioWhoProcess, uintptr(tid), 0)
	if errno != 0 {
		return 0, fmt.Errorf("get I/O priority: %w", errno)
	}
	return int(r), nil
}

const ioprioWhoProcess = 1 // IOPRIO_WHO_PROCESS

// autogroupNice reads "/autogroup-12 nice 5"; 0 if there are no such groups.
func autogroupNice(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/autogroup", pid))
	if err != nil {
		return 0
	}
	_, nice, _ := strings.Cut(string(b), " nice ")
	n, err := strconv.Atoi(strings.TrimSpace(nice))
	if err != nil {
		return 0
	}
	return n
}

// personality notes one that is not the usual: only the process itself can set it.
func personality(pid int, t *Task) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/personality", pid))
	if err != nil {
		return nil
	}
	own, err := os.ReadFile("/proc/self/personality")
	if err != nil || slices.Equal(b, own) {
		return nil
	}
	return []string{fmt.Sprintf("%s has the personality 0x%s, as of setarch: it comes back with the usual one", t.who(), strings.TrimSpace(string(b)))}
}

func gone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH)
}
