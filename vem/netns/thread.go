package netns

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// disposal says what becomes of a thread that ran a function of this package.
type disposal int

const (
	reuse   disposal = iota // as it was before: back to the scheduler
	discard                 // in another namespace: it dies
)

// Do runs fn on a thread of its own inside n and waits for it. It returns fn's
// error, or its own if the namespace could not be entered, in which case fn did
// not run. A panic or a runtime.Goexit (t.FailNow) of fn happens to the caller.
//
// Only fn itself runs inside n: goroutines that it starts do not, nor does what
// it leaves to others, so it must not use net.Dial with a host name or net.Dialer
// (their happy eyeballs start goroutines); net.ListenConfig and raw system calls
// are fine. Sockets, netlink handles and files under /proc/sys/net that fn opens
// belong to n for good, also after Do has returned (sysctl files: the namespace is
// that of the thread which opens them, net/sysctl_net.c net_ctl_header_lookup).
//
// Cost: about 30 us.
func (n *NS) Do(fn func() error) error {
	target, err := n.Dup() // a concurrent Close must not pull the file away
	if err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	defer target.Close() //nolint:errcheck // a handle
	onThread(func() disposal {
		var home *NS
		if home, err = Current(); err != nil {
			return reuse
		}
		defer home.Close() //nolint:errcheck // a handle
		if err = target.enter(); err != nil {
			return reuse
		}
		err = fn()
		if home.enter() != nil {
			return discard
		}
		return reuse
	})
	return err
}

// enter moves the calling thread into n.
func (n *NS) enter() error {
	if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace net:[%d]: %w", n.inode, err)
	}
	return nil
}

// onThread runs fn on a thread other than the process's main one and waits. If
// fn panics or exits its goroutine, the thread dies and the caller does the same.
func onThread(fn func() disposal) {
	done := make(chan struct{})
	var finished bool
	var panicked any
	go func() {
		defer close(done)
		defer func() {
			if finished {
				return
			}
			if r := recover(); r != nil {
				panicked = fmt.Sprintf("%v\n\n%s", r, debug.Stack())
			}
		}()
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// Keep the main thread here, so that the next goroutine gets another.
			defer runtime.UnlockOSThread()
			onThread(fn)
			finished = true
			return
		}
		end := fn()
		finished = true
		if end == reuse {
			runtime.UnlockOSThread()
		}
	}()
	<-done
	switch {
	case panicked != nil:
		panic(panicked)
	case !finished:
		runtime.Goexit()
	}
}
