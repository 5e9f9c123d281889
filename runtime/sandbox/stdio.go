package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Stdio says what the standard streams of the program are. By default standard input is
// the app's /dev/null, and standard output and error are its log.
type Stdio struct {
	// Stdin, Stdout and Stderr are paths of FIFOs that somebody outside of the app reads
	// and writes; they may be the same. Empty: the default.
	Stdin, Stdout, Stderr string
	// Terminal is the path of a pseudo-terminal (/dev/pts/N), of which somebody outside of
	// the app has the master. It is all three streams, and the controlling terminal of the
	// program. Empty: no terminal.
	Terminal string
}

// Streams are the open standard streams of a program, by descriptor; nil is the app's own
// /dev/null.
type Streams [3]*os.File

// Close closes the streams.
func (s Streams) Close() error {
	var errs []error
	for i, f := range s {
		if f != nil && !slices.Contains(s[:i], f) {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// OpenStdio opens the standard streams for a program that is to be started or restored. It
// waits for nobody at the other end. The caller closes them.
//
// As long as somebody has them open, whoever is at the other end sees neither an end of
// file nor a broken pipe nor a hangup: who saves the app keeps them open while it has no
// processes.
func (s *Sandbox) OpenStdio() (_ Streams, err error) {
	var streams Streams
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open standard streams: %w", err), streams.Close())
		}
	}()
	if s.Stdio.Terminal != "" {
		terminal, err := openStream(s.Stdio.Terminal, unix.O_RDWR|unix.O_NOCTTY, unix.S_IFCHR)
		return Streams{terminal, terminal, terminal}, err
	}
	if s.Stdio.Stdin != "" {
		// Without waiting for a writer, fifo(7).
		if streams[0], err = openStream(s.Stdio.Stdin, unix.O_RDONLY, unix.S_IFIFO); err != nil {
			return Streams{}, err
		}
	}
	paths := [3]string{1: s.Stdio.Stdout, 2: s.Stdio.Stderr}
	for fd := 1; fd <= 2; fd++ {
		switch {
		case fd == 2 && paths[1] == paths[2]:
			streams[2] = streams[1]
		case paths[fd] == "":
			streams[fd], err = s.openLog()
		default:
			streams[fd], err = openForWriting(paths[fd])
		}
		if err != nil {
			return Streams{}, err
		}
	}
	return streams, nil
}

// openForWriting opens a FIFO that may have no reader.
func openForWriting(path string) (*os.File, error) {
	reader, err := openStream(path, unix.O_RDONLY, unix.S_IFIFO)
	if err != nil {
		return nil, err
	}
	defer reader.Close() //nolint:errcheck // nothing was read
	return openStream(path, unix.O_WRONLY, unix.S_IFIFO)
}

// openStream opens a file of a type, without waiting, for who waits then when reading and
// writing. Go's own way would make it one that does not wait: the program shares its
// settings.
func openStream(path string, flags int, kind uint32) (*os.File, error) {
	fd, err := unix.Open(path, flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Stat_t
	err = errors.Join(unix.Fstat(fd, &st), unix.SetNonblock(fd, false))
	if err == nil && st.Mode&unix.S_IFMT != kind {
		err = fmt.Errorf("%s: neither the FIFO nor the terminal that it should be", path)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openLog opens the app's log for appending.
func (s *Sandbox) openLog() (*os.File, error) {
	f, err := os.OpenFile(s.LogFile(), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open app log: %w", err)
	}
	return f, nil
}
