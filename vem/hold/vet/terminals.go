package vet

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/proc"
)

// maxControls is how many open files of /dev/tty CRIU can save: it numbers external
// terminals, which they are to it, from 1012 to 1076 (criu/tty.c, ext_fd_get_index).
const maxControls = 64

// maxTerminal is the highest number of a pseudo-terminal that CRIU can save
// (criu/tty.c, MAX_PTY_INDEX).
const maxTerminal = 1000

// terminals remembers the pseudo-terminals of an app. CRIU saves one only if its master
// is open in the app too, since what is at the other end of a slave belongs to it
// (criu/tty.c, tty_verify_active_pairs).
type terminals struct {
	masters  map[int]uint64     // the file system that each is on
	slaves   map[int]hold.Owner // one of each
	gone     map[int]hold.Owner // one of each that is hung up
	controls map[int]hold.Owner // one that has /dev/tty open on it, of each
	count    int                // of descriptors of /dev/tty
}

// The devices of terminals have the numbers of Documentation/admin-guide/devices.txt.

// isTerminal tells whether a device is a pseudo-terminal's master or slave, or
// /dev/tty.
func isTerminal(rdev uint64) bool {
	major := unix.Major(rdev)
	return isMaster(rdev) || isControl(rdev) || major >= 128 && major <= 143
}

// isMaster tells whether a device is /dev/ptmx, by which masters are opened.
func isMaster(rdev uint64) bool { return rdev == unix.Mkdev(5, 2) }

// isControl tells whether a device is /dev/tty, a process's controlling terminal.
func isControl(rdev uint64) bool { return rdev == unix.Mkdev(5, 0) }

// see looks at a descriptor of a terminal, a device rdev on the file system dev; mounted tells whether it lies on a mount of
// the app.
func (t *terminals) see(p *preflight, at hold.Owner, rdev, dev uint64, mounted bool) {
	if t.masters == nil {
		t.masters = make(map[int]uint64)
		t.slaves, t.gone, t.controls = make(map[int]hold.Owner), make(map[int]hold.Owner), make(map[int]hold.Owner)
	}
	master := isMaster(rdev)
	number, err := terminalNumber(at, master)
	hungUp := errors.Is(err, unix.EIO) // drivers/tty/tty_io.c, hung_up_tty_ioctl
	switch {
	case err != nil && !hungUp:
		return // closed meanwhile
	case !mounted:
		p.add(Error, at.PID, at.FD, outsideTerminal())
	case master:
		if other, ok := t.masters[number]; ok && other != dev {
			// CRIU knows a terminal by its number alone (criu/tty.c, tty_gen_id).
			p.add(Error, at.PID, at.FD, hold.Refuse(hold.Other, fmt.Sprintf("terminal of number %d, which one of another devpts has too", number),
				"have all terminals of the app below its /dev/pts: CRIU takes them for the same"))
		}
		t.masters[number] = dev
	case isControl(rdev):
		t.count++
		if other := otherControl(at); other != "" {
			p.add(Error, at.PID, at.FD, hold.Refuse(hold.Other, "/dev/tty under the name "+other, "the app must open it as /dev/tty: CRIU can't save it otherwise"))
		} else if !hungUp {
			t.controls[number] = at
		}
	case hungUp:
		t.gone[int(unix.Minor(rdev))] = at
	default:
		t.slaves[number] = at
	}
	if number > maxTerminal {
		p.add(Error, at.PID, at.FD, hold.Refuse(hold.Other, fmt.Sprintf("terminal of number %d", number),
			fmt.Sprintf("close terminals in the app: CRIU can save those up to number %d", maxTerminal)))
	}
}

func outsideTerminal() hold.Verdict {
	return hold.Refuse(hold.Other, "terminal whose other end is outside of the app",
		"it was started from a session of `snapctl exec --tty`: end it, or start it with its input and output elsewhere (setsid PROGRAM </dev/null >LOG 2>&1)")
}

// judge tells which terminals can't be saved.
func (t *terminals) judge(p *preflight) {
	for _, of := range []map[int]hold.Owner{t.slaves, t.controls} {
		for _, number := range slices.Sorted(maps.Keys(of)) {
			if at := of[number]; !t.has(number) {
				p.add(Error, at.PID, at.FD, hold.Refuse(hold.Other, fmt.Sprintf("terminal /dev/pts/%d whose other end is outside of the app", number),
					"end the process that has it, or start it with its input and output elsewhere (setsid PROGRAM </dev/null >LOG 2>&1)"))
			}
		}
	}
	for _, number := range slices.Sorted(maps.Keys(t.gone)) {
		if at := t.gone[number]; t.has(number) {
			// CRIU knows a terminal by its number alone (criu/tty.c, tty_gen_id).
			p.add(Error, at.PID, at.FD, hold.Refuse(hold.Other, fmt.Sprintf("terminal that is gone, whose number %d another one has", number),
				"end the process that has it, or close the new terminal: CRIU takes them for the same"))
		}
	}
	if t.count > maxControls {
		for _, number := range slices.Sorted(maps.Keys(t.controls)) {
			at := t.controls[number]
			p.add(Error, at.PID, at.FD, hold.Refuse(hold.Other, fmt.Sprintf("/dev/tty beside %d others", t.count-1),
				fmt.Sprintf("end some of the shells: CRIU can save %d open files of it", maxControls)))
			break
		}
	}
}

// has tells whether the app has the master of a terminal open.
func (t *terminals) has(number int) bool {
	_, ok := t.masters[number]
	return ok
}

// terminalNumber is N of the /dev/pts/N that a descriptor leads to. Returns unix.EIO
// if the terminal is gone.
func terminalNumber(at hold.Owner, master bool) (int, error) {
	pidfd, err := unix.PidfdOpen(at.PID, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(pidfd) //nolint:errcheck // nothing was written
	fd, err := unix.PidfdGetfd(pidfd, at.FD, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd) //nolint:errcheck // the app's own descriptor stays open
	if master {
		return unix.IoctlGetInt(fd, unix.TIOCGPTN)
	}
	dev, err := unix.IoctlGetUint32(fd, unix.TIOCGDEV)
	// As new_encode_dev of linux/kdev_t.h.
	return int(dev&0xff | dev>>12&0xfff00), err
}

// otherControl is the name by which a descriptor of /dev/tty was opened, if it is not
// that of the app's own /dev.
func otherControl(at hold.Owner) string {
	var open, own unix.Stat_t
	name := proc.FDPath(at.PID, at.FD)
	if unix.Stat(name, &open) != nil || unix.Stat(fmt.Sprintf("/proc/%d/root/dev/tty", at.PID), &own) != nil || open.Dev == own.Dev {
		return ""
	}
	link, _ := os.Readlink(name)
	return strings.TrimSuffix(link, " (deleted)")
}
