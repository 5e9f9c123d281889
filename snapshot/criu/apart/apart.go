// Package apart gives a CRIU mounts of its own, so that it can be shown other things at a path than
// everybody else sees there.
//
//	Move (on the thread that starts CRIU) ──▶ Do (on a thread of the caller's, as often as it likes)
//
// What is mounted for CRIU ends with it, whatever ends or fails before: nothing has to be put back.
package apart

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Move moves the calling thread, which has to end afterwards, into a mount namespace of its own, with
// the mounts of that which it was in. What is unmounted there is unmounted here too, if its mounts are
// shared (mount_namespaces(7)); nothing that is mounted here is seen there. A process that the thread
// starts is in it. It needs CAP_SYS_ADMIN.
func Move() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil { //nolint:forbidigo // no network namespace
		return fmt.Errorf("make mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("part from the mounts of the host: %w", err)
	}
	return nil
}

// Do calls fn on a thread that is in the mount namespace of a process, and ends with fn. It needs
// CAP_SYS_ADMIN and CAP_SYS_CHROOT.
func Do(pid int, fn func() error) error {
	return OnThread(func() error {
		ns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("find mount namespace of CRIU: %w", err)
		}
		defer unix.Close(ns) //nolint:errcheck // a handle
		// Threads that share their root directory can't be in different mount namespaces.
		if err := unix.Unshare(unix.CLONE_FS); err != nil { //nolint:forbidigo // no network namespace
			return fmt.Errorf("unshare root directory: %w", err)
		}
		if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil { //nolint:forbidigo // no network namespace
			return fmt.Errorf("enter mount namespace of CRIU: %w", err)
		}
		return fn()
	})
}

// OnThread calls fn on a thread that ends with it.
func OnThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() //nolint:forbidigo // for good: the thread ends with its goroutine
		if unix.Gettid() == unix.Getpid() {
			// The first thread would not end (runtime/proc.go, mexit). Here it is kept from
			// being the next one, too.
			done <- OnThread(fn)
			runtime.UnlockOSThread() //nolint:forbidigo // as it was
			return
		}
		done <- fn()
	}()
	return <-done
}
