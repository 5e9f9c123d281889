package hold

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// ErrGone says that a process ended while its descriptors were looked at.
var ErrGone = errors.New("process is gone")

// descriptors lists the descriptor numbers of a process, without reading the
// links: on Linux 6.18 listing costs 0.7 us a descriptor, a readlink or statx of
// /proc/PID/fd/N another 3 us, pidfd_getfd and fstat together 1.4 us.
func descriptors(pid int) ([]int, error) {
	dir, err := os.Open(fdDir(pid))
	if err != nil {
		return nil, gone(pid, err)
	}
	defer dir.Close() //nolint:errcheck // read only
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, gone(pid, err)
	}
	fds := make([]int, 0, len(names))
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil {
			return nil, fmt.Errorf("list descriptors of process %d: %w", pid, err)
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

func fdDir(pid int) string { return "/proc/" + strconv.Itoa(pid) + "/fd" }

// gone turns the errors of a process that ended into ErrGone.
func gone(pid int, err error) error {
	// EINVAL: it ends and has no namespaces any more (fs/proc_namespace.c, mounts_open_common).
	if errors.Is(err, unix.ESRCH) || errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("look at process %d: %w", pid, ErrGone)
	}
	return fmt.Errorf("look at process %d: %w", pid, err)
}

// found is one distinct socket of the app, duplicated.
type found struct {
	fd      int // ours
	owners  []Owner
	details details
	moved   bool // see [Moved]
	awaited bool // it is held for messages in it, or in one that it is connected to
}

// scanner gathers the sockets and objects of an app's processes, one copy of each.
type scanner struct {
	sockets map[uint64]*found
	order   []uint64 // their inodes, as they were found
	objects objects
	lent    lent
	notes   []Note
	unseen  [][]byte // of unix sockets in other namespaces
}

func newScanner(opt Options) *scanner {
	return &scanner{sockets: map[uint64]*found{}, lent: lent{opt: opt}}
}

func (s *scanner) close() {
	for _, f := range s.sockets {
		if f.fd >= 0 {
			unix.Close(f.fd) //nolint:errcheck // a duplicate that was never used
		}
	}
	s.sockets = nil
	s.objects.close()
	s.lent.close()
}

// process adds the sockets and objects of one process, and returns an
// *UnsupportedError for the first file of it that neither CRIU nor the hold can
// keep.
func (s *scanner) process(ctx context.Context, pid int) error {
	return duplicate(ctx, pid, func(fd, copied int, at attributes) (bool, error) {
		owner := Owner{PID: pid, FD: fd}
		switch have := s.sockets[at.inode]; {
		case s.objects.isQueue(pid, at):
			return s.objects.add(Mqueue, pid, fd, copied)
		case at.mode&unix.S_IFMT != unix.S_IFSOCK:
			link, err := decideFile(pid, fd, Facts{Mode: at.mode, Rdev: at.rdev})
			if link == fanotifyLink && waiting(copied) {
				return false, unreadFanotify().refusal(pid, fd)
			}
			if kind, ok := objectKind(link); ok && err == nil {
				return s.objects.add(kind, pid, fd, copied)
			}
			if err != nil {
				return false, err
			}
			return s.lent.see(pid, fd, copied, at)
		case have != nil:
			have.owners = append(have.owners, owner)
			return false, nil
		}
		s.sockets[at.inode] = &found{fd: copied, owners: []Owner{owner}}
		s.order = append(s.order, at.inode)
		return true, nil
	})
}

// attributes are those of the file that a descriptor leads to, as in stat(2).
type attributes struct {
	mode             uint32
	rdev, dev, inode uint64
	mount            uint64 // its mount's id; 0 before Linux 5.8
}

// duplicate calls visit with a duplicate of each descriptor of a process, and
// what it leads to; kept tells whether visit owns the duplicate now.
func duplicate(ctx context.Context, pid int, visit func(fd, copied int, at attributes) (kept bool, err error)) error {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return gone(pid, err)
	}
	defer unix.Close(pidfd) //nolint:errcheck // nothing was written
	fds, err := descriptors(pid)
	if err != nil {
		return err
	}
	for _, fd := range fds {
		if err := ctx.Err(); err != nil {
			return err
		}
		copied, err := unix.PidfdGetfd(pidfd, fd, 0)
		switch {
		case errors.Is(err, unix.EBADF):
			continue // closed meanwhile: the app is not frozen
		case errors.Is(err, unix.EMFILE):
			return fmt.Errorf("duplicate descriptor %d of process %d: raise the daemon's RLIMIT_NOFILE: %w", fd, pid, err)
		case err != nil:
			return gone(pid, err)
		}
		kept := false
		// The cached attributes will do: a FUSE or NFS server must not be waited for.
		var st unix.Statx_t
		const flags = unix.AT_EMPTY_PATH | unix.AT_STATX_DONT_SYNC
		if err = unix.Statx(copied, "", flags, unix.STATX_TYPE|unix.STATX_INO|unix.STATX_MNT_ID, &st); err != nil {
			err = fmt.Errorf("stat descriptor %d of process %d: %w", fd, pid, err)
		} else {
			if st.Mask&unix.STATX_MNT_ID == 0 {
				st.Mnt_id = 0
			}
			kept, err = visit(fd, copied, attributes{
				mount: st.Mnt_id,
				mode:  uint32(st.Mode), rdev: unix.Mkdev(st.Rdev_major, st.Rdev_minor), dev: unix.Mkdev(st.Dev_major, st.Dev_minor), inode: st.Ino,
			})
		}
		if !kept {
			unix.Close(copied) //nolint:errcheck // the app's own descriptor stays open
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// decideFile judges a file that is no socket. The link is read only where it
// decides or tells the user something, and returned then.
func decideFile(pid, fd int, facts Facts) (link string, err error) {
	switch facts.Mode & unix.S_IFMT {
	case 0, unix.S_IFCHR, unix.S_IFBLK:
		link, err := os.Readlink(fdDir(pid) + "/" + strconv.Itoa(fd))
		if err != nil {
			return "", gone(pid, err)
		}
		facts.Link = link
	}
	if v := Decide(facts); v.Fate == Refused {
		return "", v.refusal(pid, fd)
	}
	return facts.Link, nil
}
