package hold

import (
	"context"

	"golang.org/x/sys/unix"
)

// OpenSocket is a socket of an app, while it is visited.
type OpenSocket struct {
	Inode uint64
	Owner Owner // one of those who have it open
	// FD is a duplicate, which is closed afterwards.
	FD int
}

// EachSocket visits every socket of the processes, once each. They should be frozen.
//
// Cost: 1.5 us a descriptor.
func EachSocket(ctx context.Context, pids []int, visit func(OpenSocket) error) error {
	seen := make(map[uint64]bool)
	for _, pid := range pids {
		err := duplicate(ctx, pid, func(fd, copied int, at attributes) (bool, error) {
			if at.mode&unix.S_IFMT != unix.S_IFSOCK || seen[at.inode] || isPath(copied) {
				return false, nil
			}
			seen[at.inode] = true
			return false, visit(OpenSocket{Inode: at.inode, Owner: Owner{PID: pid, FD: fd}, FD: copied})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// EachSocket visits every socket that is held, once each.
func (s *Set) EachSocket(visit func(OpenSocket) error) error {
	for i := range s.Sockets {
		k := &s.Sockets[i]
		at := OpenSocket{Inode: k.Inode, FD: int(k.File.Fd())}
		if len(k.Owners) > 0 {
			at.Owner = k.Owners[0]
		}
		if err := visit(at); err != nil {
			return err
		}
	}
	return nil
}

// isPath tells whether a descriptor has a socket's place in the file system alone, and
// not the socket: O_PATH.
func isPath(fd int) bool {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	return err == nil && flags&unix.O_PATH != 0
}
