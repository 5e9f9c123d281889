package mqueue

import (
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold"
)

// Describe describes the queue that a descriptor of ours leads to.
func Describe(fd int, name string) (*hold.Queue, error) {
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
	return &hold.Queue{
		Name: "/" + name[strings.LastIndex(name, "/")+1:], Unlinked: unlinked, Inode: st.Ino, Mode: st.Mode & 0o777,
		UID: int(st.Uid), GID: int(st.Gid), Messages: int(attr.maxmsg), Size: int(attr.msgsize), Flags: flags,
	}, nil
}

// Named describes the queues that a process sees by name.
func Named(pid int) ([]hold.Queue, error) {
	names, err := Names(pid)
	if err != nil {
		return nil, err
	}
	var out []hold.Queue
	for _, name := range names {
		f, err := os.Open(fmt.Sprintf("/proc/%d/root%s/%s", pid, Mount, name))
		if err != nil {
			return nil, fmt.Errorf("look at message queue: %w", err)
		}
		q, err := Describe(int(f.Fd()), name)
		_ = f.Close() // only looked at
		if err != nil {
			return nil, err
		}
		out = append(out, *q)
	}
	return out, nil
}
