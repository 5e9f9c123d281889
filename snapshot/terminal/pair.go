package terminal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Pair is what CRIU loses or changes of a pseudo-terminal. It reads what waits in the
// terminal and writes it again, through the terminal's settings: output gets a second
// carriage return at each end of a line, input is echoed once more, a line that is not
// complete is lost, and in packet mode each reading has one byte more (criu/tty.c,
// tty_do_dump_queued_data, pty_restore_queued_data). It does not put TIOCEXCL back, and
// fails on the slave of a terminal that is locked, since it locks that first.
//
// So what waits is taken out before CRIU looks, the terminal is unlocked, and all is put
// back as it was.
type Pair struct {
	Number int `json:"number"` // N of /dev/pts/N
	// PID, as the app knows it, and FD are where the master is open.
	PID int `json:"pid"`
	FD  int `json:"fd"`
	// Opened tells that the slave is open, too.
	Opened bool `json:"opened"`
	// Exclusive and MasterExclusive tell that nobody else may open slave and master.
	Exclusive       bool `json:"exclusive,omitempty"`
	MasterExclusive bool `json:"master_exclusive,omitempty"`
	// Locked tells that nobody may open the slave, TIOCSPTLCK.
	Locked bool `json:"locked,omitempty"`
	// Packet tells that the master reads packets, TIOCPKT.
	Packet bool `json:"packet,omitempty"`
	// Settings are the terminal's.
	Settings unix.Termios `json:"settings"`
	// Input waits to be read from the slave, Output from the master.
	Input  []byte `json:"input,omitempty"`
	Output []byte `json:"output,omitempty"`
}

// Special tells whether CRIU would lose anything of the terminal. What is not special
// is not put back.
func (p *Pair) Special() bool {
	return p.Exclusive || p.MasterExclusive || p.Locked || len(p.Input) > 0 || len(p.Output) > 0
}

// Pairs lists the pseudo-terminals of frozen processes, of which root is one. It
// changes nothing.
//
// Cost: 3 us a descriptor, if the app has pseudo-terminals at all.
func Pairs(ctx context.Context, root int, pids []int) ([]Pair, error) {
	some, err := has(root)
	if err != nil || !some {
		return nil, err
	}
	var pairs []Pair
	opened := make(map[int]bool)
	for _, pid := range pids {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		err := each(pid, func(fd int, rdev uint64) error {
			if rdev != masterDevice {
				if number, err := numberOf(pid, fd); err == nil { // else it is gone
					opened[number] = true
				}
				return nil
			}
			p, err := look(pid, fd)
			if err != nil {
				return err
			}
			if !slices.ContainsFunc(pairs, func(have Pair) bool { return have.Number == p.Number }) {
				pairs = append(pairs, p)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("look for terminals of process %d: %w", pid, err)
		}
	}
	for i := range pairs {
		pairs[i].Opened = opened[pairs[i].Number]
	}
	return pairs, nil
}

// masterDevice is the device number of every master: /dev/ptmx.
const masterDevice = 5<<8 | 2

// each calls visit with each descriptor of a terminal that a process has.
func each(pid int, visit func(fd int, rdev uint64) error) error {
	dir := fmt.Sprintf("/proc/%d/fd/", pid)
	names, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil // a process that has ended
	}
	if err != nil {
		return err
	}
	for _, n := range names {
		link, err := os.Readlink(dir + n.Name())
		if err != nil || !strings.HasPrefix(link, "/") {
			continue
		}
		if base := link[strings.LastIndexByte(link, '/'):]; !strings.Contains(link, "/pts/") && base != "/ptmx" && base != "/tty" {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(dir+n.Name(), &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
			continue
		}
		major := unix.Major(st.Rdev)
		if st.Rdev != ControlDevice && st.Rdev != masterDevice && (major < slaveMajor || major > slaveMajorMax) {
			continue
		}
		fd, err := strconv.Atoi(n.Name())
		if err != nil {
			return err
		}
		if err := visit(fd, st.Rdev); err != nil {
			return err
		}
	}
	return nil
}

// look reads the settings of the terminal whose master a process has open.
func look(pid, fd int) (Pair, error) {
	f, err := duplicate(pid, fd)
	if err != nil {
		return Pair{}, err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	master := int(f.Fd())
	p := Pair{FD: fd}
	if p.PID, err = innerPID(pid); err != nil {
		return p, err
	}
	if p.Number, err = unix.IoctlGetInt(master, unix.TIOCGPTN); err != nil {
		return p, fmt.Errorf("ask for the number of a terminal: %w", err)
	}
	packet, err := unix.IoctlGetInt(master, unix.TIOCGPKT)
	if err != nil {
		return p, fmt.Errorf("ask for the packet mode of a terminal: %w", err)
	}
	exclusive, err := unix.IoctlGetInt(master, unix.TIOCGEXCL)
	if err != nil {
		return p, fmt.Errorf("ask whether a terminal is exclusive: %w", err)
	}
	locked, err := unix.IoctlGetInt(master, unix.TIOCGPTLCK)
	if err != nil {
		return p, fmt.Errorf("ask whether a terminal is locked: %w", err)
	}
	p.Packet, p.MasterExclusive, p.Locked = packet != 0, exclusive != 0, locked != 0
	settings, err := unix.IoctlGetTermios(master, unix.TCGETS2) // of the slave (drivers/tty/tty_ioctl.c, tty_mode_ioctl)
	if err != nil {
		return p, fmt.Errorf("ask for the settings of a terminal: %w", err)
	}
	p.Settings = *settings
	return p, nil
}
