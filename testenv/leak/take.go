package leak

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/testenv/internal/mount"
	"github.com/snapctl/snapctl/testenv/internal/process"
	"github.com/snapctl/snapctl/vem/netns"
)

// takeSelf looks at the calling process: descriptors and children, also ended
// ones that nobody waited for.
func (s State) takeSelf() error {
	// Go opens an epoll descriptor with the first file that can be waited for,
	// and keeps it: have it there from the first look on.
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("open pipe: %w", err)
	}
	if err = errors.Join(r.Close(), w.Close()); err != nil {
		return err
	}
	if err = s.takeFiles("test process", os.Getpid()); err != nil {
		return err
	}
	all, err := process.List()
	if err != nil {
		return err
	}
	for _, p := range all {
		if p.PPID == os.Getpid() {
			s.add("test process", "child process", p.Comm)
		}
	}
	return nil
}

func (s State) takeHost(h *host.Host) error {
	pids, err := h.Pids()
	if err != nil {
		return err
	}
	nets := make(map[uint64]string) // inode: a path that leads there
	for _, pid := range pids {
		p, perr := process.Get(pid)
		if errors.Is(perr, process.ErrGone) || perr == nil && p.Zombie() {
			continue
		}
		if perr != nil {
			return perr
		}
		s.add(h.Name(), "process", p.Comm)
		if err = s.takeFiles(h.Name()+" "+p.Comm, pid); err != nil {
			return err
		}
		if ino := process.Namespace(pid, "net"); ino != 0 {
			nets[ino] = fmt.Sprintf("/proc/%d/ns/net", pid)
		}
	}
	groups, err := h.Cgroups()
	if err != nil {
		return err
	}
	for _, g := range groups {
		s.add(h.Name(), "cgroup", g)
	}
	mounts, err := mount.List(strconv.Itoa(h.KeeperPID()))
	if err != nil {
		return err
	}
	for _, m := range mounts {
		s.add(h.Name(), m.FSType+" mount", m.Point)
		var ino uint64
		if n, _ := fmt.Sscanf(m.Root, "net:[%d]", &ino); n == 1 && m.FSType == "nsfs" {
			nets[ino] = h.Outside(m.Point)
		}
	}
	if err := s.takeOutside(h); err != nil {
		return err
	}
	for ino, path := range nets {
		if err := s.takeNet(h, ino, path); err != nil {
			return err
		}
	}
	if err := s.takeDir(h.Name(), "run file", h.Outside(host.RunDir), 4); err != nil {
		return err
	}
	return s.takeDir(h.Name(), "state file", h.StateDir(), 2)
}

// takeOutside finds mounts of the host in the machine's own mount table, where
// none should ever be.
func (s State) takeOutside(h *host.Host) error {
	mounts, err := mount.List("self")
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if strings.HasPrefix(m.Point, h.Dir()) || strings.Contains(m.Source, h.Dir()) {
			s.add(h.Name(), "mount on the machine", m.Point)
		}
	}
	return nil
}

// takeFiles counts the open files of a process. Those without a path count by
// their kind, since their numbers change when one is closed and another opened.
func (s State) takeFiles(owner string, pid int) error {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	links, err := os.ReadDir(dir)
	if gone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list open files: %w", err)
	}
	for _, l := range links {
		name, err := os.Readlink(filepath.Join(dir, l.Name()))
		if gone(err) {
			continue // such as the descriptor that reads the directory
		}
		if err != nil {
			return fmt.Errorf("list open files: %w", err)
		}
		if kind, number, ok := strings.Cut(name, ":["); ok && strings.Trim(number, "0123456789") == "]" {
			name = kind // socket:[123], pipe:[123], net:[123]
		}
		if strings.HasPrefix(name, dir) || strings.HasPrefix(name, "/proc/") {
			continue // being looked at just now
		}
		if strings.HasPrefix(name, "/sys/fs/cgroup/") && strings.HasPrefix(filepath.Base(name), "cpu.") {
			continue // Go's runtime reads its limits (internal/runtime/cgroup)
		}
		s.add(owner, "open file", name)
	}
	return nil
}

// takeDir lists a directory down to some depth, without what is mounted in it.
func (s State) takeDir(owner, kind, root string, depth int) error {
	var st unix.Stat_t
	if err := unix.Stat(root, &st); errors.Is(err, unix.ENOENT) {
		return nil
	} else if err != nil {
		return fmt.Errorf("list %s: %w", root, err)
	}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if gone(err) {
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if rel == "." {
			return nil
		}
		s.add(owner, kind, rel)
		if !d.IsDir() {
			return nil
		}
		var sub unix.Stat_t
		if err := unix.Lstat(path, &sub); err != nil || sub.Dev != st.Dev || strings.Count(rel, "/")+1 >= depth {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list %s: %w", root, err)
	}
	return nil
}

// takeNet looks into one network namespace.
func (s State) takeNet(h *host.Host, ino uint64, path string) error {
	ns, err := netns.Open(path)
	if gone(err) || errors.Is(err, netns.ErrNotNetNS) {
		return nil // its last process has just ended, or its mount has gone and left the file that it was on
	}
	if err != nil {
		return err
	}
	defer ns.Close() //nolint:errcheck // a handle
	owner := fmt.Sprintf("%s net namespace %d", h.Name(), ino)
	switch {
	case ns.Inode() != ino:
		return nil // another process has the id now
	case ino == h.Net().Inode():
		owner = h.Name()
	default:
		s.add(h.Name(), "net namespace", strconv.FormatUint(ino, 10))
	}
	if err := s.takeTables(owner, ns); err != nil {
		return err
	}
	return ns.Do(func() error { return s.takeLinks(owner) })
}

// gone tells that something went away while it was looked at.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
}
