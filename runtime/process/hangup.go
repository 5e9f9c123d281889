package process

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// hangUpTime is how long processes have to end by themselves.
const hangUpTime = 3 * time.Second

// HangUp ends processes by SIGHUP, as when a terminal is closed, and after 3 s what is left of
// them by SIGKILL. One that has ended already is no error.
func HangUp(ctx context.Context, pids []int) error {
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd) //nolint:errcheck // nothing was written
		}
	}()
	// By pidfd: a process that has ended meanwhile leaves its number to others.
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return fmt.Errorf("end process %d: %w", pid, err)
		}
		fds = append(fds, fd)
	}
	deadline := time.Now().Add(hangUpTime)
	for _, signal := range []unix.Signal{unix.SIGHUP, unix.SIGCONT, unix.SIGKILL} {
		for _, fd := range fds {
			if signal == unix.SIGKILL {
				awaitEnd(ctx, fd, deadline)
			}
			if err := unix.PidfdSendSignal(fd, signal, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("end process: %w", err)
			}
		}
	}
	for _, fd := range fds {
		awaitEnd(ctx, fd, time.Now().Add(hangUpTime))
	}
	return cmp.Or(ctx.Err(), nil)
}

// awaitEnd waits until a process has ended, at the longest until the deadline.
func awaitEnd(ctx context.Context, pidfd int, deadline time.Time) {
	for ctx.Err() == nil {
		left := min(time.Until(deadline), 100*time.Millisecond) // then ctx is looked at
		if left < 0 {
			return
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(left/time.Millisecond))
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
