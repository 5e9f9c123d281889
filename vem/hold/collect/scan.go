package collect

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/fsnotify"
	"github.com/snapctl/snapctl/vem/hold/proc"
)

// found is one distinct socket of the app, duplicated.
type found struct {
	fd      int // ours
	owners  []hold.Owner
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
	notes   []hold.Note
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
	return proc.Duplicate(ctx, pid, func(fd, copied int, at proc.Attributes) (bool, error) {
		owner := hold.Owner{PID: pid, FD: fd}
		switch have := s.sockets[at.Inode]; {
		case s.objects.isQueue(pid, at):
			return s.objects.add(hold.Mqueue, pid, fd, copied)
		case at.Mode&unix.S_IFMT != unix.S_IFSOCK:
			link, err := decideFile(pid, fd, hold.Facts{Mode: at.Mode, Rdev: at.Rdev})
			if link == fsnotify.FanotifyLink && fsnotify.Waiting(copied) {
				return false, hold.UnreadFanotify().Refusal(pid, fd)
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
		s.sockets[at.Inode] = &found{fd: copied, owners: []hold.Owner{owner}}
		s.order = append(s.order, at.Inode)
		return true, nil
	})
}

// decideFile judges a file that is no socket. The link is read only where it
// decides or tells the user something, and returned then.
func decideFile(pid, fd int, facts hold.Facts) (link string, err error) {
	switch facts.Mode & unix.S_IFMT {
	case 0, unix.S_IFCHR, unix.S_IFBLK:
		link, err := os.Readlink(proc.FDPath(pid, fd))
		if err != nil {
			return "", proc.Gone(pid, err)
		}
		facts.Link = link
	}
	if v := hold.Decide(facts); v.Fate == hold.Refused {
		return "", v.Refusal(pid, fd)
	}
	return facts.Link, nil
}
