package hold

import (
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Queue describes a POSIX message queue, but for its messages. While the queue is held this
// description is not needed. It is for making the queue again, empty, if the queue was lost:
// see [Set.Queues].
type Queue struct {
	Name     string     `json:"name"`               // with a slash
	Unlinked bool       `json:"unlinked,omitempty"` // it has this name no more
	Inode    uint64     `json:"inode"`
	Mode     uint32     `json:"mode"` // permissions
	UID      int        `json:"uid"`
	GID      int        `json:"gid"`
	Messages int        `json:"messages"`       // how many it takes
	Size     int        `json:"size_bytes"`     // of the largest
	Flags    int        `json:"flags"`          // of an open one, as in open(2)
	Owner    Descriptor `json:"owner,omitzero"` // of an open one
}

// Queues lists the queues of the set: each open one for each time that it was
// opened, and those that nobody has open.
func (s *Set) Queues() []Queue {
	open := map[uint64]bool{}
	for _, o := range s.Objects {
		if o.Queue != nil {
			open[o.Queue.Inode] = true
		}
	}
	var out []Queue
	for _, q := range s.queues {
		if !open[q.Inode] {
			out = append(out, q)
		}
	}
	for _, o := range s.Objects {
		if o.Queue != nil {
			q := *o.Queue
			q.Owner = o.Owners[0]
			out = append(out, q)
		}
	}
	return out
}

// describeQueue describes the queue that a descriptor of ours leads to.
func describeQueue(fd int, name string) (*Queue, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("look at message queue: %w", err)
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return nil, fmt.Errorf("look at message queue: %w", err)
	}
	var attr struct{ flags, maxmsg, msgsize, curmsgs, _, _, _, _ int64 } // struct mq_attr, mq_getattr(3)
	if _, _, errno := unix.Syscall(unix.SYS_MQ_GETSETATTR, uintptr(fd), 0, uintptr(unsafe.Pointer(&attr))); errno != 0 {
		return nil, fmt.Errorf("look at message queue: %w", errno)
	}
	name, unlinked := strings.CutSuffix(name, " (deleted)")
	return &Queue{
		Name: "/" + name[strings.LastIndex(name, "/")+1:], Unlinked: unlinked, Inode: st.Ino, Mode: st.Mode & 0o777,
		UID: int(st.Uid), GID: int(st.Gid), Messages: int(attr.maxmsg), Size: int(attr.msgsize), Flags: flags,
	}, nil
}

// namedQueues describes the queues that a process sees by name.
func namedQueues(pid int) ([]Queue, error) {
	names, err := queueNames(pid)
	if err != nil {
		return nil, err
	}
	var out []Queue
	for _, name := range names {
		f, err := os.Open(fmt.Sprintf("/proc/%d/root%s/%s", pid, QueueMount, name))
		if err != nil {
			return nil, fmt.Errorf("look at message queue: %w", err)
		}
		q, err := describeQueue(int(f.Fd()), name)
		_ = f.Close() // only looked at
		if err != nil {
			return nil, err
		}
		out = append(out, *q)
	}
	return out, nil
}
