package veil

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/criu/apart"
)

// Hide hides the connections from the process criu, which is in a mount namespace of its own, see
// [apart.Move]. It makes the directory dir, which the process sees too; the caller removes it when the
// process has ended. If it fails nothing is hidden.
//
// It needs CAP_SYS_ADMIN and a kernel that lets the directory of descriptors of a process be mounted
// upon. Linux 6.12 forbids that of the entries in it alone (fs/proc/fd.c, proc_fd_instantiate).
//
// Cost: 0.2 ms for each process with connections.
func (v *Veil) Hide(criu int, dir string) error {
	if v.Len() == 0 {
		return nil
	}
	var mounts []mount
	for pid, shown := range v.shown {
		some, err := prepare(filepath.Join(dir, strconv.Itoa(pid)), pid, shown)
		if err != nil {
			return fmt.Errorf("hide connections: %w", err)
		}
		mounts = append(mounts, some...)
	}
	if err := apart.Do(criu, func() error { return mountAll(mounts) }); err != nil {
		return fmt.Errorf("hide connections: %w", err)
	}
	return nil
}

// mount is a directory that is bound to another one.
type mount struct{ from, to string }

// prepare makes the directory that a process has instead of its own one, with entries that lead to the
// real ones.
func prepare(dir string, pid int, shown []int) ([]mount, error) {
	real, fd := filepath.Join(dir, "real"), filepath.Join(dir, "fd")
	for _, d := range []string{real, fd} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	if err := link(fd, real, shown); err != nil {
		return nil, err
	}
	own := fmt.Sprintf("/proc/%d/fd", pid)
	return []mount{{own, real}, {fd, own}}, nil
}

// link makes entries for numbers, in whose order the directory lists them, as /proc/PID/fd does: CRIU
// looks for what an epoll instance watches by a binary search (criu/eventpoll.c, find_tfd_bsearch).
// A tmpfs lists what was made last first, and some releases of Linux do so the other way round.
func link(dir, real string, numbers []int) error {
	numbers = slices.Sorted(slices.Values(numbers))
	want := make([]string, len(numbers))
	for i, n := range numbers {
		want[i] = strconv.Itoa(n)
	}
	backward := slices.Clone(want)
	slices.Reverse(backward)
	for _, order := range [][]string{backward, want} {
		for _, name := range order {
			if err := os.Symlink(filepath.Join(real, name), filepath.Join(dir, name)); err != nil {
				return err
			}
		}
		listed, err := list(dir)
		if err != nil || slices.Equal(listed, want) {
			return err
		}
		for _, name := range order {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("%s: its file system does not list what is in it in any order of ours: it has to be a tmpfs", dir)
}

// list lists a directory in its own order.
func list(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close() //nolint:errcheck // only read from
	return d.Readdirnames(-1)
}

// mountAll makes mounts for a process that the calling thread shares its mount namespace with, or none.
func mountAll(mounts []mount) error {
	for i, m := range mounts {
		if err := unix.Mount(m.from, m.to, "", unix.MS_BIND, ""); err != nil {
			err = fmt.Errorf("mount on %s: %w", m.to, err)
			for _, done := range mounts[:i] {
				err = errors.Join(err, unix.Unmount(done.to, unix.MNT_DETACH))
			}
			return err
		}
	}
	return nil
}

// Env is an environment variable for a CRIU from which something is hidden: the code that it puts into a process is
// in memory that the process maps (FI_NO_MEMFD of criu/include/fault-injection.h), and not in a memfd,
// which CRIU would look for in the directory of descriptors that it is not shown.
const Env = "CRIU_FAULT=129"
