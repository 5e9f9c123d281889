package holder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Run is the whole of the holder process: it serves socketPath until ctx is done,
// then closes everything that it keeps. A process that runs it should ignore
// SIGHUP and SIGINT and be in a session of its own; [Spawn] sees to that.
//
// It returns an error wrapping [ErrRunning] if another holder serves the path.
func Run(ctx context.Context, socketPath string, log *slog.Logger) error {
	if err := closeInherited(); err != nil {
		return fmt.Errorf("close inherited descriptors: %w", err)
	}
	l, err := Listen(ctx, socketPath)
	if err != nil {
		return err
	}
	defer l.Close() //nolint:errcheck // Serve may have closed it
	// Losing the holder loses every held connection. Lowering the value needs
	// CAP_SYS_RESOURCE (proc_pid_oom_score_adj(5)).
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-999"), 0); err != nil {
		log.DebugContext(ctx, "protect from the out-of-memory killer", slog.Any("error", err))
	}
	return Serve(ctx, l, log)
}

// closeInherited closes what the process that started this one passed on by
// mistake: nobody should wait for the end of a pipe that the holder keeps. The Go
// runtime's own descriptors, and all that it opens, close on exec; inherited ones
// do not.
func closeInherited() error {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	ready := os.Getenv(readyEnv)
	for _, entry := range list {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			return err
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if fd <= 2 || entry.Name() == ready || err != nil || flags&unix.FD_CLOEXEC != 0 {
			continue
		}
		if err := unix.Close(fd); err != nil {
			return err
		}
	}
	return nil
}

// Listen opens the holder's socket, with mode 0600. What a dead holder left at
// the path is replaced; an error wrapping [ErrRunning] says that a living one
// answers there. The file stays when the listener is closed.
func Listen(ctx context.Context, socketPath string) (*net.UnixListener, error) {
	if conn, err := new(net.Dialer).DialContext(ctx, "unixpacket", socketPath); err == nil {
		return nil, errors.Join(fmt.Errorf("listen at %s: %w", socketPath, ErrRunning), conn.Close())
	}
	// Made aside and renamed in: nobody ever connects before the mode is set.
	aside := socketPath + "." + strconv.Itoa(os.Getpid())
	if err := os.Remove(aside); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen at %s: %w", socketPath, err)
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: aside, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", socketPath, err)
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(aside, 0o600)
	if err == nil {
		err = os.Rename(aside, socketPath)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen at %s: %w", socketPath, err), l.Close(), os.Remove(aside))
	}
	return l, nil
}
