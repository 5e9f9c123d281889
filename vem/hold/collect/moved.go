package collect

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/proc"
)

// A unix socket is reached by the inode of its file, and keeps the name that it was bound
// to. A program may have moved the file since, so that it appears at once (HAProxy), or
// linked it (supervisord), or moved its directory. CRIU goes by the name alone (sk-unix.c,
// unix_resolve_name and bind_unix_sk): it makes a file there, or one that is deleted at
// once, and new clients find a dead one at its real place. So such a socket is held, and
// one in a copy is bound to where its file was last.

// Moved is a unix socket whose file is not where it was bound, or has more than one name,
// or that was held before: then its mount is one that the app does not have any more.
type Moved struct {
	Inode uint64 // of the socket
	Path  string // of its file now, as the app sees it
	Names int    // how many its file has
}

// FindMoved lists the moved sockets of an app that is to be copied; root is its first
// process. It fails with an *[hold.UnsupportedError] for one whose file it does not find.
func FindMoved(ctx context.Context, pids []int, root int) ([]Moved, error) {
	var out []Moved
	seen := map[uint64]bool{}
	mounts, err := proc.MountPoints(root)
	if err != nil {
		return nil, err
	}
	for _, pid := range pids {
		err := proc.Duplicate(ctx, pid, func(fd, copied int, at proc.Attributes) (bool, error) {
			if at.Mode&unix.S_IFMT != unix.S_IFSOCK || seen[at.Inode] {
				return false, nil
			}
			seen[at.Inode] = true
			if family, err := unix.GetsockoptInt(copied, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil || family != unix.AF_UNIX {
				return false, nil //nolint:nilerr // an O_PATH descriptor
			}
			var d details
			var name rawName
			if name.get(unix.SYS_GETSOCKNAME, copied) != nil || d.unix(copied) != nil {
				return false, nil //nolint:nilerr // an O_PATH descriptor
			}
			place, moved, err := movedTo(copied, name.path(), d.facts)
			if err != nil || place.inode == 0 {
				return false, err
			}
			if _, known := mounts[place.mount]; !moved && known {
				return false, nil
			}
			if !place.isAt(root, place.path) {
				place.path = place.search(root)
			}
			if place.path == "" || len(place.path) >= maxSocketPath {
				return false, hold.Refuse(hold.Unix, "unix socket bound to "+strconv.Quote(name.path())+", whose file was linked or moved to a place that is not found",
					"it can be held for a wake, but not copied: have the program bind the socket where it is used").Refusal(pid, fd)
			}
			out = append(out, Moved{Inode: at.Inode, Path: place.path, Names: place.names})
			return false, nil
		})
		if err != nil && !errors.Is(err, proc.ErrGone) {
			return out, err
		}
	}
	return out, nil
}

const (
	maxSocketPath = 108    // UNIX_PATH_MAX, linux/un.h
	siocunixfile  = 0x89e0 // of the same, Linux 4.10
)

// socketFile is the file of a bound unix socket.
type socketFile struct {
	path   string // empty if the kernel does not tell
	bound  string
	device uint64
	inode  uint64
	names  int
	mount  uint64
}

// isAt tells whether the file is at a path of the app.
func (s *socketFile) isAt(root int, name string) bool {
	var st unix.Stat_t
	return name != "" && unix.Lstat(fmt.Sprintf("/proc/%d/root%s", root, name), &st) == nil && st.Ino == s.inode && st.Dev == s.device
}

// movedTo tells whether the file of a socket that clients find by it is not just where the
// socket was bound.
func movedTo(fd int, bound string, f hold.Facts) (socketFile, bool, error) {
	if bound == "" || bound[0] == '@' || !f.Listening && f.Type != unix.SOCK_DGRAM {
		return socketFile{}, false, nil
	}
	file, err := unix.IoctlRetInt(fd, siocunixfile)
	if errors.Is(err, unix.ENOENT) {
		return socketFile{}, false, nil
	}
	if err != nil {
		return socketFile{}, false, fmt.Errorf("find file of unix socket %q: %w", bound, err)
	}
	defer unix.Close(file) //nolint:errcheck // a handle
	var st unix.Stat_t
	if err := unix.Fstat(file, &st); err != nil {
		return socketFile{}, false, fmt.Errorf("find file of unix socket %q: %w", bound, err)
	}
	place, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", file))
	if err != nil {
		return socketFile{}, false, fmt.Errorf("find file of unix socket %q: %w", bound, err)
	}
	var info unix.Statx_t
	if err := unix.Statx(file, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &info); err != nil {
		return socketFile{}, false, fmt.Errorf("find mount of unix socket %q: %w", bound, err)
	}
	at := socketFile{mount: info.Mnt_id, path: place, bound: bound, device: st.Dev, inode: st.Ino, names: int(st.Nlink)}
	switch {
	case st.Nlink == 0:
		return socketFile{}, false, nil // nobody can find it; CRIU makes it so again
	case strings.HasSuffix(place, " (deleted)"):
		at.path = "" // by another name only
		return at, true, nil
	case bound[0] == '/':
		return at, st.Nlink > 1 || place != path.Clean(bound), nil
	default:
		return at, st.Nlink > 1 || !strings.HasSuffix(place, "/"+path.Clean(bound)), nil
	}
}

// search looks for the file beside the place where the socket was bound, and one directory
// up and down from there.
func (s *socketFile) search(root int) string {
	base := fmt.Sprintf("/proc/%d/root", root)
	if s.isAt(root, s.bound) {
		return s.bound // on a bind, where the kernel tells the path below that
	}
	dir := path.Dir(s.bound)
	if !path.IsAbs(dir) {
		return ""
	}
	for _, dir := range []string{dir, path.Dir(dir)} {
		if found := s.searchIn(base, dir, 1); found != "" {
			return found
		}
	}
	return ""
}

func (s *socketFile) searchIn(base, dir string, depth int) string {
	entries, err := os.ReadDir(base + dir)
	if err != nil {
		return ""
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		switch {
		case e.Type() == os.ModeSocket:
			var st unix.Stat_t
			if unix.Lstat(base+name, &st) == nil && st.Ino == s.inode && st.Dev == s.device {
				return name
			}
		case e.IsDir() && depth > 0:
			if found := s.searchIn(base, name, depth-1); found != "" {
				return found
			}
		}
	}
	return ""
}

// markMoved has the sockets held whose files were moved.
func (s *scanner) markMoved() error {
	for _, inode := range slices.Clone(s.order) {
		f := s.sockets[inode]
		if f.details.facts.Family != unix.AF_UNIX || f.details.facts.NotOpen {
			continue
		}
		_, moved, err := movedTo(f.fd, f.details.path, f.details.facts)
		if err != nil {
			return err
		}
		f.moved = moved
	}
	return nil
}
