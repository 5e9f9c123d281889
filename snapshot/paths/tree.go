package paths

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// tree is the directory trees that processes see: one for each mount namespace.
type tree struct {
	roots   []*root
	byMount map[uint64]*root
	whole   bool // nothing was left out
}

// root is the root directory of a mount namespace.
type root struct {
	fd    int
	mount uint64
	proc  map[uint64]bool // the mounts that are of /proc
}

// openTree opens the trees of processes. A namespace in which all of them have changed
// their root is left out: its paths begin elsewhere.
func openTree(pids []int) (*tree, error) {
	t := &tree{byMount: make(map[uint64]*root), whole: true}
	done, left := make(map[string]bool), make(map[string]bool)
	for _, pid := range pids {
		dir := "/proc/" + strconv.Itoa(pid)
		ns, err1 := os.Readlink(dir + "/ns/mnt")
		top, err2 := os.Readlink(dir + "/root")
		if err1 != nil || err2 != nil || done[ns] {
			continue
		}
		if top != "/" {
			left[ns] = true
			continue
		}
		if err := t.add(dir); err != nil {
			if gone(err) {
				continue
			}
			t.close()
			return nil, fmt.Errorf("look at the mounts of process %d: %w", pid, err)
		}
		done[ns] = true
	}
	for ns := range left {
		t.whole = t.whole && done[ns]
	}
	return t, nil
}

// add adds the mount namespace of a process.
func (t *tree) add(dir string) error {
	mounts, err := readMounts(dir)
	if err != nil {
		return err
	}
	fd, err := unix.Open(dir+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	r := &root{fd: fd, proc: make(map[uint64]bool)}
	t.roots = append(t.roots, r)
	for _, m := range mounts {
		id := uint64(m.ID) //nolint:gosec // an id is positive
		t.byMount[id], r.proc[id] = r, m.FSType == "proc"
	}
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st); err == nil {
		r.mount = st.Mnt_id
	}
	return nil
}

func (t *tree) close() {
	for _, r := range t.roots {
		unix.Close(r.fd) //nolint:errcheck // only looked at
	}
}

// stat looks at what an absolute path leads to. It follows no link at its end; there is
// none before, for the kernel has made the path.
func (r *root) stat(name string, st *unix.Statx_t) error {
	name = strings.TrimLeft(name, "/")
	flags := unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT | unix.AT_STATX_DONT_SYNC
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	for {
		if err := unix.Statx(r.fd, name, flags, wanted, st); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// readOnly tells whether nothing can be made in a directory.
func (r *root) readOnly(dir string) bool {
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
	fd, err := unix.Openat2(r.fd, dir, how)
	if err != nil {
		return false
	}
	defer unix.Close(fd) //nolint:errcheck // only looked at
	var st unix.Statfs_t
	return unix.Fstatfs(fd, &st) == nil && st.Flags&unix.ST_RDONLY != 0
}

// readMounts lists the mounts that a process sees.
func readMounts(dir string) ([]*mountinfo.Info, error) {
	f, err := os.Open(dir + "/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read from
	return mountinfo.GetMountsFromReader(f, nil)
}
