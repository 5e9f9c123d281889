package proc

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Wrapper makes *os.File of sockets without giving them to the Go runtime's
// poller, where [os.NewFile] puts every non-blocking descriptor: each packet on a
// held socket would wake the daemon, and adding and removing thousands of them is
// a quarter of a collection's time. The file is made of /dev/null, and the socket
// is moved to its number.
type Wrapper struct{ null int }

// NewWrapper makes a wrapper. The caller closes it.
func NewWrapper() (*Wrapper, error) {
	fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", os.DevNull, err)
	}
	return &Wrapper{null: fd}, nil
}

// Close closes the wrapper; the files that it made stay open.
func (w *Wrapper) Close() error { return unix.Close(w.null) }

// File turns a descriptor into a file that owns it. If it fails, the caller
// still does.
func (w *Wrapper) File(fd int, name string) (*os.File, error) {
	number, err := unix.FcntlInt(uintptr(w.null), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate descriptor: %w", err)
	}
	f := os.NewFile(uintptr(number), name)
	if err := unix.Dup3(fd, number, unix.O_CLOEXEC); err != nil {
		return nil, errors.Join(fmt.Errorf("move descriptor: %w", err), f.Close())
	}
	unix.Close(fd) //nolint:errcheck // another descriptor of the same file is open
	return f, nil
}
