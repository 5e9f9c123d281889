package inject

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// process is one whose threads are stopped. Calls run in the first of them.
type process struct {
	pid     int
	threads []*thread // after stop the first one is the process's first

	entered bool
	runs    bool // the first thread has not stopped in a call: its cgroup is frozen, say
	before  registers
	rseq    sequence
	syscall uint64 // address of a syscall instruction
}

// callError is the error of a call that was made.
type callError unix.Errno

func (e callError) Error() string { return unix.Errno(e).Error() }

// open stops the process, makes a call, takes the descriptor that it returns, closes it in the process,
// puts the process back, and lets go. If it fails otherwise than by a [callError] some threads may
// still be traced.
func (p *process) open(c Call) (fd int, err error) {
	defer func() {
		if leaveErr := errors.Join(p.leave(), p.detach()); leaveErr != nil {
			err = fmt.Errorf("%w; before: %v", leaveErr, err) //nolint:errorlint // it is no callError any more
		}
	}()
	if state(p.pid, p.pid) == "Z" {
		return -1, fmt.Errorf("%w: its first thread has ended", ErrUnsupported)
	}
	if err := p.locate(); err != nil { // it takes a while if there are many mappings
		return -1, err
	}
	if err := p.stop(); err != nil {
		return -1, err
	}
	if err := p.enter(); err != nil {
		return -1, err
	}
	number, err := p.call(c.Number, c.Args[:]...)
	if err != nil {
		return -1, err
	}
	fd, err = takeDescriptor(p.pid, int(number))
	if _, closeErr := p.call(unix.SYS_CLOSE, number); closeErr != nil {
		err = errors.Join(err, fmt.Errorf("close descriptor %d in it: %v", number, closeErr)) //nolint:errorlint // no callError
	}
	return fd, err
}

// stop stops all threads.
func (p *process) stop() error {
	seen := make(map[int]bool)
	for {
		tids, err := threads(p.pid)
		if err != nil {
			return err
		}
		var asked []*thread
		for _, tid := range tids {
			if seen[tid] {
				continue
			}
			if err := seize(tid); err != nil {
				if ended(tid) {
					continue
				}
				return err
			}
			seen[tid] = true
			asked = append(asked, &thread{tid: tid})
		}
		if len(asked) == 0 { // one that had not stopped yet may have started another
			break
		}
		if err := p.await(asked); err != nil {
			return err
		}
	}
	first := slices.IndexFunc(p.threads, func(t *thread) bool { return t.tid == p.pid })
	if first < 0 {
		return fmt.Errorf("it %w", errEnded)
	}
	p.threads[0], p.threads[first] = p.threads[first], p.threads[0]
	return nil
}

// await waits until threads have stopped, but for those that end.
func (p *process) await(asked []*thread) error {
	for _, t := range asked {
		switch err := settle(t.tid, unix.PTRACE_EVENT_STOP); {
		case errors.Is(err, errEnded):
		case err != nil:
			return err
		default:
			p.threads = append(p.threads, t)
		}
	}
	return nil
}

// settle waits for a stop with an event, or one at a system call for 0. A signal that comes before is
// the thread's. If that is a SIGSTOP, which can't be blocked, the kernel notes that the process is to
// be stopped. Our thread runs on, which ptrace can have it do, and stops when it is let go of, unless
// a SIGCONT came before (kernel/ptrace.c, __ptrace_unlink).
func settle(tid, want int) error {
	for {
		signal, event, err := stopped(tid)
		deliver := 0
		switch {
		case err != nil:
			return err
		case event == want && (want != 0 || signal == atSyscall):
			return nil
		case event == 0 && signal != atSyscall:
			deliver = signal
		}
		if want == 0 {
			err = unix.PtraceSyscall(tid, deliver)
		} else {
			err = unix.PtraceCont(tid, deliver)
		}
		if err != nil {
			return fmt.Errorf("continue thread %d: %w", tid, err)
		}
		if want == unix.PTRACE_EVENT_STOP {
			if err := interrupt(tid); err != nil {
				return err
			}
		}
	}
}

// enter prepares a process for calls.
func (p *process) enter() error {
	t := p.threads[0]
	var err error
	if p.before, err = readRegisters(t.tid); err != nil {
		return err
	}
	if dispatched(t.tid) {
		return fmt.Errorf("%w: thread %d has its system calls dispatched by itself (PR_SET_SYSCALL_USER_DISPATCH)", ErrUnsupported, t.tid)
	}
	if p.rseq, err = t.sequence(); err != nil {
		return err
	}
	if err := p.locate(); err != nil {
		return err
	}
	if err := t.block(); err != nil {
		return err
	}
	p.entered = true
	return nil
}

// locate finds a syscall instruction, unless the one that was found before is still there.
func (p *process) locate() (err error) {
	b := make([]byte, len(instruction))
	if p.syscall == 0 || readMemory(p.pid, p.syscall, b) != nil || !bytes.Equal(b, instruction) {
		p.syscall, err = findSyscall(p.pid)
	}
	return err
}

// call makes one system call at an instruction that the process has. One that a SIGSTOP or SIGCONT
// interrupts, which can't be blocked, is made again.
func (p *process) call(number uintptr, args ...uint64) (uint64, error) {
	for {
		result, err := p.callOnce(number, args)
		switch {
		case err != nil:
			return 0, err
		case result <= -restartFirst && result >= -restartLast:
		case result < 0 && result >= -4095:
			return 0, callError(-result)
		default:
			return uint64(result), nil
		}
	}
}

// ERESTARTSYS to ERESTARTNOHAND of include/linux/errno.h, which only a tracer sees.
const (
	restartFirst = 512
	restartLast  = 514
)

// callOnce makes a call between two stops.
func (p *process) callOnce(number uintptr, args []uint64) (int64, error) {
	tid := p.threads[0].tid
	if err := p.before.atCall(p.syscall, number, args).write(tid); err != nil {
		return 0, err
	}
	for range 2 { // entry and exit
		if err := unix.PtraceSyscall(tid, 0); err != nil {
			return 0, fmt.Errorf("continue thread %d: %w", tid, err)
		}
		p.runs = true
		if err := settle(tid, 0); err != nil {
			return 0, err
		}
		p.runs = false
	}
	after, err := readRegisters(tid)
	return after.result(), err
}

// leave gives the process its registers and its signal mask back. In one that has ended there is
// nothing to do.
func (p *process) leave() error {
	if !p.entered {
		return nil
	}
	err := p.restore()
	if ended(p.pid) {
		return nil
	}
	return err
}

func (p *process) restore() error {
	t := p.threads[0]
	// The stop at the exit of a call is one in which the kernel does not look any more at whether
	// another call is to be restarted; this one is.
	err := interrupt(t.tid)
	if !p.runs {
		if contErr := unix.PtraceCont(t.tid, 0); contErr != nil {
			err = errors.Join(err, fmt.Errorf("continue thread %d: %w", t.tid, contErr))
		}
	}
	return errors.Join(err, settle(t.tid, unix.PTRACE_EVENT_STOP),
		t.setSequence(p.rseq), p.before.write(t.tid), sigmask(ptraceSetSigmask, t.tid, &t.mask))
}

// detach lets go of all threads, the one that made calls last.
func (p *process) detach() error {
	var errs []error
	for _, t := range slices.Backward(p.threads) {
		if err := unix.PtraceDetach(t.tid); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("let go of thread %d: %w", t.tid, err))
		}
	}
	return errors.Join(errs...)
}
