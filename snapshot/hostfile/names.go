package hostfile

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mostLooks is how often the mappings of one process, which may change meanwhile, are
// looked at.
const mostLooks = 500

// Names finds out which copies processes use, since an earlier restore, and returns them
// by CRIU's names for them: file[<mount id>:<inode>], both hexadecimal (files-reg.c,
// dump_one_reg_file). Only they have the mounts, so CRIU has to be told that these files
// are external.
func (s *Store) Names(pids []int, files []File) (map[string]File, error) {
	byInode := make(map[uint64]File, len(files))
	devices := make(map[uint64]uint64, len(files))
	for i := range files {
		if files[i].ID == "" {
			continue
		}
		var st unix.Stat_t
		if err := unix.Lstat(s.Path(&files[i]), &st); err != nil {
			continue // nobody can have it: it would not have been swept
		}
		byInode[st.Ino], devices[st.Ino] = files[i], st.Dev
	}
	names := make(map[string]File)
	if len(byInode) == 0 {
		return names, nil
	}
	// look returns false if there is nothing at a link any more.
	look := func(link string) (bool, error) {
		var st unix.Statx_t
		err := unix.Statx(unix.AT_FDCWD, link, 0, unix.STATX_INO|unix.STATX_MNT_ID, &st) // STATX_MNT_ID: Linux 5.8
		if isMissing(err) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.EACCES) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("look at file of a process: %w", err)
		}
		if f, ok := byInode[st.Ino]; ok && devices[st.Ino] == unix.Mkdev(st.Dev_major, st.Dev_minor) {
			names[fmt.Sprintf("file[%x:%x]", st.Mnt_id, st.Ino)] = f
		}
		return true, nil
	}
	for _, pid := range pids {
		links := append(descriptors(pid), fmt.Sprintf("/proc/%d/exe", pid))
		for _, link := range links {
			if _, err := look(link); err != nil {
				return nil, err
			}
		}
		for range mostLooks {
			again, err := lookAtMappings(pid, byInode, look)
			if err != nil {
				return nil, err
			}
			if !again {
				break
			}
		}
	}
	return names, nil
}

// lookAtMappings looks at one mapping of each file. again tells that there was a file of
// which no mapping stayed for long enough.
func lookAtMappings(pid int, files map[uint64]File, look func(link string) (bool, error)) (again bool, err error) {
	seen := make(map[uint64]bool)
	lerr := eachMapping(pid, func(m mapping) {
		inode, perr := strconv.ParseUint(m.inode, 10, 64)
		if _, ok := files[inode]; perr != nil || !ok || seen[inode] || err != nil {
			return
		}
		var there bool
		there, err = look(mapFile(pid, m.addresses))
		seen[inode] = there
	})
	if isMissing(lerr) || errors.Is(lerr, unix.ESRCH) {
		lerr = nil // the process has ended
	}
	for _, there := range seen {
		again = again || !there
	}
	return again, errors.Join(err, lerr)
}

// mapFile is the link to what is mapped at a range, as /proc/PID/maps has it: that
// fills addresses up to 8 digits, and the links' names have none to spare
// (fs/proc/base.c, dname_to_vma_addr).
func mapFile(pid int, addresses string) string {
	from, to, _ := strings.Cut(addresses, "-")
	return fmt.Sprintf("/proc/%d/map_files/%s-%s", pid, strings.TrimLeft(from, "0"), strings.TrimLeft(to, "0"))
}
