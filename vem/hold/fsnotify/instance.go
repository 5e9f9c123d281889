// Package fsnotify looks at the inotify(7) and fanotify(7) instances of other processes.
//
// CRIU makes an instance again from the paths of what it watches. So two things have to be
// known of each instance: whether the watches of a held one last while the app sleeps
// ([Lasts]), and where each watched inode is found ([Finder], [FindWatched]).
//
// The name is that of the kernel's own subsystem, fs/notify.
package fsnotify

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold/proc"
)

// InotifyLink is what /proc/PID/fd/N shows of an inotify instance.
const InotifyLink = "anon_inode:inotify"

// FanotifyLink is what /proc/PID/fd/N shows of a fanotify group. CRIU saves its
// marks alone (fsnotify.c, dump_one_fanotify), and it can't be held: marks of
// mounts end with the app's mount namespace.
const FanotifyLink = "anon_inode:[fanotify]"

// Lasts tells whether an inotify instance can be held: whether all that it
// watches is there when the app comes back. A watch ends with its file system
// (fs/notify/fsnotify.c, fsnotify_sb_delete), and what only the app has mounted,
// its /proc for one, goes with its mount namespace and is made again by CRIU.
// What lasts is mounted in our own one too.
//
// A process or descriptor that is gone is an error wrapping [proc.ErrGone].
func Lasts(d *proc.Devices, pid, fd int) (bool, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, fd))
	if err != nil {
		return false, proc.Gone(pid, err)
	}
	defer f.Close() //nolint:errcheck // read only
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		dev, ok := watchedDevice(lines.Text())
		if !ok {
			continue
		}
		if known, err := d.Mounted(dev); err != nil || !known {
			return false, err
		}
	}
	if err := lines.Err(); err != nil {
		return false, proc.Gone(pid, err)
	}
	return true, nil
}

// watchedDevice reads a watch's line of fdinfo: "inotify wd:1 ino:2 sdev:10002c
// mask:..." in hexadecimal, with the kernel's own encoding of a device number
// (fs/notify/fdinfo.c, inotify_fdinfo; include/linux/kdev_t.h).
func watchedDevice(line string) (uint64, bool) {
	_, rest, ok := strings.Cut(line, " sdev:")
	if !ok || !strings.HasPrefix(line, "inotify ") {
		return 0, false
	}
	word, _, _ := strings.Cut(rest, " ")
	dev, err := strconv.ParseUint(word, 16, 32)
	return unix.Mkdev(uint32(dev>>20), uint32(dev&(1<<20-1))), err == nil
}

// Waiting tells whether events wait to be read from an instance that this process has open.
func Waiting(fd int) bool {
	n, err := unix.IoctlGetInt(fd, unix.TIOCINQ) // FIONREAD, inotify(7)
	return err == nil && n > 0
}

// Unread tells the same of an instance that another process has open.
func Unread(pid, fd int) bool {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(pidfd) //nolint:errcheck // nothing was written
	copied, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil {
		return false
	}
	defer unix.Close(copied) //nolint:errcheck // the app's own descriptor stays open
	return Waiting(copied)
}
