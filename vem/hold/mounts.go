package hold

import (
	"fmt"
	"os"

	"github.com/moby/sys/mountinfo"
)

// mountsOf lists the mounts that a process sees. CRIU can save a file only if it lies
// on one of them (files-reg.c, dump_one_reg_file: "Can't lookup mount").
func mountsOf(pid int) ([]*mountinfo.Info, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return nil, gone(pid, err)
	}
	defer f.Close() //nolint:errcheck // read only
	list, err := mountinfo.GetMountsFromReader(f, nil)
	if err != nil {
		return nil, gone(pid, err)
	}
	return list, nil
}

// mountPoints lists the mount points that a process sees by the ids of the mounts.
func mountPoints(pid int) (map[uint64]string, error) {
	list, err := mountsOf(pid)
	if err != nil {
		return nil, err
	}
	points := make(map[uint64]string, len(list))
	for _, m := range list {
		points[uint64(m.ID)] = m.Mountpoint //nolint:gosec // an id is positive
	}
	return points, nil
}
