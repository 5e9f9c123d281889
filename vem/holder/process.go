package holder

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// process is a holder process that answered.
type process struct {
	pid   int
	pidfd *os.File
	ended chan struct{} // closed when it has ended, or the process is closed
}

// find opens the process that answers at a client's socket.
//
// The kernel tells who listens (SO_PEERCRED: the credentials of listen(2)'s
// caller, unix(7)). That the number still is the holder's when it is opened, the
// answer to a request sent after that proves. SO_PEERPIDFD would do it in one
// step, from Linux 6.5 on.
func find(ctx context.Context, c *Client) (*process, error) {
	var p *process
	err := c.do(ctx, func(x *exchange) error {
		cred, err := peer(x.conn)
		if err != nil {
			return err
		}
		// Non-blocking, so that Go's poller waits for it (pidfd_open(2), Linux 5.10).
		fd, err := unix.PidfdOpen(int(cred.Pid), unix.PIDFD_NONBLOCK)
		if err != nil {
			return fmt.Errorf("open process %d: %w", cred.Pid, err)
		}
		p = &process{pid: int(cred.Pid), pidfd: os.NewFile(uintptr(fd), "pidfd"), ended: make(chan struct{})}
		_, _, err = x.ask(request{Op: opList}, nil)
		return err
	})
	if err != nil {
		if p != nil {
			p.pidfd.Close() //nolint:errcheck // nothing was written
		}
		return nil, fmt.Errorf("find holder process: %w", err)
	}
	go func() { // ends with the process, at the latest in close
		defer close(p.ended)
		p.wait()
	}()
	return p, nil
}

// wait returns when the process has ended, and reaps it if it is a child of this
// one, or when the pidfd is closed.
func (p *process) wait() {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool { // fails if the file is closed, and that is all
		if !hasEnded(fd) {
			return false
		}
		_ = unix.Waitid(unix.P_PIDFD, int(fd), nil, unix.WEXITED, nil) // ECHILD: an earlier daemon's
		return true
	})
}

// hasEnded asks a pidfd. A signal of the Go runtime's own may interrupt poll(2), also one
// that does not wait; nobody would ask again then.
func hasEnded(pidfd uintptr) bool {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0)
		if !errors.Is(err, unix.EINTR) {
			return n > 0 && err == nil
		}
	}
}

// close lets go of the process, which goes on.
func (p *process) close() error {
	err := p.pidfd.Close()
	<-p.ended
	return err
}
