package main

import (
	"fmt"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// call is one or two system calls that are repeated.
type call []sysCall

type sysCall struct{ nr, fd, size uintptr }

// buffer is what calls read and write.
var buffer [4096]byte

// newCalls makes the calls: getpid, read and write of /dev/zero, and a write to a
// pipe with a read of it, of 1 byte and of a page.
func newCalls() (map[string]call, error) {
	zero, err := unix.Open("/dev/zero", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/zero: %w", err)
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	read := func(fd int, size uintptr) sysCall { return sysCall{unix.SYS_READ, uintptr(fd), size} }
	write := func(fd int, size uintptr) sysCall { return sysCall{unix.SYS_WRITE, uintptr(fd), size} }
	return map[string]call{
		"getpid":     {{unix.SYS_GETPID, 0, 0}},
		"read-zero1": {read(zero, 1)}, "read-zero4096": {read(zero, 4096)},
		"write-zero1": {write(zero, 1)}, "write-zero4096": {write(zero, 4096)},
		"pipe1": {write(pipe[1], 1), read(pipe[0], 1)}, "pipe4096": {write(pipe[1], 4096), read(pipe[0], 4096)},
	}, nil
}

// repeat makes the calls count times, on one processor, and returns how long that
// took. They are made as they are: the Go scheduler is not told.
func (c call) repeat(count int) (time.Duration, error) {
	runtime.LockOSThread()         //nolint:forbidigo // for the processor, not a namespace
	defer runtime.UnlockOSThread() //nolint:forbidigo // its processors are the old ones again
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return 0, fmt.Errorf("read affinity: %w", err)
	}
	for cpu := range 1024 {
		if before.IsSet(cpu) {
			one.Zero()
			one.Set(cpu) // the last one: the first serves most interrupts
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return 0, fmt.Errorf("set affinity: %w", err)
	}
	began := time.Now()
	for range count {
		for _, s := range c {
			n, _, errno := unix.RawSyscall(s.nr, s.fd, uintptr(unsafe.Pointer(&buffer)), s.size)
			if errno != 0 || s.size != 0 && n != s.size {
				return 0, fmt.Errorf("system call %d: %d of %d: %w", s.nr, n, s.size, errno)
			}
		}
	}
	took := time.Since(began)
	return took, unix.SchedSetaffinity(0, &before)
}
