package hold

import (
	"context"
	"os"

	"golang.org/x/sys/unix"
)

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

// decideFile judges a file that is no socket. The link is read only where it
// decides or tells the user something, and returned then.
func decideFile(pid, fd int, facts Facts) (link string, err error) {
	switch facts.Mode & unix.S_IFMT {
	case 0, unix.S_IFCHR, unix.S_IFBLK:
		link, err := os.Readlink(fdPath(pid, fd))
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
