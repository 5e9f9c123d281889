package terminal

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// New says what a pseudo-terminal is to be like that is made for a [Tree].
type New struct {
	Number   int // N of /dev/pts/N
	Flags    int // of the master's open file, as in open(2)
	Packet   bool
	UID, GID int // of the slave; -1: as the file system has it
	Size     unix.Winsize
}

// Tree is a file system of pseudo-terminals (devpts) that is not mounted anywhere yet, with
// both ends of each. It is made before the processes are that are to have them.
type Tree struct {
	mount     *os.File
	terminals []made
}

type made struct {
	New
	ends
}

// MakeTree makes a file system of pseudo-terminals. Options and flags are those of mount(2),
// numbers of the terminals are the keys of the result of [Tree.Masters]. The caller closes
// it.
//
// It needs CAP_SYS_ADMIN.
func MakeTree(options map[string]string, flags uint64, terminals []New) (_ *Tree, err error) {
	t := &Tree{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make terminals: %w", err), t.Close())
		}
	}()
	if t.mount, err = makeMount(options, flags); err != nil {
		return nil, err
	}
	var surplus []*os.File // of numbers that are not wanted: the kernel gives the lowest free one
	defer func() {
		for _, f := range surplus {
			err = errors.Join(err, f.Close())
		}
	}()
	for _, want := range terminals {
		for {
			master, number, err := t.openMaster()
			if err != nil {
				return nil, err
			}
			if number == want.Number {
				m := made{New: want, ends: ends{master: master}}
				err := m.prepare()
				t.terminals = append(t.terminals, m)
				if err != nil {
					return nil, fmt.Errorf("prepare /dev/pts/%d: %w", number, err)
				}
				break
			}
			surplus = append(surplus, master)
			if number > want.Number {
				return nil, fmt.Errorf("terminal %d is taken: the numbers do not ascend", want.Number)
			}
		}
	}
	return t, nil
}

// makeMount makes a new instance of devpts (Linux 4.7), which is mounted nowhere.
func makeMount(options map[string]string, flags uint64) (*os.File, error) {
	fd, err := unix.Fsopen("devpts", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make devpts: %w", err)
	}
	config := os.NewFile(uintptr(fd), "devpts")
	defer config.Close() //nolint:errcheck // what it makes stays
	if err := unix.FsconfigSetString(fd, "source", "devpts"); err != nil {
		return nil, fmt.Errorf("make devpts: %w", err)
	}
	for key, value := range options {
		if value == "" {
			err = unix.FsconfigSetFlag(fd, key)
		} else {
			err = unix.FsconfigSetString(fd, key, value)
		}
		if err != nil {
			return nil, fmt.Errorf("make devpts: option %s=%s: %w", key, value, err)
		}
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return nil, fmt.Errorf("make devpts: %w", err)
	}
	var attr int
	for flag, a := range map[uint64]int{
		unix.MS_RDONLY: unix.MOUNT_ATTR_RDONLY, unix.MS_NOSUID: unix.MOUNT_ATTR_NOSUID, unix.MS_NODEV: unix.MOUNT_ATTR_NODEV,
		unix.MS_NOEXEC: unix.MOUNT_ATTR_NOEXEC, unix.MS_NOATIME: unix.MOUNT_ATTR_NOATIME, unix.MS_NODIRATIME: unix.MOUNT_ATTR_NODIRATIME,
	} {
		if flags&flag != 0 {
			attr |= a
		}
	}
	mount, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return nil, fmt.Errorf("make devpts: %w", err)
	}
	return os.NewFile(uintptr(mount), "devpts"), nil
}

func (t *Tree) openMaster() (*os.File, int, error) {
	fd, err := unix.Openat(int(t.mount.Fd()), "ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("open ptmx: %w", err)
	}
	master := os.NewFile(uintptr(fd), "ptmx")
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("unlock a terminal: %w", err), master.Close())
	}
	return master, number, nil
}

// prepare opens the slave, which stays open until Settle, so that the terminal can't
// leave its session meanwhile (drivers/tty/tty_io.c, tty_release), and makes it raw.
func (m *made) prepare() error {
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, m.master.Fd(), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC)
	if errno != 0 {
		return errno
	}
	m.slave = os.NewFile(fd, "slave")
	if m.UID >= 0 && m.GID >= 0 {
		if err := m.slave.Chown(m.UID, m.GID); err != nil {
			return err
		}
	}
	// Before there is a session: it would get SIGWINCH (drivers/tty/pty.c, pty_resize).
	return unix.IoctlSetWinsize(int(m.master.Fd()), unix.TIOCSWINSZ, &m.Size)
}

// Masters are the masters' files by number. They stay those of the tree.
func (t *Tree) Masters() map[int]*os.File {
	masters := make(map[int]*os.File, len(t.terminals))
	for _, m := range t.terminals {
		masters[m.Number] = m.master
	}
	return masters
}

// Type lets somebody read bytes from a terminal, as they are, who opens its slave. It
// returns an error if they do not fit.
func (t *Tree) Type(number int, b []byte) error {
	for _, m := range t.terminals {
		if m.Number != number {
			continue
		}
		// With VMIN and VTIME of 0 all is read at once, and then the file ends
		// (drivers/tty/n_tty.c, n_tty_read): CRIU reads on until it does (criu/bfd.c, brefill).
		raw := unix.Termios{Cflag: unix.CS8 | unix.CREAD | unix.B38400}
		if err := unix.IoctlSetTermios(int(m.slave.Fd()), unix.TCSETS, &raw); err != nil {
			return fmt.Errorf("make /dev/pts/%d raw: %w", number, err)
		}
		left, err := writeSome(int(m.master.Fd()), b)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("%d of %d bytes do not fit", len(left), len(b))
		}
		if err != nil {
			err = errors.Join(fmt.Errorf("write to /dev/pts/%d: %w", number, err), m.flush())
		}
		return err
	}
	return fmt.Errorf("write to /dev/pts/%d: there is none", number)
}

func (m *made) flush() error {
	return unix.IoctlSetInt(int(m.slave.Fd()), unix.TCFLSH, unix.TCIOFLUSH)
}

// Attach mounts the tree in the mount namespace of a process, in the place of what is
// mounted at dir there. So its files are of that namespace, also those that are open.
func (t *Tree) Attach(pid int, dir string) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() //nolint:forbidigo // not unlocked: the thread dies with this goroutine
		done <- t.attach(pid, dir)
	}()
	if err := <-done; err != nil {
		return fmt.Errorf("mount terminals at %s: %w", dir, err)
	}
	return nil
}

func (t *Tree) attach(pid int, dir string) error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return err
	}
	defer ns.Close()                                    //nolint:errcheck // a handle
	if err := unix.Unshare(unix.CLONE_FS); err != nil { //nolint:forbidigo // the thread has its own directory then, as setns(2) wants it
		return err
	}
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil { //nolint:forbidigo // not a network one
		return err
	}
	if err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err != nil {
		return err
	}
	return unix.MoveMount(int(t.mount.Fd()), "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// Settle makes the terminals what they are to be, right before their processes go on, and
// lets go of them.
func (t *Tree) Settle() error {
	var errs []error
	for _, m := range t.terminals {
		master := int(m.master.Fd())
		err := m.flush()
		if m.Packet {
			err = errors.Join(err, unix.IoctlSetPointerInt(master, unix.TIOCPKT, 1))
		}
		_, ferr := unix.FcntlInt(m.master.Fd(), unix.F_SETFL, m.Flags)
		if err = errors.Join(err, ferr); err != nil {
			errs = append(errs, fmt.Errorf("settle /dev/pts/%d: %w", m.Number, err))
		}
	}
	return errors.Join(append(errs, t.Close())...)
}

// Close lets go of the terminals. A second call does nothing.
func (t *Tree) Close() error {
	for _, m := range t.terminals {
		m.close()
	}
	t.terminals = nil
	if t.mount == nil {
		return nil
	}
	mount := t.mount
	t.mount = nil
	return mount.Close()
}
