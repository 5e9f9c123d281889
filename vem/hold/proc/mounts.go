package proc

import (
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Mounts lists the mounts that a process sees. CRIU can save a file only if it lies
// on one of them (files-reg.c, dump_one_reg_file: "Can't lookup mount").
func Mounts(pid int) ([]*mountinfo.Info, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return nil, Gone(pid, err)
	}
	defer f.Close() //nolint:errcheck // read only
	list, err := mountinfo.GetMountsFromReader(f, nil)
	if err != nil {
		return nil, Gone(pid, err)
	}
	return list, nil
}

// MountPoints lists the mount points that a process sees by the ids of the mounts.
func MountPoints(pid int) (map[uint64]string, error) {
	list, err := Mounts(pid)
	if err != nil {
		return nil, err
	}
	points := make(map[uint64]string, len(list))
	for _, m := range list {
		points[uint64(m.ID)] = m.Mountpoint //nolint:gosec // an id is positive
	}
	return points, nil
}

// HasOwnMount tells whether a path belongs to one of the kernel's internal
// mounts, which no process has in its mount table.
func HasOwnMount(link string) bool {
	for _, prefix := range []string{"/memfd:", "/secretmem", "/dmabuf:", "/SYSV", "/dev/zero"} {
		if strings.HasPrefix(link, prefix) {
			return true
		}
	}
	return false
}

// Below tells whether an absolute path is one of the folders, or is below one.
func Below(name string, folders []string) bool {
	if !strings.HasPrefix(name, "/") {
		return false
	}
	name = path.Clean(name)
	for _, folder := range folders {
		folder = path.Clean(folder)
		if folder == "/" || name == folder || strings.HasPrefix(name, folder+"/") {
			return true
		}
	}
	return false
}

// Devices are the file systems that outlive an app, read when they are needed.
type Devices struct{ known map[uint64]bool }

// Mounted tells whether a file system is mounted in our own mount namespace.
func (d *Devices) Mounted(dev uint64) (bool, error) {
	if d.known == nil {
		known, err := mountedDevices()
		if err != nil {
			return false, err
		}
		d.known = known
	}
	return d.known[dev], nil
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
