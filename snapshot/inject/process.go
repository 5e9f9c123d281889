package inject

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// process is a stopped one. Calls run in the first of its threads.
type process struct {
	pid     int
	alone   bool // one thread only is traced
	threads []*thread

	entered bool
	before  registers
	rseq    sequence
	syscall uint64 // address of a syscall instruction
	code    uint64 // address of our program; 0: not there
	memory  uint64 // address of the table, and of the scratch memory behind it
	inside  int    // our socket, and the other end of it
	outside int
	done    int // the other end, in this process; -1: none
}

const (
	codeSize  = 4 << 10
	tableSize = 64 << 10
	entrySize = 56 // bytes of a call in the table
)

// seize asks all threads to stop, or one.
func (p *process) seize() error {
	p.inside, p.outside, p.done = -1, -1, -1
	if state(p.pid, p.pid) == "Z" {
		return fmt.Errorf("%w: its first thread has ended", ErrUnsupported)
	}
	seen := make(map[int]bool)
	for {
		tids, err := threads(p.pid)
		if err != nil {
			return err
		}
		more := false
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
			seen[tid], more = true, true
			p.threads = append(p.threads, &thread{tid: tid})
			if p.alone {
				return nil
			}
		}
		if !more { // a thread may have started another one
			return nil
		}
	}
}

// await waits until all that are traced have stopped, but for those that end.
func (p *process) await() error {
	var all []*thread
	for _, t := range p.threads {
		err := settle(t.tid, unix.PTRACE_EVENT_STOP)
		if errors.Is(err, errEnded) && len(p.threads) > 1 {
			continue
		}
		if err != nil {
			return err
		}
		all = append(all, t)
	}
	if p.threads = all; len(all) == 0 {
		return fmt.Errorf("it %w", errEnded)
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
func (p *process) enter(above int) (place, error) {
	t := p.threads[0]
	var err error
	if p.before, err = readRegisters(t.tid); err != nil {
		return place{}, err
	}
	if dispatched(t.tid) {
		return place{}, fmt.Errorf("%w: thread %d has its system calls dispatched by itself (PR_SET_SYSCALL_USER_DISPATCH)", ErrUnsupported, t.tid)
	}
	if p.rseq, err = t.sequence(); err != nil {
		return place{}, err
	}
	if p.syscall, err = findSyscall(p.pid); err != nil {
		return place{}, err
	}
	if err := t.block(); err != nil {
		return place{}, err
	}
	p.entered = true
	private := uint64(unix.MAP_PRIVATE | unix.MAP_ANONYMOUS)
	// Not writable: the process may have asked for that (PR_SET_MDWE). ptrace writes anyway.
	if p.code, err = p.call(unix.SYS_MMAP, 0, codeSize, unix.PROT_READ|unix.PROT_EXEC, private, ^uint64(0), 0); err != nil {
		return place{}, fmt.Errorf("map code: %w", err)
	}
	if _, err := unix.PtracePokeData(t.tid, uintptr(p.code), program); err != nil {
		return place{}, fmt.Errorf("write code: %w", err)
	}
	if p.memory, err = p.call(unix.SYS_MMAP, 0, tableSize+scratchSize, unix.PROT_READ|unix.PROT_WRITE, private, ^uint64(0), 0); err != nil {
		return place{}, fmt.Errorf("map table: %w", err)
	}
	if err := p.connect(above); err != nil {
		return place{}, err
	}
	return place{p.memory + tableSize, p.inside, p.outside}, nil
}

// connect makes a pair of sockets in the process.
func (p *process) connect(above int) error {
	at := p.memory + tableSize
	if _, err := p.call(unix.SYS_SOCKETPAIR, unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0, at, 0, 0); err != nil {
		return fmt.Errorf("make sockets: %w", err)
	}
	b := make([]byte, 8)
	if err := readMemory(p.pid, at, b); err != nil {
		return err
	}
	for i, fd := range []*int{&p.inside, &p.outside} {
		*fd = int(nativeUint32(b[4*i:]))
	}
	if above > 0 {
		for _, fd := range []*int{&p.inside, &p.outside} {
			moved, err := p.call(unix.SYS_FCNTL, uint64(*fd), unix.F_DUPFD_CLOEXEC, uint64(above), 0, 0, 0)
			if err == nil {
				_, err = p.call(unix.SYS_CLOSE, uint64(*fd), 0, 0, 0, 0, 0)
			}
			if err != nil {
				return fmt.Errorf("give our socket a number from %d on: %w", above, err)
			}
			*fd = int(moved)
		}
	}
	var err error
	p.done, err = takeDescriptor(p.pid, p.outside)
	return err
}

// call makes one system call at the instruction that the process has, between two stops.
func (p *process) call(number uintptr, args ...uint64) (uint64, error) {
	tid := p.threads[0].tid
	if err := p.before.atCall(p.syscall, number, args).write(tid); err != nil {
		return 0, err
	}
	for range 2 { // entry and exit
		if err := unix.PtraceSyscall(tid, 0); err != nil {
			return 0, fmt.Errorf("continue thread %d: %w", tid, err)
		}
		if err := settle(tid, 0); err != nil {
			return 0, err
		}
	}
	after, err := readRegisters(tid)
	if err != nil {
		return 0, err
	}
	result := after.result()
	if err := Errno(result); err != nil {
		return 0, err
	}
	return uint64(result), nil
}

// calls has the program make calls. Its last one is a byte for us, after which it turns in a circle
// until it is interrupted.
func (p *process) calls(list []Call) (results []int64, err error) {
	if len(list) > maxCalls {
		return nil, fmt.Errorf("%d calls at once, at most %d", len(list), maxCalls)
	}
	all := append(slices.Clip(list), Call{unix.SYS_WRITE, [6]uint64{uint64(p.inside), p.code, 1}})
	table := make([]byte, 0, entrySize*len(all))
	for _, c := range all {
		table = appendNative(table, uint64(c.Number))
		for _, a := range c.Args {
			table = appendNative(table, a)
		}
	}
	if err := writeMemory(p.pid, p.memory, table); err != nil {
		return nil, err
	}
	tid := p.threads[0].tid
	if err := p.before.atProgram(p.code, p.memory, len(all)).write(tid); err != nil {
		return nil, err
	}
	if err := unix.PtraceCont(tid, 0); err != nil {
		return nil, fmt.Errorf("continue thread %d: %w", tid, err)
	}
	waitErr := p.awaitDone()
	if errors.Is(waitErr, errEnded) || errors.Is(waitErr, errFault) { // it does not run any more
		return nil, waitErr
	}
	if err := interrupt(tid); err != nil {
		return nil, errors.Join(waitErr, err)
	}
	if err := errors.Join(waitErr, settle(tid, unix.PTRACE_EVENT_STOP)); err != nil {
		return nil, err
	}
	if err := readMemory(p.pid, p.memory, table); err != nil {
		return nil, err
	}
	for i := range list {
		results = append(results, int64(nativeUint64(table[i*entrySize:])))
	}
	return results, nil
}

// errFault is a signal that our own program has caused, which stands still there.
var errFault = errors.New("its calls are interrupted")

// awaitDone waits for the byte.
func (p *process) awaitDone() error {
	tid := p.threads[0].tid
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.done), Events: unix.POLLIN}}, 10)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return os.NewSyscallError("poll", err)
		case n > 0:
			_, err := unix.Read(p.done, make([]byte, 1))
			return os.NewSyscallError("read", err)
		default: // a signal that can't be blocked, or the end
			signal, event, ok, err := takeStop(tid)
			switch {
			case err != nil:
				return err
			case !ok && ended(tid):
				return fmt.Errorf("thread %d %w", tid, errEnded)
			case !ok:
				continue
			case event != 0: // of SIGSTOP or SIGCONT, as in settle
				signal = 0
			case signal != int(unix.SIGSTOP):
				return fmt.Errorf("%w by %s", errFault, unix.SignalName(unix.Signal(signal)))
			}
			if err := unix.PtraceCont(tid, signal); err != nil {
				return fmt.Errorf("continue thread %d: %w", tid, err)
			}
		}
	}
	return errors.New("its calls do not return")
}

// leave takes all that is ours out of the process, and gives it its registers back. In one that has
// ended there is nothing to do.
func (p *process) leave() error {
	if !p.entered {
		return nil
	}
	err := p.restore()
	if ended(p.threads[0].tid) {
		return nil
	}
	return err
}

func (p *process) restore() error {
	t := p.threads[0]
	var errs []error
	try := func(number uintptr, args ...uint64) {
		_, err := p.call(number, args...)
		errs = append(errs, err)
	}
	for _, fd := range []int{p.inside, p.outside} {
		if fd >= 0 {
			try(unix.SYS_CLOSE, uint64(fd))
		}
	}
	if p.memory != 0 {
		try(unix.SYS_MUNMAP, p.memory, tableSize+scratchSize)
	}
	if p.code != 0 {
		try(unix.SYS_MUNMAP, p.code, codeSize)
	}
	// The stop at the exit of a call is one in which the kernel does not look any more at whether
	// another call is to be restarted; this one is.
	errs = append(errs, interrupt(t.tid))
	if err := unix.PtraceCont(t.tid, 0); err != nil {
		errs = append(errs, fmt.Errorf("continue thread %d: %w", t.tid, err))
	}
	return errors.Join(append(errs, settle(t.tid, unix.PTRACE_EVENT_STOP),
		t.setSequence(p.rseq), p.before.write(t.tid), sigmask(ptraceSetSigmask, t.tid, &t.mask))...)
}

// detach lets go of all threads.
func (p *process) detach() error {
	var errs []error
	if p.done >= 0 {
		errs = append(errs, unix.Close(p.done))
	}
	for _, t := range p.threads {
		if err := unix.PtraceDetach(t.tid); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("let go of thread %d: %w", t.tid, err))
		}
	}
	return errors.Join(errs...)
}
