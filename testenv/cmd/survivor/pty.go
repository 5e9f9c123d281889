package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// openPTY opens both ends of a new pseudo terminal.
func openPTY() (master, slave, n int, err error) {
	master, err = unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, 0, 0, err
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return 0, 0, 0, err
	}
	n, err = unix.IoctlGetInt(master, unix.TIOCGPTN)
	if err != nil {
		return 0, 0, 0, err
	}
	slave, err = unix.Open(fmt.Sprintf("/dev/pts/%d", n), unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	return master, slave, n, err
}

// pty is a pseudo terminal with a size and modes, and data both ways.
func pty() (check, error) {
	master, slave, n, err := openPTY()
	if err != nil {
		return nil, err
	}
	modes, err := unix.IoctlGetTermios(slave, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	modes.Lflag &^= unix.ECHO | unix.ICANON
	modes.Oflag &^= unix.OPOST
	size := &unix.Winsize{Row: 33, Col: 99}
	err = errors.Join(unix.IoctlSetTermios(slave, unix.TCSETS, modes), unix.IoctlSetWinsize(master, unix.TIOCSWINSZ, size))
	return func(string) error {
		now, err := unix.IoctlGetWinsize(slave, unix.TIOCGWINSZ)
		if err != nil {
			return err
		}
		after, err := unix.IoctlGetTermios(slave, unix.TCGETS)
		if err != nil {
			return err
		}
		name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", slave))
		return errors.Join(
			err, same("name", name, fmt.Sprintf("/dev/pts/%d", n)), same("rows", now.Row, 33), same("columns", now.Col, 99),
			same("local modes", after.Lflag, modes.Lflag), same("output modes", after.Oflag, modes.Oflag),
			write(master, "typed"), expect(slave, "typed"), write(slave, "shown"), expect(master, "shown"),
		)
	}, err
}

// ptyQueued is a terminal with data that is not read yet, both ways.
func ptyQueued() (check, error) {
	master, slave, _, err := openPTY()
	if err != nil {
		return nil, err
	}
	modes, err := unix.IoctlGetTermios(slave, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	modes.Lflag &^= unix.ECHO | unix.ICANON
	err = errors.Join(unix.IoctlSetTermios(slave, unix.TCSETS, modes), write(master, "typed"), write(slave, "shown"))
	return func(string) error {
		return errors.Join(expect(slave, "typed"), expect(master, "shown"))
	}, err
}
