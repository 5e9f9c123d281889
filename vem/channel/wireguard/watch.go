package wireguard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/pause"
)

// A process is asked every askEvery, and waited for as long as patience. One that did not answer
// twice in a row hangs. Once is not enough: this process may itself have stood still, and have had
// no time to read the answer.
const (
	askEvery = 2 * time.Second
	patience = 5 * time.Second
	silences = 2
)

// question changes nothing, and is answered like any other one: by "errno=0", when the device has
// answered all that was asked before (device/uapi.go of wireguard-go, IpcHandle).
const question = "set=1\n\n"

// process is one that does WireGuard in user space.
type process struct {
	conn    net.Conn
	answers chan struct{} // has one when something was answered
	ended   chan struct{} // closed when the process has ended, or leave was called
}

// meet returns the process that serves a socket. The caller leaves it.
func meet(ctx context.Context, path string) (*process, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("find the process that does WireGuard: %w", err)
	}
	p := &process{conn: conn, answers: make(chan struct{}, 1), ended: make(chan struct{})}
	go p.listen() // ends with the process, at the latest in leave
	return p, nil
}

// listen notes answers until the process ends.
func (p *process) listen() {
	defer close(p.ended)
	for buffer := make([]byte, 64); ; {
		if _, err := p.conn.Read(buffer); err != nil {
			return
		}
		select {
		case p.answers <- struct{}{}:
		default:
		}
	}
}

// leave lets go of the process, which goes on.
func (p *process) leave() {
	if p == nil {
		return
	}
	_ = p.conn.Close() // nothing that matters was written
	<-p.ended
}

// silent asks the process whether it is there, and tells whether it does not answer. Who has ended
// is not silent.
func (p *process) silent(ctx context.Context) bool {
	if err := p.conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return false
	}
	if _, err := p.conn.Write([]byte(question)); err != nil {
		return errors.Is(err, os.ErrDeadlineExceeded)
	}
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-p.answers:
	case <-p.ended:
	case <-ctx.Done():
	case <-t.C:
		return true
	}
	return false
}

// follow waits for the end of the device's process, and then has another one do its work. A process
// that hangs is ended.
func (m *Module) follow(p *process) {
	m.cfg.Run(func(ctx context.Context) {
		times := 0
		for pause.For(ctx, askEvery, p.ended) {
			if !p.silent(ctx) {
				times = 0
				continue
			}
			if times++; times >= silences {
				m.end(ctx)
			}
		}
		if ctx.Err() == nil {
			m.replace(ctx, p) // not if the module was closed
		}
	})
}

// end has a process that hangs end.
func (m *Module) end(ctx context.Context) {
	log := m.cfg.Log.With(slog.String("network", m.cfg.Network), slog.String("log", m.cfg.Local.LogPath))
	if err := kill(ctx, m.wg.socketPath()); err != nil {
		log.ErrorContext(ctx, "the process that does WireGuard does not answer, and can't be ended: end it by hand", slog.Any("error", err))
		return
	}
	log.ErrorContext(ctx, "the process that does WireGuard does not answer: it is ended")
}

// kill has the process end that serves a socket, also one that is stopped. The kernel tells who
// listens (SO_PEERCRED: the credentials of the last caller of listen(2), unix_listen in
// net/unix/af_unix.c), and that is the process itself, see package userspace.
func kill(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, patience) // a full queue makes a caller wait
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // nothing was written
	pid, err := listener(conn)
	if err != nil {
		return fmt.Errorf("ask who listens at %s: %w", path, err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("open process %d, which listens at %s: %w", pid, path, err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	// The number may be that of a daemon: if the process did not come as far as to listen.
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return err
	}
	if args := strings.Split(string(line), "\x00"); len(args) < 2 || args[1] != command {
		return fmt.Errorf("process %d, which has opened %s, does not do WireGuard", pid, path)
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end process %d: %w", pid, err)
	}
	return nil
}

// listener returns the number of the process that listens at the other end.
func listener(conn net.Conn) (pid int, err error) {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, errors.ErrUnsupported
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(cerr, err); err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}
