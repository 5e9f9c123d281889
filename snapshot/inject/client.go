package inject

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrUnsupported is a process, a machine or a kernel in which no calls can be made.
var ErrUnsupported = errors.New("can't make system calls in the process")

// Tracer is the process that stops others. Its methods are for one goroutine at a time.
type Tracer struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    io.ReadCloser
	enc    *gob.Encoder
	dec    *gob.Decoder
	places map[int]place
	ended  bool
}

// Start starts a tracer by the binary exe, whose main function calls [Serve] if its only argument is
// [Command]. It stops nothing yet: starting takes some milliseconds that nobody has to stand still
// for. The caller closes it.
func Start(ctx context.Context, exe string) (*Tracer, error) {
	// It has to finish what it does, whatever becomes of ctx.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), exe, Command)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start tracer: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start tracer: %w", err), in.Close())
	}
	return &Tracer{cmd: cmd, in: in, out: out, enc: gob.NewEncoder(in), dec: gob.NewDecoder(out)}, nil
}

// Stop stops processes, all of which exist, until Close. cgroup is the directory of the frozen cgroup
// that they are all in: it is thawed, with all threads of all its processes stopped. If it is empty
// one thread of each process is stopped, and the others go on.
//
// If it fails nothing is stopped, the cgroup is frozen, and the tracer has ended. The error wraps
// [ErrUnsupported] if a process can't be traced, or makes system calls of 32 bits.
func (t *Tracer) Stop(cgroup string, targets []Target) error {
	a, err := t.ask(request{Stop: &stop{cgroup, targets}})
	if err != nil {
		return errors.Join(fmt.Errorf("stop processes: %w", err), t.end())
	}
	t.places = a.Places
	return nil
}

// Calls makes system calls in a process, in their order, and returns what each of them returned: a
// number below 0 is an error, by its negative number ([Errno]). A call that waits with a timeout, as
// poll(2) and nanosleep(2) do, must not be among them: the process may be in such a call itself, and
// the kernel has only one place in which it notes how to go on (restart_syscall(2)). After an error
// the processes can only be let go of.
func (t *Tracer) Calls(pid int, calls []Call) ([]int64, error) {
	results := make([]int64, 0, len(calls))
	for some := range slices.Chunk(calls, maxCalls) {
		a, err := t.ask(request{PID: pid, Calls: some})
		if err != nil {
			return results, fmt.Errorf("make system calls in process %d: %w", pid, err)
		}
		results = append(results, a.Results...)
	}
	return results, nil
}

// Errno returns the error that a call's result stands for, or nil.
func Errno(result int64) error {
	if result < 0 && result >= -4095 {
		return unix.Errno(-result)
	}
	return nil
}

// Scratch returns the address of memory in a process that calls may refer to, and its size in bytes.
// What is there is lost at the next Install.
func (t *Tracer) Scratch(pid int) (address, size uint64) { return t.places[pid].Scratch, scratchSize }

// Close puts the processes back as they were but for what calls have done, and lets go of them; the
// cgroup is frozen before, if there was one. It ends the tracer.
func (t *Tracer) Close() error {
	var err error
	if t.places != nil {
		t.places = nil
		if _, err = t.ask(request{Release: true}); err != nil {
			err = fmt.Errorf("let go of processes: %w", err)
		}
	}
	return errors.Join(err, t.end())
}

// end waits until the tracer has ended.
func (t *Tracer) end() error {
	if t.ended {
		return nil
	}
	t.ended = true
	err := t.in.Close()
	_, _ = io.Copy(io.Discard, t.out) // until it has ended
	if waitErr := t.cmd.Wait(); waitErr != nil {
		err = errors.Join(err, fmt.Errorf("tracer: %w", waitErr))
	}
	return err
}

func (t *Tracer) ask(r request) (*answer, error) {
	if err := t.enc.Encode(r); err != nil {
		return nil, fmt.Errorf("ask tracer: %w", err)
	}
	a := &answer{}
	err := t.dec.Decode(a)
	switch {
	case err != nil:
		return nil, fmt.Errorf("ask tracer: %w", err)
	case a.Unsupported:
		return nil, fmt.Errorf("%w: %s", ErrUnsupported, a.Err)
	case a.Err != "":
		return nil, errors.New(a.Err)
	}
	return a, nil
}

// Slot is where a descriptor belongs.
type Slot struct {
	Number      int
	CloseOnExec bool
}

// maxRights is SCM_MAX_FD (include/net/scm.h).
const maxRights = 253

// Install puts open files into a process, each at a number of its own that is free there. files and
// slots are parallel, sorted by number. Target.Above was greater than the last number. If it fails
// some may be there.
func (t *Tracer) Install(pid int, files []*os.File, slots []Slot) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("put descriptors into process %d: %w", pid, err)
		}
	}()
	if len(files) != len(slots) {
		return fmt.Errorf("%d files for %d numbers", len(files), len(slots))
	}
	if !slices.IsSortedFunc(slots, func(a, b Slot) int { return a.Number - b.Number }) {
		return errors.New("numbers are not sorted")
	}
	outside, err := t.outside(pid)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(outside)) }()
	for len(files) > 0 {
		n := min(len(files), maxRights)
		if err := t.install(pid, outside, files[:n], slots[:n]); err != nil {
			return err
		}
		files, slots = files[n:], slots[n:]
	}
	return nil
}

// outside takes the other end of the process's socket.
func (t *Tracer) outside(pid int) (int, error) {
	p, ok := t.places[pid]
	if !ok {
		return -1, errors.New("it is not stopped")
	}
	return takeDescriptor(pid, p.Outside)
}

// takeDescriptor duplicates a descriptor of a process.
func takeDescriptor(pid, number int) (int, error) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1, fmt.Errorf("open process: %w", err)
	}
	defer unix.Close(pidfd) //nolint:errcheck // nothing was written
	fd, err := unix.PidfdGetfd(pidfd, number, 0)
	if err != nil {
		return -1, fmt.Errorf("duplicate descriptor %d: %w", number, err)
	}
	return fd, nil
}

// install puts one message's files in. The kernel gives the i-th file the lowest number that is free,
// which is not above the i-th slot's, for all slots are free and sorted. So from the last one down
// each can be moved to its number, at which at most one of the later files was, which has moved.
func (t *Tracer) install(pid, outside int, files []*os.File, slots []Slot) error {
	numbers := make([]int, len(files))
	for i, f := range files {
		numbers[i] = int(f.Fd())
	}
	if err := unix.Sendmsg(outside, []byte{0}, unix.UnixRights(numbers...), nil, 0); err != nil {
		return os.NewSyscallError("sendmsg", err)
	}
	received, err := t.receive(pid, len(files))
	if err != nil {
		return err
	}
	calls := make([]Call, 0, 2*len(files))
	for i, s := range slices.Backward(slots) {
		flag := uint64(0)
		if s.CloseOnExec {
			flag = unix.O_CLOEXEC
		}
		from, to := uint64(received[i]), uint64(s.Number)
		if from == to { // dup3 refuses that
			calls = append(calls, Call{unix.SYS_FCNTL, [6]uint64{to, unix.F_SETFD, flag / unix.O_CLOEXEC * unix.FD_CLOEXEC}})
			continue
		}
		calls = append(calls, Call{unix.SYS_DUP3, [6]uint64{from, to, flag}}, Call{unix.SYS_CLOSE, [6]uint64{from}})
	}
	results, err := t.Calls(pid, calls)
	if err != nil {
		return err
	}
	for i, r := range results {
		if err := Errno(r); err != nil {
			return fmt.Errorf("call %d, for descriptor %d: %w", calls[i].Number, calls[i].Args[1], err)
		}
	}
	return nil
}

// receive has the process take what was sent to it, and returns the numbers that it got.
func (t *Tracer) receive(pid, count int) ([]int32, error) {
	p := t.places[pid]
	space := unix.CmsgSpace(4 * count)
	m := message{base: p.Scratch, length: 1, control: space}
	if err := writeMemory(pid, p.Scratch, m.bytes()); err != nil {
		return nil, err
	}
	results, err := t.Calls(pid, []Call{{unix.SYS_RECVMSG, [6]uint64{uint64(p.Inside), p.Scratch + messageAt, unix.MSG_CMSG_CLOEXEC}}})
	if err != nil {
		return nil, err
	}
	if err := Errno(results[0]); err != nil {
		return nil, os.NewSyscallError("recvmsg", err)
	}
	b := make([]byte, space)
	if err := readMemory(pid, p.Scratch+controlAt, b); err != nil {
		return nil, err
	}
	return rights(b, count)
}
