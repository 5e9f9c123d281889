package inject

import (
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds each wait for something that takes microseconds if nothing is wrong. A process whose
// threads do not all stop stands still as long.
const patience = time.Second

// Serve is the whole of the tracer's process: it does what is asked at in, and answers at out, until
// there is no more, or a process has not been stopped or let go of as it should. Its goroutine must be
// locked to its thread, since ptrace(2) is between threads.
func Serve(in io.Reader, out io.Writer) error {
	// A daemon that ends closes out, and who ends the daemon may send signals to us, too. We end when
	// in does, and not in the middle of a call.
	signal.Ignore(unix.SIGPIPE, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT)
	dec, enc := gob.NewDecoder(in), gob.NewEncoder(out)
	taken := -1 // the descriptor of the answer before, which the daemon has taken when it asks again
	for {
		var r request
		if dec.Decode(&r) != nil {
			return nil //nolint:nilerr // the daemon has ended, or needs us no more
		}
		if taken >= 0 {
			if err := unix.Close(taken); err != nil {
				return os.NewSyscallError("close", err)
			}
		}
		a := serve(r)
		taken = a.Descriptor
		if err := enc.Encode(a); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
		if a.Ended {
			return nil // and the kernel lets go of threads that did not stop
		}
	}
}

// serve does what is asked.
func serve(r request) answer {
	p := &process{pid: r.PID}
	fd, err := p.open(r.Call)
	a := answer{Descriptor: fd}
	var ofCall callError
	switch {
	case errors.As(err, &ofCall):
		a.Errno = int(ofCall)
	case err != nil:
		a.Err, a.Unsupported, a.Ended = err.Error(), errors.Is(err, ErrUnsupported), true
	}
	return a
}
