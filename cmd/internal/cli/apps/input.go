package apps

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

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
