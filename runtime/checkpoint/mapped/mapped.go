// Package mapped finds the memory files that processes have mapped, as CRIU names them.
package mapped

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

// Find finds which of some memory files of a store processes map, which may run, by the names that CRIU
// has for them: file[<mount id>:<inode>], both hexadecimal (files-reg.c, dump_one_reg_file). The mount is
// that of the daemon which restored them.
func Find(store *memory.Store, some []memory.File, pids func() ([]int, error)) (map[string]memory.File, error) {
	if len(some) == 0 {
		return nil, nil
	}
	f := &finder{store: store, files: make(map[string]memory.File, len(some)), found: make(map[string]memory.File)}
	inodes, err := Inodes(store, some)
	if err != nil {
		return nil, err
	}
	for i, inode := range inodes {
		f.files[strconv.FormatUint(inode, 10)] = some[i]
	}
	list, err := pids()
	if err != nil {
		return nil, err
	}
	return f.found, f.all(list)
}

// Inodes are the inodes of memory files of a store.
func Inodes(store *memory.Store, some []memory.File) ([]uint64, error) {
	list := make([]uint64, len(some))
	for i, file := range some {
		var st unix.Stat_t
		if err := unix.Stat(store.Path(file.ID), &st); err != nil {
			return nil, fmt.Errorf("find memory file %s: %w", file.ID, err)
		}
		list[i] = st.Ino
	}
	return list, nil
}

// finder has what is looked for, by inode, as in maps, and what was found.
type finder struct {
	store        *memory.Store
	files, found map[string]memory.File
}

// all adds what some processes map.
func (f *finder) all(pids []int) error {
	for _, pid := range pids {
		// It runs, and may cut its mappings into others while they are looked at.
		for again, looks := true, 0; again && looks < mostLooks; looks++ {
			var err error
			if again, err = f.by(pid); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
				return err // but for a process that has ended
			}
		}
	}
	return nil
}

// mostLooks is how often the mappings of one process are looked at.
const mostLooks = 500

// by adds what one process maps. Each file is looked at once: all mappings
// of it that a process has come from one restore. again tells that there was a file
// of which no mapping stayed for long enough.
func (f *finder) by(pid int) (again bool, err error) {
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return false, fmt.Errorf("find mapped memory files: %w", err)
	}
	defer maps.Close() //nolint:errcheck // only read from
	seen, missed := make(map[string]bool), make(map[string]bool)
	lines := bufio.NewScanner(maps)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fields := strings.Fields(lines.Text()) // range, protection, offset, device, inode, name
		if len(fields) < 6 || seen[fields[4]] {
			continue
		}
		file, ok := f.files[fields[4]]
		if !ok {
			continue
		}
		name, err := f.name(mapFile(pid, fields[0]), file.ID)
		if errors.Is(err, errUnmapped) {
			missed[fields[4]] = true
			continue
		}
		if err != nil {
			return false, err
		}
		if name != "" {
			seen[fields[4]] = true
			f.found[name] = file
		}
	}
	if err := lines.Err(); err != nil {
		return false, fmt.Errorf("find mapped memory files: %w", err)
	}
	for inode := range missed {
		again = again || !seen[inode]
	}
	return again, nil
}

// mapFile is the link to what is mapped at a range, as /proc/PID/maps has it: that
// fills addresses up to 8 digits, and the links' names have none to spare
// (fs/proc/base.c, dname_to_vma_addr).
func mapFile(pid int, addresses string) string {
	from, to, _ := strings.Cut(addresses, "-")
	return fmt.Sprintf("/proc/%d/map_files/%s-%s", pid, strings.TrimLeft(from, "0"), strings.TrimLeft(to, "0"))
}

// errUnmapped is a mapping that is there no more.
var errUnmapped = errors.New("unmapped meanwhile")

// name returns CRIU's name for what is mapped, or "" if it is another file
// than the memory file.
func (f *finder) name(link string, id memory.ID) (string, error) {
	var got unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, link, 0, unix.STATX_INO|unix.STATX_MNT_ID, &got) // STATX_MNT_ID: Linux 5.8
	if errors.Is(err, unix.ENOENT) {
		return "", errUnmapped
	}
	if err != nil {
		return "", fmt.Errorf("look at mapped file: %w", err)
	}
	var want unix.Stat_t
	if err := unix.Stat(f.store.Path(id), &want); err != nil {
		return "", fmt.Errorf("find memory file: %w", err)
	}
	if got.Ino != want.Ino || unix.Mkdev(got.Dev_major, got.Dev_minor) != want.Dev {
		return "", nil
	}
	return fmt.Sprintf("file[%x:%x]", got.Mnt_id, got.Ino), nil
}
