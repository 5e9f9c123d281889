package hold

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

func unreadInotify() Verdict {
	return refuse(Other, "inotify instance with events that wait to be read", "try again: the app has to read them first")
}

// devices are the file systems that outlive an app, read when they are needed.
type devices struct{ known map[uint64]bool }

// lasting tells whether an inotify instance can be held: whether all that it
// watches is there when the app comes back. A watch ends with its file system
// (fs/notify/fsnotify.c, fsnotify_sb_delete), and what only the app has mounted,
// its /proc for one, goes with its mount namespace and is made again by CRIU.
// What lasts is mounted in our own one too.
//
// A process or descriptor that is gone is an error wrapping [ErrGone].
func (d *devices) lasting(pid, fd int) (bool, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, fd))
	if err != nil {
		return false, gone(pid, err)
	}
	defer f.Close() //nolint:errcheck // read only
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		dev, ok := watchedDevice(lines.Text())
		if !ok {
			continue
		}
		if known, err := d.mounted(dev); err != nil || !known {
			return false, err
		}
	}
	if err := lines.Err(); err != nil {
		return false, gone(pid, err)
	}
	return true, nil
}

// mounted tells whether a file system is mounted in our own mount namespace.
func (d *devices) mounted(dev uint64) (bool, error) {
	if d.known == nil {
		known, err := mountedDevices()
		if err != nil {
			return false, err
		}
		d.known = known
	}
	return d.known[dev], nil
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

// mountedDevices lists the file systems of our own mount namespace.
func mountedDevices() (map[uint64]bool, error) {
	list, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, fmt.Errorf("list file systems: %w", err)
	}
	out := map[uint64]bool{}
	for _, m := range list {
		out[unix.Mkdev(uint32(m.Major), uint32(m.Minor))] = true //nolint:gosec // 12 and 20 bits
	}
	return out, nil
}
