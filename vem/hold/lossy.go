package hold

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// What CRIU 4.2 saves only in part and says nothing, or fails on when the app is
// frozen already. Each was tried.

// mqueueMagic is the file system type of POSIX message queues, ipc/mqueue.c.
const mqueueMagic = 0x19800202

// losing judges a descriptor of which CRIU would lose something. Its link is
// known; mounted tells whether it lies on a mount of the app.
func losing(pid, fd int, link string, mounted bool) (Verdict, bool) {
	switch {
	case link == "anon_inode:[eventfd]" && countsDown(pid, fd):
		// eventfd.c, eventfd_open: made again without the flag.
		return refuse(Other, "eventfd with EFD_SEMAPHORE", "the app must close it: CRIU makes it a plain one, which is read whole"), true
	case link == "anon_inode:inotify" && unread(pid, fd):
		// fsnotify.c saves the watches alone.
		return refuse(Other, "inotify instance with events that wait to be read", "try again: the app has to read them first"), true
	case !mounted && strings.HasPrefix(link, "/") && isMqueue(pid, fd):
		// mq_open(3) opens it on the kernel's own mount: "Can't lookup mount".
		return refuse(Other, "POSIX message queue "+link, mqueueRemedy), true
	}
	return Verdict{}, false
}

const mqueueRemedy = "the app must close and unlink it: CRIU saves neither queues nor messages; System V queues and unix sockets are kept"

// countsDown needs Linux 6.6: before, fdinfo does not tell.
func countsDown(pid, fd int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, fd))
	if err != nil {
		return false // closed meanwhile
	}
	_, value, _ := strings.Cut(string(b), "eventfd-semaphore:")
	return strings.HasPrefix(strings.TrimSpace(value), "1")
}

// unread tells whether an inotify descriptor has events in its queue.
func unread(pid, fd int) bool {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(pidfd) //nolint:errcheck // nothing was written
	copied, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil {
		return false
	}
	defer unix.Close(copied)                         //nolint:errcheck // the app's own descriptor stays open
	n, err := unix.IoctlGetInt(copied, unix.TIOCINQ) // FIONREAD, inotify(7)
	return err == nil && n > 0
}

func isMqueue(pid, fd int) bool {
	var st unix.Statfs_t
	err := unix.Statfs(fdDir(pid)+"/"+strconv.Itoa(fd), &st)
	return err == nil && st.Type == mqueueMagic
}

// queues finds POSIX message queues that no process has open: with one, CRIU
// fails to save their file system (filesystems.c, dump_empty_fs).
func (p *preflight) queues(pid int) error {
	dir := fmt.Sprintf("/proc/%d/root/dev/mqueue", pid)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Type != mqueueMagic {
		return nil //nolint:nilerr // the app has none
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil // the process is gone
	}
	if err != nil {
		return fmt.Errorf("list message queues: %w", err)
	}
	for _, e := range entries {
		v := refuse(Other, "POSIX message queue /"+e.Name(), mqueueRemedy)
		if !p.found(v.What) {
			p.add(Error, pid, noFD, v)
		}
	}
	return nil
}

// found tells whether some process was found to have the same thing.
func (p *preflight) found(what string) bool {
	for _, f := range p.findings {
		var u *UnsupportedError
		if errors.As(f.Err, &u) && u.What == what {
			return true
		}
	}
	return false
}

// terminals remembers the descriptors that matter for controlling terminals.
type terminals struct {
	control Owner // one of /dev/tty
	master  bool  // somebody has a pseudo terminal's master
}

func (t *terminals) see(pid, fd int, rdev uint64) {
	switch rdev {
	case unix.Mkdev(majorTTYAux, 0):
		t.control = Owner{PID: pid, FD: fd}
	case unix.Mkdev(majorTTYAux, minorAuxPtmx):
		t.master = true
	}
}

// judge refuses /dev/tty where the terminal's master is in the app too. CRIU
// takes the master for the terminal that /dev/tty must be restored from, which
// it would do only if one process had both (tty.c, tty_verify_ctty: "ctty
// inheritance detected").
func (t *terminals) judge(p *preflight) {
	if t.control.PID != 0 && t.master {
		p.add(Error, t.control.PID, t.control.FD, refuse(Other, "/dev/tty on a terminal that the app itself made",
			"end interactive shells below screen, tmux, script and the like before hibernating"))
	}
}
