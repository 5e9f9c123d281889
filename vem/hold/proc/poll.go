package proc

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Poll is poll(2) without waiting. A signal of the Go runtime's own interrupts it all the
// same, if nothing is ready (fs/select.c, do_poll).
func Poll(p []unix.PollFd) error {
	for {
		if _, err := unix.Poll(p, 0); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
