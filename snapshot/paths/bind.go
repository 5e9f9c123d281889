package paths

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/preflight"
)

// LookAtBinds looks whether the host has at its paths what a process has bound: at a wake
// and at a restore it is bound by them again. binds are the host's paths by where they are
// bound. It adds to s.Unsupported, and to s.Notes for a file that was replaced: the app
// then gets the new one, as it does those below a directory.
func (s *Seen) LookAtBinds(pid int, binds map[string]string) error {
	dir := "/proc/" + strconv.Itoa(pid)
	mounts, err := readMounts(dir)
	if gone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at the mounts of process %d: %w", pid, err)
	}
	for inside, host := range binds {
		at := func(m *mountinfo.Info) bool { return m.Mountpoint == path.Clean(inside) }
		i := slices.IndexFunc(mounts, at)
		if i < 0 || slices.ContainsFunc(mounts[i+1:], at) {
			continue // the app has unmounted it, or mounted something over it
		}
		var have, now unix.Statx_t
		if err := unix.Statx(unix.AT_FDCWD, dir+"/root"+inside, unix.AT_STATX_DONT_SYNC, wanted, &have); err != nil || have.Mnt_id != uint64(mounts[i].ID) {
			continue
		}
		err := unix.Statx(unix.AT_FDCWD, host, unix.AT_STATX_DONT_SYNC, wanted, &now)
		sort := map[bool]string{true: "directory", false: "file"}[uint32(have.Mode)&unix.S_IFMT == unix.S_IFDIR]
		what := fmt.Sprintf("has %s, bound from %s of the host", inside, host)
		switch {
		case err == nil && same(&have, &now):
		case err == nil && sort == "file" && uint32(now.Mode)&unix.S_IFMT == unix.S_IFREG:
			s.Notes = append(s.Notes, preflight.Note{Text: fmt.Sprintf("%s, which the app has bound at %s, was replaced on the host since: the app comes back with the new file", host, inside)})
		case err == nil:
			s.refuse(pid, fmt.Sprintf("%s, where something else is now: the %s was moved or removed", what, sort), "move it back, or end the app and run it anew with another --bind")
		case errors.Is(err, os.ErrNotExist):
			s.refuse(pid, fmt.Sprintf("%s, which is not there any more: the %s was moved or removed", what, sort), "move it back, or end the app and run it anew with another --bind")
		}
	}
	return nil
}

func (s *Seen) refuse(pid int, what, remedy string) {
	s.Unsupported = append(s.Unsupported, &preflight.UnsupportedError{PID: pid, Name: comm(pid), What: what, Remedy: remedy})
}
