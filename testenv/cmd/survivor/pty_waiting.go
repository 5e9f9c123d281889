package main

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// ptyWaiting are terminals with their usual settings, in which something waits that
// those settings would change if it went through them once more.
func ptyWaiting() (check, error) {
	var checks []check
	for name, set := range map[string]func() (check, error){
		"packets": packets, "lines": lines, "half a line": halfLine, "end of input": endOfInput, "raw keys": rawKeys,
		"exclusive": exclusive, "last words": lastWords, "much": much, "stopped": stopped,
	} {
		c, err := set()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		checks = append(checks, func(arg string) error {
			if err := c(arg); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	return func(arg string) error {
		var errs []error
		for _, c := range checks {
			errs = append(errs, c(arg))
		}
		return errors.Join(errs...)
	}, nil
}

// packets waits in the packet mode of telnetd and of VTE.
func packets() (check, error) {
	master, slave, _, err := openPTY()
	if err != nil {
		return nil, err
	}
	err = errors.Join(unix.IoctlSetPointerInt(master, unix.TIOCPKT, 1), write(slave, "shown\n"))
	return func(string) error {
		return errors.Join(reads(master, "\x00shown\r\n"), write(slave, "more"), reads(master, "\x00more"))
	}, err
}

// lines were typed, and are echoed; and shown.
func lines() (check, error) {
	master, slave, _, err := openPTY()
	if err != nil {
		return nil, err
	}
	err = errors.Join(write(master, "typed\rtwice\r"), echoed(master, len("typed\r\ntwice\r\n")), write(slave, "shown\n"))
	return func(string) error {
		return errors.Join(reads(slave, "typed\n"), reads(slave, "twice\n"), reads(master, "typed\r\ntwice\r\nshown\r\n"))
	}, err
}

// echoed waits until so much can be read.
func echoed(fd, n int) error {
	for {
		if err := readable(fd); err != nil {
			return err
		}
		if have, err := unix.IoctlGetInt(fd, unix.TIOCINQ); err != nil || have >= n {
			return err
		}
	}
}

// halfLine was typed: nobody can read it yet, and the user can take it back.
func halfLine() (check, error) {
	master, slave, _, err := openPTY()
	if err != nil {
		return nil, err
	}
	err = errors.Join(write(master, "one\rtwo3"), reads(master, "one\r\ntwo3"))
	return func(string) error {
		return errors.Join(
			reads(slave, "one\n"), reads(slave, ""), // and no more
			write(master, "\x7f\r"), reads(slave, "two\n"), reads(master, "\b \b\r\n"),
		)
	}, err
}

// endOfInput was typed after some input.
func endOfInput() (check, error) {
	master, slave, _, err := openPTY()
	if err != nil {
		return nil, err
	}
	err = write(master, "\x16\x04some\x04\x04next\r") // the first one is quoted
	return func(string) error {
		return errors.Join(reads(slave, "\x04some"), reads(slave, ""), reads(slave, "next\n"))
	}, err
}

// rawKeys were typed ahead of an editor.
func rawKeys() (check, error) {
	master, slave, _, err := openPTY()
	if err != nil {
		return nil, err
	}
	modes, err := unix.IoctlGetTermios(slave, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	modes.Lflag &^= unix.ICANON | unix.ECHO | unix.ISIG | unix.IEXTEN
	modes.Iflag &^= unix.ICRNL | unix.IXON
	modes.Cc[unix.VMIN] = 2
	const keys = "\x03\x04\r\x11\x13\x7f\x00end"
	err = errors.Join(unix.IoctlSetTermios(slave, unix.TCSETS, modes), write(master, keys))
	return func(string) error {
		after, err := unix.IoctlGetTermios(slave, unix.TCGETS)
		if err != nil {
			return err
		}
		return errors.Join(same("settings", *after, *modes), reads(slave, keys), reads(master, ""))
	}, err
}

// exclusive is a terminal that nobody else may open, but for root.
func exclusive() (check, error) {
	_, slave, _, err := openPTY()
	if err != nil {
		return nil, err
	}
	err = unix.IoctlSetInt(slave, unix.TIOCEXCL, 0)
	return func(string) error {
		on, err := unix.IoctlGetInt(slave, unix.TIOCGEXCL)
		return errors.Join(err, same("exclusive", on, 1))
	}, err
}

// lastWords are output of a program that has ended.
func lastWords() (check, error) {
	master, slave, _, err := openPTY()
	if err != nil {
		return nil, err
	}
	err = errors.Join(write(slave, "bye\n"), unix.Close(slave))
	return func(string) error { return reads(master, "bye\r\n") }, err
}

// much output waits, more than a terminal's own buffer has room for.
func much() (check, error) {
	master, slave, _, err := openPTY()
	if err != nil {
		return nil, err
	}
	var want strings.Builder
	for i := range 1500 {
		line := fmt.Sprintf("line %d\n", i)
		if err := write(slave, line); err != nil {
			return nil, err
		}
		want.WriteString(line[:len(line)-1] + "\r\n")
	}
	return func(string) error { return reads(master, want.String()) }, nil
}

// stopped is output that the user has stopped, with some of it waiting. It is only
// stopped in an app that goes on.
func stopped() (check, error) {
	master, slave, _, err := openPTY()
	if err != nil {
		return nil, err
	}
	err = errors.Join(write(slave, "shown\n"), write(master, "\x13"))
	return func(string) error { return errors.Join(reads(master, "shown\r\n"), write(master, "\x11")) }, err
}

// reads wants to read exactly this, and then nothing; or, at the slave of a terminal
// with lines, this in one piece.
func reads(fd int, want string) error {
	var got []byte
	buf := make([]byte, 65536)
	for len(got) < len(want) {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(ready, 5000); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		} else if n == 0 {
			break
		}
		n, err := unix.Read(fd, buf)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("after %q: %w", got, err)
		}
		got = append(got, buf[:max(n, 0)]...)
	}
	if want == "" {
		if n, err := unix.Read(fd, buf); err == nil {
			got = append(got, buf[:n]...)
		} else if !errors.Is(err, unix.EAGAIN) {
			return err
		}
	}
	if string(got) != want {
		return fmt.Errorf("got %q, want %q", clip(got), clip([]byte(want)))
	}
	return nil
}

func clip(b []byte) []byte {
	if len(b) > 200 {
		return append(append([]byte{}, b[:100]...), b[len(b)-100:]...)
	}
	return b
}
