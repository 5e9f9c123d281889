package criu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"github.com/checkpoint-restore/go-criu/v8/rpc"
	"golang.org/x/sys/unix"
)

// firstExtraFile is the number of ExtraFiles[0] in the child, see os/exec.
const firstExtraFile = 3

// process says how the CRIU process is started.
type process struct {
	// files become descriptors 4, 5, ... of CRIU (3 is the RPC socket).
	files []*os.File
	// start starts the command, on a thread of the caller's choice; nil
	// means cmd.Start.
	start func(*exec.Cmd) error
	// ends says that it is to be told to give up, see [session.giveUpWhen].
	ends bool
}

// session is one running `criu swrk` process.
type session struct {
	cmd    *exec.Cmd
	conn   *os.File
	cancel context.CancelFunc
	mute   bool // it ended without an answer
	// refused says that a notification of it was answered by no.
	refused bool
	ended   chan struct{} // closed when it has, and is not yet reaped
}

// start runs CRIU and connects to it. A cancelled ctx does not end the process
// (a CRIU that is killed in the middle of a dump leaves its parasite in the
// tasks): the request decides what cancelling means.
func (c Client) start(ctx context.Context, p process) (*session, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make criu socket: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "criu"), os.NewFile(uintptr(fds[1]), "swrk")
	defer theirs.Close() //nolint:errcheck // CRIU has its own
	// A request that names thousands of inherited descriptors is one message.
	for _, fd := range fds {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8<<20); err != nil {
			return nil, errors.Join(fmt.Errorf("grow criu socket: %w", err), ours.Close())
		}
	}

	pctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	cmd := exec.CommandContext(pctx, cmp.Or(c.Path, "criu"), "swrk", strconv.Itoa(firstExtraFile))
	if p.ends && cmd.Err == nil {
		cmd = ignoring(pctx, cmd.Path, cmd.Args[1:]...)
	}
	cmd.ExtraFiles = append([]*os.File{theirs}, p.files...)
	cmd.Dir = "/"
	// A group of its own, so that close can end what a killed CRIU leaves.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	begin := p.start
	if begin == nil {
		begin = (*exec.Cmd).Start
	}
	if err := begin(cmd); err != nil {
		cancel()
		return nil, errors.Join(fmt.Errorf("start criu: %w", err), ours.Close())
	}
	s := &session{cmd: cmd, conn: ours, cancel: cancel, ended: make(chan struct{})}
	go s.watch() // close waits for it
	return s, nil
}

// kill ends CRIU at once.
func (s *session) kill() { s.cancel() }

// close hangs up and waits for CRIU to end. The exit status is of no interest
// if there was a response, which told everything.
func (s *session) close() error {
	err := s.conn.Close()
	<-s.ended
	if s.mute {
		// CRIU's helpers, and tasks that have not got their own session yet,
		// outlive a CRIU that is killed, with the app's lock and sockets. Its
		// id is the group's and is not used again: it is not reaped yet.
		if kerr := unix.Kill(-s.cmd.Process.Pid, unix.SIGKILL); kerr != nil && !errors.Is(kerr, unix.ESRCH) {
			err = errors.Join(err, fmt.Errorf("end criu's helpers: %w", kerr))
		}
	}
	var exit *exec.ExitError
	if werr := s.cmd.Wait(); werr != nil && !errors.As(werr, &exit) && !errors.Is(werr, context.Canceled) {
		err = errors.Join(err, werr)
	}
	if s.mute && exit != nil {
		err = errors.Join(err, fmt.Errorf("criu: %w", exit))
	}
	s.cancel()
	return err
}

// watch waits for CRIU's end, without reaping it, and then ends the reading
// from the socket, which processes that CRIU was making when it was killed may
// still have open. What it has sent is still read (unix(7), shutdown(2)).
func (s *session) watch() {
	defer close(s.ended)
	ended(s.cmd.Process.Pid)
	if raw, err := s.conn.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RD) }) // closed: nobody reads
	}
}

// ended waits for the end of a child that nobody reaps meanwhile. waitid(2) would
// also return whenever a tracer of ours stops it.
func ended(pid int) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil { // no descriptors left
		for errors.Is(unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil), unix.EINTR) {
		}
		return
	}
	defer unix.Close(pidfd) //nolint:errcheck // nothing was written
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, -1)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// roundTrip sends a request and serves notifications until the answer to it.
func (s *session) roundTrip(req *rpc.CriuReq, notify func(script string, pid int) error) (*rpc.CriuResp, error) {
	var refused error
	for {
		b, err := req.MarshalVT()
		if err != nil {
			return nil, fmt.Errorf("encode criu request: %w", err)
		}
		if _, err := s.conn.Write(b); err != nil {
			s.mute = errors.Is(err, unix.EPIPE)
			return nil, errors.Join(refused, fmt.Errorf("send criu request: %w", err))
		}
		resp, err := s.receive()
		if err != nil {
			return nil, errors.Join(refused, err)
		}
		if resp.GetType() != rpc.CriuReqType_NOTIFY {
			return resp, refused
		}
		if notify != nil {
			n := resp.GetNotify()
			if err := notify(n.GetScript(), int(n.GetPid())); err != nil && refused == nil {
				refused, s.refused = err, true
			}
		}
		req = &rpc.CriuReq{Type: new(rpc.CriuReqType_NOTIFY), NotifySuccess: new(refused == nil)}
	}
}

// receive reads one message, whatever its size.
func (s *session) receive() (*rpc.CriuResp, error) {
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var (
		n    int
		rerr error
		buf  = make([]byte, 64<<10)
	)
	err = raw.Read(func(fd uintptr) bool {
		n, _, rerr = unix.Recvfrom(int(fd), buf, 0)
		return !errors.Is(rerr, unix.EAGAIN)
	})
	switch err = errors.Join(err, rerr); {
	case n == 0 && err == nil, errors.Is(err, unix.ECONNRESET):
		s.mute = true
		return nil, errors.New("criu ended without an answer")
	case err != nil:
		return nil, fmt.Errorf("read criu answer: %w", err)
	}
	resp := &rpc.CriuResp{}
	if err := resp.UnmarshalVT(buf[:n]); err != nil {
		return nil, fmt.Errorf("decode criu answer: %w", err)
	}
	return resp, nil
}
