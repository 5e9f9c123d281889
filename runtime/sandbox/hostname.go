package sandbox

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// SetHostname changes the host name that a process sees, and all of its uts
// namespace with it.
func SetHostname(pid int, name string) error {
	return inNS(fmt.Sprintf("/proc/%d/ns/uts", pid), unix.CLONE_NEWUTS, func() error {
		if err := unix.Sethostname([]byte(name)); err != nil {
			return fmt.Errorf("set host name: %w", err)
		}
		return nil
	})
}
