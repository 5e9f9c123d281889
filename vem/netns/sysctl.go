package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// sysctls is where everybody finds the sysctls of network namespaces.
const sysctls = "/proc/sys/net"

// Sysctls calls fn with a directory that is /proc/sys/net, for as long as fn runs. Like that it
// shows the network namespace of the thread which looks into it, so call it within [NS.Do].
//
// It is for who reads many of them. The kernel keeps an inode and a name, some 0.9 KiB, of each
// file of /proc/sys that was looked at, until the namespace ends or memory gets scarce: 700 KiB for
// all sysctls of a namespace. So the directory is in a proc file system of its own, which nobody
// else sees, and with which they go (Linux 5.8: fs/proc/root.c, proc_fs_context_get_tree; until
// then all of one pid namespace were the same). Where none can be made, for want of CAP_SYS_ADMIN,
// it is that of everybody.
//
// Cost: 0.1 ms, and 1 us for each file that was looked at.
func Sysctls(fn func(dir string) error) error {
	proc, err := mountProc()
	if err != nil {
		return fn(sysctls)
	}
	defer proc.Close() //nolint:errcheck // the last handle of a mount to which nothing is written
	return fn(filepath.Join("/proc/self/fd", fmt.Sprint(proc.Fd()), "sys/net"))
}

// HasSysctl tells, within [NS.Do], whether a sysctl has a value; several numbers may be apart by any
// space. path is below /proc/sys/net. What can't be read has none.
func HasSysctl(path, value string) bool {
	// Not as a file of package os, which would be waited for by epoll(7): that takes twice as long.
	fd, err := unix.Open(filepath.Join(sysctls, path), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd) //nolint:errcheck // only read from
	var have [256]byte
	n, err := unix.Read(fd, have[:])
	return err == nil && n < len(have) && slices.Equal(strings.Fields(string(have[:n])), strings.Fields(value))
}

// WriteSysctl sets a sysctl, within [NS.Do]. path is below /proc/sys/net. It returns an error wrapping
// fs.ErrNotExist if the kernel has none of this name.
func WriteSysctl(path, value string) error {
	f, err := os.OpenFile(filepath.Join(sysctls, path), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// mountProc makes a proc file system and returns its root, which lies at no path. It goes with
// the last open file in it.
func mountProc() (*os.File, error) {
	fs, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a proc file system: %w", err)
	}
	defer unix.Close(fs) //nolint:errcheck // a handle
	err = unix.FsconfigCreate(fs)
	var root int
	if err == nil {
		root, err = unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	}
	if err != nil {
		return nil, fmt.Errorf("make a proc file system: %w", err)
	}
	return os.NewFile(uintptr(root), "proc"), nil
}
