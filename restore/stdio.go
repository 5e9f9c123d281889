package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/stdio"
)

// streams are what takes the place of the saved standard streams, by the key under which
// CRIU inherits it.
type streams map[string]*os.File

// stream is what takes the place of a saved standard stream; nil if it is none, or there
// is none.
func (at *Place) stream(e snapshot.External) *os.File {
	if !isStream(e.Kind) {
		return nil
	}
	fd := e.FD
	if e.Kind == snapshot.ExternalLog && fd == 0 { // saved by an older snapctl
		fd = 1
	}
	return at.Stdio[fd]
}

// openStreams makes descriptors for CRIU to inherit, which do not wait if the saved ones
// did not. A stream that the place lacks is left to options.
func (p *Plan) openStreams(at Place) error {
	p.streams = make(streams)
	for _, e := range p.external {
		f := at.stream(e)
		if f == nil {
			continue
		}
		// One descriptor can't be inherited twice: CRIU closes it after the first time.
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err == nil && e.Open != nil {
			err = unix.SetNonblock(fd, e.Open.Flags&unix.O_NONBLOCK != 0)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("duplicate standard stream %d: %w", e.FD, err), p.streams.close())
		}
		p.streams[stdio.InheritKey(e.Key)] = os.NewFile(uintptr(fd), e.Key)
	}
	return nil
}

func isStream(kind snapshot.ExternalKind) bool {
	return slices.Contains([]snapshot.ExternalKind{snapshot.ExternalLog, snapshot.ExternalFIFO, snapshot.ExternalConsole}, kind)
}

func (s streams) close() error {
	var errs []error
	for key, f := range s {
		errs = append(errs, f.Close())
		delete(s, key)
	}
	return errors.Join(errs...)
}

// keepSize has a terminal whose master is somebody else's keep its size: CRIU sets the one
// that was saved (criu/tty.c, restore_tty_params), and that somebody may have changed it
// since. next is called afterwards.
func (p *Plan) keepSize(at Place, next func(context.Context, int) error) func(context.Context, int) error {
	i := slices.IndexFunc(p.external, func(e snapshot.External) bool { return e.Kind == snapshot.ExternalConsole })
	if i < 0 {
		return next
	}
	terminal := at.stream(p.external[i])
	size, err := unix.IoctlGetWinsize(int(terminal.Fd()), unix.TIOCGWINSZ)
	return func(ctx context.Context, pid int) error {
		if err == nil {
			err = unix.IoctlSetWinsize(int(terminal.Fd()), unix.TIOCSWINSZ, size)
		}
		if err != nil {
			return fmt.Errorf("set size of terminal: %w", err)
		}
		if next == nil {
			return nil
		}
		return next(ctx, pid)
	}
}
