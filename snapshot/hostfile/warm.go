package hostfile

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Warmed is what [Store.Warm] has kept.
type Warmed struct {
	Kept []File // all of it, pinned
	// Replaced are those that have been replaced on the host since processes opened or
	// mapped them, by CRIU's names for them: see [Store.Names]. CRIU would save them as
	// removed files, and bring them back under other names.
	Replaced map[string]File
}

// Warm keeps what processes use now, so that nothing is left to copy when they are frozen.
// The caller unpins what it returns. What can't be kept is left to [Store.KeepSaved].
func (s *Store) Warm(ctx context.Context, pids []int, p Place) Warmed {
	var mu sync.Mutex
	warmed := Warmed{Replaced: make(map[string]File)}
	var g errgroup.Group
	g.SetLimit(keepers)
	seen := make(map[string]bool)
	for _, pid := range pids {
		for _, u := range uses(pid) {
			inside, bound := p.bind(u.name)
			if seen[u.name] || bound && !u.code {
				continue
			}
			seen[u.name] = true
			g.Go(func() error {
				w, ok, err := p.wanted(u.name)
				if bound {
					w, ok, err = p.bound(u.name, inside), true, nil
				}
				if err != nil || !ok {
					return nil
				}
				name := ""
				if w.Stampless {
					if name, ok = u.replaced(pid, p, w.Path); ok {
						w.Source, w.link = u.link, true
					}
				}
				file, err := s.Keep(ctx, w)
				if err != nil {
					return nil
				}
				mu.Lock()
				defer mu.Unlock()
				warmed.Kept = append(warmed.Kept, file)
				if name != "" && file.ID != "" {
					warmed.Replaced[name] = file
				}
				return nil
			})
		}
	}
	_ = g.Wait() // nobody fails
	return warmed
}

// keepers is how many files are kept at the same time. The journal of a file system
// commits for all who wait.
const keepers = 16

// use is a file that a process maps or has open.
type use struct {
	name, link string
	code       bool // a program or library
}

// replaced returns CRIU's name for a file on the app's root mount, if another file is at its
// path now.
func (u use) replaced(pid int, p Place, path string) (name string, ok bool) {
	var root, st unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, fmt.Sprintf("/proc/%d/root", pid), 0, unix.STATX_MNT_ID, &root) != nil ||
		unix.Statx(unix.AT_FDCWD, u.link, 0, unix.STATX_BASIC_STATS|unix.STATX_MNT_ID, &st) != nil {
		return "", false // it is there no more
	}
	if st.Mnt_id != root.Mnt_id || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return "", false
	}
	if lower, err := statBelow(p.Lower, path); err == nil && lower.Ino&inoBits == st.Ino&inoBits {
		return "", false // its metadata is the app's own
	}
	return fmt.Sprintf("file[%x:%x]", st.Mnt_id, st.Ino), true
}

// uses lists what a process maps or has open, by the paths that it knows. It may run,
// and end, meanwhile.
func uses(pid int) []use {
	var all []use
	add := func(u use) {
		if path.IsAbs(u.name) && path.Clean(u.name) == u.name {
			all = append(all, u)
		}
	}
	_ = eachMapping(pid, func(m mapping) { add(use{m.name, mapFile(pid, m.addresses), m.code}) }) // see above
	exe := fmt.Sprintf("/proc/%d/exe", pid)
	for _, link := range append(descriptors(pid), exe) {
		if name, err := os.Readlink(link); err == nil {
			add(use{name, link, link == exe})
		}
	}
	return all
}

// descriptors lists the links to what a process has open.
func descriptors(pid int) []string {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // it has ended
	}
	links := make([]string, len(entries))
	for i, e := range entries {
		links[i] = filepath.Join(dir, e.Name())
	}
	return links
}

// mapping is a line of /proc/PID/maps that has a file.
type mapping struct {
	addresses, inode, name string
	code                   bool // it may be executed
}

// eachMapping calls fn for each.
func eachMapping(pid int, fn func(mapping)) error {
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read from
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		// 7f..-7f.. r-xp 00000000 08:01 1234   /usr/lib/libc.so.6
		fields := strings.SplitN(lines.Text(), " ", 6)
		if len(fields) < 6 || fields[4] == "0" {
			continue
		}
		// mangle_path escapes no other character of a name there (fs/proc/task_mmu.c, show_map_vma).
		name := strings.ReplaceAll(strings.TrimLeft(fields[5], " "), `\012`, "\n")
		fn(mapping{addresses: fields[0], inode: fields[4], name: name, code: strings.Contains(fields[1], "x")})
	}
	if err := lines.Err(); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
