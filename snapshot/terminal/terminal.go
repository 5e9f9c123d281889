// Package terminal takes care of what CRIU does not of an app's pseudo-terminals.
//
// A pseudo-terminal is a pair: what a terminal emulator (tmux, sshd, a web terminal) has
// open is the master, what a shell has open is the slave, /dev/pts/N. Who opens
// /dev/tty gets the slave of its own controlling terminal.
//
// CRIU restores the terminals whose master the app has open, but for four things:
//
//   - /dev/tty. CRIU saves it only if the same process has the terminal's master. So CRIU is
//     told that /dev/tty is external, [Controls] notes which terminal each open file leads
//     to, and pty.Place makes the file one of that terminal.
//   - What waits in a terminal. CRIU reads it and writes it again, through the terminal's
//     settings, which change it, see [Pair]. So a [Record] takes it out before the dump and
//     puts it back before the processes go on, in the app or in a copy. The record is a file:
//     a new daemon puts back what a killed one has taken out. What was read and is not in the
//     file yet, which takes some microseconds, is lost if the daemon is killed just then.
//   - TIOCEXCL. It is set again.
//   - The controlling terminal of a process that leads no session. The process gets it from
//     its parent at fork, and no system call gives it one later; but CRIU gives the leader
//     its terminal after all forks. So where a session has more processes than its leader, a
//     [Tree] of terminals is made before CRIU starts, in a devpts that is mounted nowhere yet.
//     CRIU inherits the masters as external terminals and opens the slaves as files.
//
// How the leader takes its terminal in time: the image of its first child, which CRIU reads
// after the leader's setsid and before that fork, is in the view a link to /dev/pts/N, and the
// bytes of the image wait in that terminal. Who opens a terminal as a leader without one gets
// it. The devpts has to be in the app's mount namespace by then: the image of each leader is a
// named pipe, so that its parent waits until the tree is attached (package restore). If this
// process is killed all of it is gone, and the next wake makes it anew.
//
// Not mended are the children of processes that have ended, which CRIU has a helper make before
// all others, and sessions of the app's first process: snapshot/preflight lists them.
package terminal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Control is a descriptor on which a process has /dev/tty open.
type Control struct {
	PID int // in the app's pid namespace
	FD  int
	// Number is N of the terminal's /dev/pts/N.
	Number int
	// Console tells that it leads to the terminal that is the app's standard streams, and
	// whose master is somebody else's.
	Console bool
}

// Controls lists the descriptors of /dev/tty of frozen processes, but for those whose
// terminal is gone. It looks for them only if the app, of which root is one of the
// processes, has pseudo-terminals at all, or a console: that is the slave of the terminal
// that is its standard streams; nil if they are none.
//
// Cost: 3 us a descriptor.
func Controls(ctx context.Context, root int, pids []int, console *os.File) ([]Control, error) {
	number := -1
	if console != nil {
		var err error
		if number, err = Number(int(console.Fd())); err != nil {
			return nil, err
		}
	} else if some, err := has(root); err != nil || !some {
		return nil, err
	}
	var list []Control
	for _, pid := range pids {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		found, err := controls(pid)
		if err != nil {
			return nil, fmt.Errorf("look for terminals of process %d: %w", pid, err)
		}
		for _, c := range found {
			c.Console = c.Number == number && onConsole(root, pid, number)
			list = append(list, c)
		}
	}
	return list, nil
}

// onConsole tells whether /dev/tty of a process is the console, which has this number: the
// app may have a terminal of its own with the same one. The console is the controlling
// terminal of the first process's session alone.
func onConsole(root, pid, number int) bool {
	if _, err := os.Lstat(fmt.Sprintf("/proc/%d/root/dev/pts/%d", root, number)); err != nil {
		return true
	}
	first, err := unix.Getsid(root)
	session, serr := unix.Getsid(pid)
	return err == nil && serr == nil && session == first
}

// has tells whether an app has pseudo-terminals.
func has(root int) (bool, error) {
	names, err := os.ReadDir(fmt.Sprintf("/proc/%d/root/dev/pts", root))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for terminals: %w", err)
	}
	return len(names) > 1, nil // there is ptmx
}

func controls(pid int) ([]Control, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	names, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil, nil // a process that has ended
	}
	if err != nil {
		return nil, err
	}
	var list []Control
	inner := 0
	for _, n := range names {
		link, err := os.Readlink(dir + "/" + n.Name())
		if err != nil || !strings.HasPrefix(link, "/dev/tty") {
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(dir+"/"+n.Name(), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != ControlDevice {
			continue
		}
		fd, err := strconv.Atoi(n.Name())
		if err != nil {
			return nil, err
		}
		number, err := numberOf(pid, fd)
		if errors.Is(err, unix.EIO) {
			continue // hung up (drivers/tty/tty_io.c, hung_up_tty_ioctl)
		}
		if err != nil {
			return nil, err
		}
		if inner == 0 {
			if inner, err = innerPID(pid); err != nil {
				return nil, err
			}
		}
		list = append(list, Control{PID: inner, FD: fd, Number: number})
	}
	return list, nil
}

// ControlDevice is the device number of /dev/tty (Documentation/admin-guide/devices.txt).
const ControlDevice = 5 << 8

// External is what CRIU is told of /dev/tty when it dumps an app whose /dev is at dev:
// to leave it alone (criu/tty.c, get_tty_driver). What it writes of it all the same is
// for pty.Place.
func External(dev string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(dev+"/tty", &st); err != nil {
		return "", fmt.Errorf("look for /dev/tty: %w", err)
	}
	return fmt.Sprintf("tty[%x:%x]", ControlDevice, st.Dev), nil
}

// numberOf asks which pseudo-terminal a descriptor leads to.
func numberOf(pid, fd int) (int, error) {
	f, err := duplicate(pid, fd)
	if err != nil {
		return 0, err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	return Number(int(f.Fd()))
}

// Number asks which pseudo-terminal a descriptor of its slave, or of /dev/tty, leads
// to. Returns an error wrapping unix.EIO if the terminal is gone.
func Number(fd int) (int, error) {
	dev, err := unix.IoctlGetUint32(fd, unix.TIOCGDEV)
	if err != nil {
		return 0, fmt.Errorf("ask for the number of a terminal: %w", err)
	}
	// As new_encode_dev of linux/kdev_t.h.
	major, minor := dev>>8&0xfff, dev&0xff|dev>>12&0xfff00
	if major < slaveMajor || major > slaveMajorMax {
		return 0, fmt.Errorf("ask for the number of a terminal: device %d:%d is no pseudo-terminal", major, minor)
	}
	return int(minor) + int(major-slaveMajor)<<8, nil
}

// The major numbers of slaves. Linux has all of them below the first one
// (drivers/tty/pty.c, unix98_pty_init).
const (
	slaveMajor    = 136
	slaveMajorMax = 143
)

// duplicate makes a descriptor of a process one of this process.
func duplicate(pid, fd int) (*os.File, error) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(pidfd) //nolint:errcheck // nothing was written
	copied, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate descriptor %d of process %d: %w", fd, pid, err)
	}
	return os.NewFile(uintptr(copied), "terminal"), nil
}

// innerPID is a process's id in its own pid namespace.
func innerPID(pid int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, "NSpid:"); ok {
			ids := strings.Fields(value)
			return strconv.Atoi(ids[len(ids)-1])
		}
	}
	return 0, fmt.Errorf("look at process %d: no NSpid in its status", pid)
}
