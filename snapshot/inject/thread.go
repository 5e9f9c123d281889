package inject

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests of ptrace(2) that package unix has no functions for.
const (
	ptraceGetSigmask = 0x420a
	ptraceSetSigmask = 0x420b
	ptraceGetRseq    = 0x420f // Linux 5.13

	ptraceGetDispatch = 0x4211 // Linux 6.4
)

// thread is a traced one.
type thread struct {
	tid  int
	mask uint64 // of signals, as it was; set by block
}

// threads lists the threads of a process that can be stopped: those that have not ended.
func threads(pid int) (tids []int, err error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil, fmt.Errorf("list threads: %w", err)
	}
	for _, e := range entries {
		tid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		switch state(pid, tid) {
		case "Z", "X", "":
		default:
			tids = append(tids, tid)
		}
	}
	if len(tids) == 0 {
		return nil, errors.New("it has ended")
	}
	return tids, nil
}

// state is the letter of proc_pid_stat(5); empty if there is no such thread.
func state(pid, tid int) string {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "task", strconv.Itoa(tid), "stat"))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(b[strings.LastIndexByte(string(b), ')')+1:]), " ")
	letter, _, _ := strings.Cut(rest, " ")
	return letter
}

// ended tells whether a thread has ended.
func ended(tid int) bool {
	s := state(tid, tid)
	return s == "Z" || s == "X" || s == ""
}

var errEnded = errors.New("has ended")

// atSyscall is the signal of a stop at a system call (PTRACE_O_TRACESYSGOOD).
const atSyscall = int(unix.SIGTRAP) | 0x80

// seize begins to trace a thread and asks it to stop.
func seize(tid int) error {
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(tid), 0, unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_SUSPEND_SECCOMP, 0, 0)
	// EINVAL: CONFIG_SECCOMP or CONFIG_CHECKPOINT_RESTORE is off. EPERM: we have a filter ourselves
	// (kernel/ptrace.c, check_ptrace_options). A thread without filters can be traced all the same.
	if (errno == unix.EINVAL || errno == unix.EPERM) && !filtered(tid) {
		_, _, errno = unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(tid), 0, unix.PTRACE_O_TRACESYSGOOD, 0, 0)
	}
	if errno != 0 {
		return fmt.Errorf("%w: trace thread %d: %w", ErrUnsupported, tid, errno)
	}
	return interrupt(tid)
}

// filtered tells whether a thread may have a seccomp filter.
func filtered(tid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	return err != nil || strings.Contains(string(b), "\nSeccomp:") && !strings.Contains(string(b), "\nSeccomp:\t0\n")
}

// dispatched tells whether a stopped thread has its system calls come back to itself as signals
// (PR_SET_SYSCALL_USER_DISPATCH).
func dispatched(tid int) bool {
	var c struct{ mode, selector, offset, length uint64 } // struct ptrace_sud_config
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, ptraceGetDispatch, uintptr(tid), unsafe.Sizeof(c), uintptr(unsafe.Pointer(&c)), 0, 0)
	return errno == 0 && c.mode != 0 // before Linux 6.4 it can't be seen
}

func interrupt(tid int) error {
	if err := unix.PtraceInterrupt(tid); err != nil {
		return fmt.Errorf("interrupt thread %d: %w", tid, err)
	}
	return nil
}

// stopped waits until a thread stops, and returns why: the signal, and the event. It fails if the
// thread has ended, or does not stop.
func stopped(tid int) (signal, event int, err error) {
	deadline := time.Now().Add(patience)
	for n := 1; ; n++ {
		signal, event, ok, err := takeStop(tid)
		if ok || err != nil {
			return signal, event, err
		}
		if n < 64 { // most stop at once
			_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
			continue
		}
		// Go's own timers are no finer than a millisecond (runtime, netpoll_epoll.go), in which the process would stand still.
		_ = unix.Nanosleep(&unix.Timespec{Nsec: int64(20 * time.Microsecond)}, nil)
		if n%64 != 0 {
			continue
		}
		// The first thread's end is no news to us before the ends of all others are
		// (kernel/exit.c, delay_group_leader).
		if ended(tid) {
			return 0, 0, fmt.Errorf("thread %d %w", tid, errEnded)
		}
		if inVfork(tid) {
			return 0, 0, fmt.Errorf("%w: thread %d waits for a child that it has made with vfork(2)", ErrUnsupported, tid)
		}
		if time.Now().After(deadline) {
			return 0, 0, fmt.Errorf("%w: thread %d does not stop (its state is %s)", ErrUnsupported, tid, state(tid, tid))
		}
	}
}

// inVfork tells whether a thread waits for its child to run a program or end. It can't be interrupted
// meanwhile (kernel/fork.c, wait_for_vfork_done).
func inVfork(tid int) bool {
	if state(tid, tid) != "D" {
		return false
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", tid))
	if err != nil {
		return false
	}
	var number int
	var flags uint64
	if n, _ := fmt.Sscanf(string(b), "%d 0x%x", &number, &flags); n != 2 {
		return false
	}
	switch number {
	case unix.SYS_CLONE3: // the first argument is the address of a struct clone_args, in which flags are first
		b := make([]byte, 8)
		if readMemory(tid, flags, b) != nil {
			return false
		}
		flags = nativeUint64(b)
	case unix.SYS_CLONE:
	default:
		return number == callVfork
	}
	return flags&unix.CLONE_VFORK != 0
}

// takeStop is stopped for a thread that may go on: then ok is false.
func takeStop(tid int) (signal, event int, ok bool, err error) {
	var status unix.WaitStatus
	found, err := unix.Wait4(tid, &status, unix.WALL|unix.WNOHANG, nil)
	switch {
	case errors.Is(err, unix.EINTR):
		return 0, 0, false, nil
	case errors.Is(err, unix.ECHILD) && ended(tid):
		return 0, 0, false, fmt.Errorf("thread %d %w", tid, errEnded)
	case err != nil:
		return 0, 0, false, os.NewSyscallError("wait4", err)
	case found != tid:
		return 0, 0, false, nil
	case !status.Stopped():
		return 0, 0, false, fmt.Errorf("thread %d %w", tid, errEnded)
	}
	return int(status.StopSignal()), int(status >> 16), true, nil
}

// block blocks all signals of a stopped thread that can be blocked.
func (t *thread) block() error {
	if err := sigmask(ptraceGetSigmask, t.tid, &t.mask); err != nil {
		return err
	}
	all := uint64(math.MaxUint64)
	return sigmask(ptraceSetSigmask, t.tid, &all)
}

func sigmask(request, tid int, mask *uint64) error {
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), unsafe.Sizeof(*mask), uintptr(unsafe.Pointer(mask)), 0, 0)
	if errno != 0 {
		return fmt.Errorf("signal mask of thread %d: %w", tid, errno)
	}
	return nil
}

// sequence is where a thread says which restartable sequence it is in.
type sequence struct {
	address uint64 // of rseq_cs in the thread's struct rseq; 0: it has none
	value   [8]byte
}

func (t *thread) sequence() (s sequence, err error) {
	var c struct { // struct ptrace_rseq_configuration
		pointer          uint64
		size, signature  uint32
		flags, remaining uint32
	}
	size, _, errno := unix.Syscall6(unix.SYS_PTRACE, ptraceGetRseq, uintptr(t.tid), unsafe.Sizeof(c), uintptr(unsafe.Pointer(&c)), 0, 0)
	if errno == unix.EIO || errno == 0 && (size == 0 || c.pointer == 0) { // EIO: the kernel has none
		return s, nil
	}
	if errno != 0 {
		return s, fmt.Errorf("restartable sequences of thread %d: %w", t.tid, errno)
	}
	const offset = 8 // of rseq_cs in struct rseq
	s.address = c.pointer + offset
	return s, readMemory(t.tid, s.address, s.value[:])
}

func (t *thread) setSequence(s sequence) error {
	if s.address == 0 {
		return nil
	}
	return writeMemory(t.tid, s.address, s.value[:])
}
