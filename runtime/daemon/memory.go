package daemon

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/memory"
)

// mappedMemory finds the memory files that the app's processes map, by the names
// that CRIU has for them: file[<mount id>:<inode>], both hexadecimal (files-reg.c,
// dump_one_reg_file). The mount is that of the daemon which restored them.
func (d *Daemon) mappedMemory(a *app, rec record) (map[string]memory.File, error) {
	if len(rec.Memory) == 0 {
		return nil, nil
	}
	files := make(map[string]memory.File, len(rec.Memory)) // by inode, as in maps
	for _, f := range rec.Memory {
		var st unix.Stat_t
		if err := unix.Stat(d.memory.Path(f.ID), &st); err != nil {
			return nil, fmt.Errorf("find memory file of %s: %w", rec.Name, err)
		}
		files[strconv.FormatUint(st.Ino, 10)] = f
	}
	pids, err := a.cgroup().PIDs()
	if err != nil {
		return nil, err
	}
	found := make(map[string]memory.File)
	for _, pid := range pids {
		if err := d.mappedBy(pid, files, found); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
			return nil, err // but for a process that has ended
		}
	}
	return found, nil
}

// mappedBy adds what one process maps. Each file is looked at once: all mappings
// of it that a process has come from one restore.
func (d *Daemon) mappedBy(pid int, files, found map[string]memory.File) error {
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return fmt.Errorf("find mapped memory files: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read from
	seen := make(map[string]bool)
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fields := strings.Fields(lines.Text()) // range, protection, offset, device, inode, name
		if len(fields) < 6 || seen[fields[4]] {
			continue
		}
		file, ok := files[fields[4]]
		if !ok {
			continue
		}
		name, err := d.mappedName(mapFile(pid, fields[0]), file.ID)
		if err != nil {
			return err
		}
		if name != "" {
			seen[fields[4]] = true
			found[name] = file
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("find mapped memory files: %w", err)
	}
	return nil
}

// mapFile is the link to what is mapped at a range, as /proc/PID/maps has it: that
// fills addresses up to 8 digits, and the links' names have none to spare
// (fs/proc/base.c, dname_to_vma_addr).
func mapFile(pid int, addresses string) string {
	from, to, _ := strings.Cut(addresses, "-")
	return fmt.Sprintf("/proc/%d/map_files/%s-%s", pid, strings.TrimLeft(from, "0"), strings.TrimLeft(to, "0"))
}

// mappedName returns CRIU's name for what is mapped, or "" if it is another file
// than the memory file.
func (d *Daemon) mappedName(link string, id memory.ID) (string, error) {
	var got unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, link, 0, unix.STATX_INO|unix.STATX_MNT_ID, &got) // STATX_MNT_ID: Linux 5.8
	if errors.Is(err, unix.ENOENT) {
		return "", nil // unmapped meanwhile
	}
	if err != nil {
		return "", fmt.Errorf("look at mapped file: %w", err)
	}
	var want unix.Stat_t
	if err := unix.Stat(d.memory.Path(id), &want); err != nil {
		return "", fmt.Errorf("find memory file: %w", err)
	}
	if got.Ino != want.Ino || unix.Mkdev(got.Dev_major, got.Dev_minor) != want.Dev {
		return "", nil
	}
	return fmt.Sprintf("file[%x:%x]", got.Mnt_id, got.Ino), nil
}
