package main

import (
	"fmt"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// crowd is what makes a program many: what has to be looked at, one by one, while it
// stands still.
type crowd struct{ threads, processes, files int }

func (c crowd) gather() error {
	there := make(chan struct{})
	for range c.threads {
		go func() {
			runtime.LockOSThread() //nolint:forbidigo // for a thread of its own, not a namespace
			there <- struct{}{}
			select {}
		}()
	}
	for range c.threads {
		<-there
	}
	for range c.processes {
		if err := exec.Command("sleep", "infinity").Start(); err != nil { //nolint:noctx,forbidigo // outlives every context
			return fmt.Errorf("start process: %w", err)
		}
	}
	for open := 0; open < c.files; {
		n, err := openSome(open)
		if err != nil {
			return err
		}
		open += n
	}
	return nil
}

// openSome opens a file, or both ends of something, by turns, and returns how many.
func openSome(turn int) (int, error) {
	var two [2]int
	var err error
	n := 2
	switch turn % 5 {
	case 0, 1:
		err = unix.Pipe2(two[:], unix.O_CLOEXEC)
	case 2, 3:
		two, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	default:
		n = 1
		_, err = unix.Open("/etc/passwd", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return 0, fmt.Errorf("open descriptor: %w", err)
	}
	return n, nil
}
