package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Pipe is an image of a view that CRIU reads from a named pipe: what opens the image waits
// until it has been served. Serve and Stop may be called at the same time.
type Pipe struct {
	path string
	data []byte

	stopped atomic.Bool
	reader  *os.File // ours, of Stop
}

// Pipe makes an image of the view a named pipe that gives the same bytes. CRIU can read it
// once, and waits for that until the image is served. The caller calls [Pipe.Serve]; when CRIU has ended, or will not read the image any
// more, it calls [Pipe.Stop], waits for the end of Serve, and calls [Pipe.Close].
func (v *View) Pipe(name string) (*Pipe, error) {
	data, err := v.Read(name)
	if err != nil {
		return nil, fmt.Errorf("make image a pipe: %w", err)
	}
	path := filepath.Join(v.dir, name)
	if err := os.Remove(path); err != nil {
		return nil, fmt.Errorf("make image a pipe: %w", err)
	}
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return nil, fmt.Errorf("make image a pipe: %s: %w", name, err)
	}
	return &Pipe{path: path, data: data}, nil
}

// Serve waits until somebody opens the image, calls before, and only then lets the image be
// read. If before fails, the reader finds an empty image.
func (p *Pipe) Serve(before func() error) error {
	f, err := os.OpenFile(p.path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("serve image: %w", err)
	}
	if p.stopped.Load() {
		return f.Close()
	}
	if err := before(); err != nil {
		return errors.Join(err, f.Close())
	}
	// All of it fits, so that the write does not wait for a reader that is only ours.
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETPIPE_SZ, len(p.data)); err != nil {
		return errors.Join(fmt.Errorf("serve image: make the pipe larger: %w", err), f.Close())
	}
	_, err = f.Write(p.data)
	if errors.Is(err, unix.EPIPE) {
		err = nil // the reader has ended, and CRIU tells why
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("serve image: %w", err)
	}
	return nil
}

// Stop ends Serve if nobody has opened the image.
func (p *Pipe) Stop() error {
	p.stopped.Store(true)
	// If Serve waits for a reader, or will, this is the reader (fs/pipe.c, fifo_open).
	f, err := os.OpenFile(p.path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("stop serving image: %w", err)
	}
	p.reader = f
	return nil
}

// Close ends what Stop began.
func (p *Pipe) Close() error {
	if p.reader == nil {
		return nil
	}
	return p.reader.Close()
}
