package criu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// CRIU asks sock_diag for the unix sockets of the tasks' network namespace, and
// fails to dump one that was not in the answer (sk-unix.c, dump_one_unix_fd). A
// socket that was accepted belongs to its client's namespace, though. So what is
// known of such sockets is put into the receive queue of CRIU's sock_diag socket
// between the making of it and the first request, which is the one for unix
// sockets (sockets.c, collect_sockets): CRIU reads it as the first part of the
// answer. It checks the sequence number only (libnetlink.c, nlmsg_receive).
//
// The moment is found by tracing CRIU's system calls up to there. If it never
// comes, or a later CRIU does otherwise, the dump fails with CRIU's own error, and the
// app goes on. CRIU is traced only if there are such sockets.
//
// Other ways were looked at and left. A relay at the listener's path would change peer
// credentials, passed descriptors and the app's own files, and be one more thing to
// survive. A descriptor put in the place of the socket would be a dead one if the daemon
// died meanwhile.

// criuSeq is CR_NLMSG_SEQ of CRIU's libnetlink.h.
const criuSeq = 24680

// tracer is a traced CRIU, up to the making of its sock_diag socket.
type tracer struct {
	attached chan error
	done     chan error
}

// tellUnseen has CRIU, which waits for an answer of ours, learn of sockets, each
// a struct unix_diag_msg with its attributes. wait returns what became of it;
// it must be called, when CRIU has answered or ended.
func tellUnseen(pid int, sockets [][]byte) (wait func() error, err error) {
	t := tracer{attached: make(chan error, 1), done: make(chan error, 1)}
	go t.run(pid, sockets)
	if err := <-t.attached; err != nil {
		return nil, fmt.Errorf("trace criu: %w", err)
	}
	return func() error { return <-t.done }, nil
}

// run is a thread: ptrace(2) is between threads. It ends with this goroutine, and
// the kernel lets go of what it still traces (kernel/ptrace.c, exit_ptrace): nothing
// that fails here leaves CRIU stopped.
func (t *tracer) run(pid int, sockets [][]byte) {
	runtime.LockOSThread() //nolint:forbidigo // not unlocked, see above
	err := unix.PtraceSeize(pid)
	if err == nil {
		err = unix.PtraceInterrupt(pid)
	}
	if err == nil {
		_, err = stopped(pid)
	}
	if err == nil {
		// From here on it stops at system calls, and PTRACE_GET_SYSCALL_INFO
		// knows them.
		err = errors.Join(unix.PtraceSetOptions(pid, unix.PTRACE_O_TRACESYSGOOD), unix.PtraceSyscall(pid, 0))
	}
	t.attached <- err
	if err != nil {
		return
	}
	t.done <- t.follow(pid, sockets)
}

// follow lets CRIU run from one system call to the next, until it has its
// socket, and lets go of it.
func (t *tracer) follow(pid int, sockets [][]byte) error {
	asked := false // the call is the one that makes the socket
	for {
		status, err := stopped(pid)
		if err != nil || status.Exited() || status.Signaled() {
			return err // it has ended: no harm done
		}
		call, err := systemCall(pid)
		if err != nil {
			return errors.Join(err, unix.PtraceDetach(pid))
		}
		switch {
		case call.op == callEntry:
			asked = call.number == unix.SYS_SOCKET && call.args[0] == unix.AF_NETLINK && call.args[2] == unix.NETLINK_SOCK_DIAG
		case call.op == callExit && asked && call.result() >= 0:
			err := fill(pid, int(call.result()), sockets)
			return errors.Join(err, unix.PtraceDetach(pid))
		}
		signal := 0
		if call.op == callNone && status.TrapCause() != unix.PTRACE_EVENT_STOP {
			signal = int(status.StopSignal()) // its own, to be delivered
		}
		if err := unix.PtraceSyscall(pid, signal); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("trace criu: %w", err)
		}
	}
}

// stopped waits for the next stop, or for the end, which it leaves to others to
// reap: then the status is 0, which stands for an exit.
func stopped(pid int) (unix.WaitStatus, error) {
	for {
		code, _, err := wait(pid, unix.WEXITED|unix.WSTOPPED|unix.WNOWAIT)
		switch {
		case errors.Is(err, unix.ECHILD):
			return 0, nil // it has ended and was reaped
		case err != nil:
			return 0, fmt.Errorf("wait for criu: %w", err)
		case code < trapped:
			return 0, nil
		}
		if status, ok, err := takeStop(pid); ok || err != nil {
			return status, err
		}
	}
}

// takeStop takes the stop in which pid is. It returns false if it is in none: it may
// have been killed meanwhile, and is not reaped then either.
func takeStop(pid int) (_ unix.WaitStatus, ok bool, err error) {
	code, status, err := wait(pid, unix.WSTOPPED|unix.WNOHANG)
	if errors.Is(err, unix.ECHILD) || err == nil && code < trapped {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("wait for criu: %w", err)
	}
	const stop = 0x7f // as wait4 has it (kernel/exit.c, wait_task_stopped)
	return unix.WaitStatus(status<<8 | stop), true, nil
}

// trapped is CLD_TRAPPED, sigaction(2); 5 is CLD_STOPPED, and what is less an end.
const trapped = 4

// wait is waitid(2): what has happened, si_code, and how, si_status; both are 0 if
// nothing has.
func wait(pid, options int) (code, status int32, err error) {
	var info struct { // siginfo_t of SIGCHLD on 64 bits
		_, _, code, _   int32
		_, _, status, _ int32
		_               [96]byte
	}
	for {
		err = unix.Waitid(unix.P_PID, pid, (*unix.Siginfo)(unsafe.Pointer(&info)), options|unix.WALL, nil)
		if !errors.Is(err, unix.EINTR) {
			return info.code, info.status, err
		}
	}
}

// callInfo is struct ptrace_syscall_info, Linux 5.3.
type callInfo struct {
	op     uint8
	_      [3]uint8
	_      uint32
	_, _   uint64
	number uint64    // at entry; at exit: the result
	args   [6]uint64 // at entry
	_      [2]uint64
}

const (
	callNone  = 0
	callEntry = 1
	callExit  = 2
)

func (c *callInfo) result() int64 { return int64(c.number) }

func systemCall(pid int) (*callInfo, error) {
	c := &callInfo{}
	const getSyscallInfo = 0x420e
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, getSyscallInfo, uintptr(pid), unsafe.Sizeof(*c), uintptr(unsafe.Pointer(c)), 0, 0)
	if errno != 0 {
		return nil, fmt.Errorf("look at system call of criu: %w", errno)
	}
	return c, nil
}

// maxDatagram is below the 16 KiB that CRIU reads at once (libnetlink.c,
// do_rtnl_req).
const maxDatagram = 8 << 10

// fill puts what there is to know of sockets into the receive queue of CRIU's
// descriptor. A netlink socket may send to itself.
func fill(pid, fd int, sockets [][]byte) (err error) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("open criu: %w", err)
	}
	defer unix.Close(pidfd) //nolint:errcheck // nothing was written
	diag, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil {
		return fmt.Errorf("duplicate descriptor of criu: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Close(diag)) }()
	size := 0
	for _, s := range sockets {
		size += 4 * (len(s) + unix.SizeofNlMsghdr) // with the kernel's overhead
	}
	if err := unix.SetsockoptInt(diag, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1<<20+size); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Bind(diag, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	name, err := unix.Getsockname(diag)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	var datagram []byte
	for i, s := range sockets {
		datagram = appendMessage(datagram, s)
		if len(datagram) < maxDatagram && i < len(sockets)-1 {
			continue
		}
		if err := unix.Sendto(diag, datagram, unix.MSG_DONTWAIT, name); err != nil {
			return fmt.Errorf("tell criu of sockets: %w", err)
		}
		datagram = datagram[:0]
	}
	return nil
}

// appendMessage appends a part of the answer to a dump request, netlink(7).
func appendMessage(b, body []byte) []byte {
	ne := binary.NativeEndian
	b = ne.AppendUint32(b, uint32(unix.SizeofNlMsghdr+len(body)))
	b = ne.AppendUint16(b, unix.SOCK_DIAG_BY_FAMILY)
	b = ne.AppendUint16(b, unix.NLM_F_MULTI)
	b = ne.AppendUint32(b, criuSeq)
	b = ne.AppendUint32(b, 0)
	b = append(b, body...)
	for len(b)%unix.NLMSG_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}
