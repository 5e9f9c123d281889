package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/snapctl/snapctl/runtime/client"
)

// Terminal is what the user sits at. Streams are those of the [World].
type Terminal interface {
	// Is tells whether a stream is a terminal.
	Is(stream any) bool
	// Raw makes a terminal pass on every key, until restore is called.
	Raw(stream any) (restore func() error, err error)
	// Size is that of a terminal.
	Size(stream any) (client.Size, error)
	// Resized tells each new size until ctx ends; then the channel is closed.
	Resized(ctx context.Context, stream any) <-chan client.Size
}

// Console is the real terminal: streams are files.
type Console struct{}

var errNoTerminal = errors.New("not a terminal")

// Is implements [Terminal].
func (Console) Is(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Raw implements [Terminal].
func (Console) Raw(stream any) (restore func() error, err error) {
	f, ok := stream.(*os.File)
	if !ok {
		return nil, errNoTerminal
	}
	old, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("make terminal raw: %w", err)
	}
	return func() error {
		if err := term.Restore(int(f.Fd()), old); err != nil {
			return fmt.Errorf("restore terminal: %w", err)
		}
		return nil
	}, nil
}

// Size implements [Terminal].
func (Console) Size(stream any) (client.Size, error) {
	f, ok := stream.(*os.File)
	if !ok {
		return client.Size{}, errNoTerminal
	}
	columns, rows, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return client.Size{}, fmt.Errorf("get size of terminal: %w", err)
	}
	return client.Size{Rows: uint32(rows), Columns: uint32(columns)}, nil
}

// Resized implements [Terminal].
func (c Console) Resized(ctx context.Context, stream any) <-chan client.Size {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGWINCH)
	sizes := make(chan client.Size)
	go func() {
		defer close(sizes)
		defer signal.Stop(changed)
		for {
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
			size, err := c.Size(stream)
			if err != nil {
				continue // it is gone: there will be no other size
			}
			select {
			case sizes <- size:
			case <-ctx.Done():
				return
			}
		}
	}()
	return sizes
}

// openInput makes a stream's Read end when it is closed. The stream itself stays
// open. Reading a terminal or pipe that the program was started with can't be
// ended otherwise: Go's poller does not have it.
func openInput(stream io.Reader) (io.ReadCloser, error) {
	f, ok := stream.(*os.File)
	if !ok {
		if rc, ok := stream.(io.ReadCloser); ok {
			return rc, nil
		}
		return io.NopCloser(stream), nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("open input: %w", err)
	}
	return &input{file: f, ended: r, end: w}, nil
}

// input reads a file until Close.
type input struct {
	file  *os.File
	ended *os.File // becomes readable when end is closed
	end   *os.File
}

func (in *input) Read(b []byte) (int, error) {
	fds := []unix.PollFd{{Fd: int32(in.file.Fd()), Events: unix.POLLIN}, {Fd: int32(in.ended.Fd()), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("wait for input: %w", err)
		}
		if fds[1].Revents != 0 {
			return 0, io.EOF
		}
		return in.file.Read(b)
	}
}

// Close ends Read, now and later. It leaves the pipe's reading end to be closed
// with the program: a Read may be about to wait on it.
func (in *input) Close() error { return in.end.Close() }
