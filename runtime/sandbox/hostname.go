package sandbox

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// SetHostname changes the host name that a process sees, and all of its uts
// namespace with it.
func SetHostname(pid int, name string) error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/uts", pid))
	if err != nil {
		return fmt.Errorf("open uts namespace: %w", err)
	}
	defer ns.Close() //nolint:errcheck // a handle
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()                                              //nolint:forbidigo // not unlocked: the thread dies with this goroutine
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWUTS); err != nil { //nolint:forbidigo // a uts namespace, not a network one
			done <- fmt.Errorf("enter uts namespace: %w", err)
			return
		}
		if err := unix.Sethostname([]byte(name)); err != nil {
			done <- fmt.Errorf("set host name: %w", err)
			return
		}
		done <- nil
	}()
	return <-done
}
