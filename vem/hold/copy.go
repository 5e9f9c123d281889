package hold

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ForCopy looks at the frozen processes of an app that goes on, and of which CRIU's images are
// to make copies. A copy gets no held object. So where CRIU would lose something, ForCopy fails
// with an *[UnsupportedError], as [PreflightCopy] does before the freeze.
//
// It returns one descriptor of each eventfd that has EFD_SEMAPHORE, since CRIU saves only the
// count of it. Before Linux 6.6 the kernel does not tell which have it (fs/eventfd.c,
// eventfd_show_fdinfo), and a copy gets plain ones.
func ForCopy(ctx context.Context, pids []int) (_ []Descriptor, err error) {
	var seen objects
	defer seen.close()
	for _, pid := range pids {
		if err := seen.ofCopy(ctx, pid); err != nil {
			return nil, err
		}
	}
	out := make([]Descriptor, len(seen.list))
	for i, o := range seen.list {
		out[i] = o.owners[0]
	}
	return out, nil
}

// ofCopy adds the counting eventfds of a process.
func (o *objects) ofCopy(ctx context.Context, pid int) error {
	return duplicate(ctx, pid, func(fd, copied int, at attributes) (bool, error) {
		if at.mode&unix.S_IFMT != 0 {
			return false, nil
		}
		link, err := os.Readlink(fmt.Sprintf("%s/%d", fdDir(pid), fd))
		if err != nil {
			return false, gone(pid, err)
		}
		switch kind, _ := objectKind(link); {
		case kind == Eventfd && countsDown(pid, fd) == yes:
			return o.add(kind, pid, fd, copied)
		case kind == Inotify && waiting(copied):
			return false, unreadInotify().refusal(pid, fd)
		case link == fanotifyLink && waiting(copied):
			return false, unreadFanotify().refusal(pid, fd)
		}
		return false, nil
	})
}

// tristate is an answer that the kernel may not give.
type tristate int

const (
	unknown tristate = iota
	yes
	no
)

// countsDown tells whether an eventfd has EFD_SEMAPHORE, from Linux 6.6 on.
func countsDown(pid, fd int) tristate {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, fd))
	if err != nil {
		return unknown // closed meanwhile
	}
	_, value, ok := strings.Cut(string(b), "eventfd-semaphore:")
	switch {
	case !ok:
		return unknown
	case strings.HasPrefix(strings.TrimSpace(value), "1"):
		return yes
	default:
		return no
	}
}

// Copyable tells whether a copy of the saved app would have everything that is held here,
// connections aside. Returns an *[UnsupportedError] if not: messages in POSIX queues and events
// in inotify instances can be held, but not copied.
func (s *Set) Copyable() error {
	for _, o := range s.Objects {
		at := o.Owners[0]
		switch {
		case o.Kind == Mqueue:
			return &UnsupportedError{PID: at.PID, FD: at.FD, What: "POSIX message queue", Remedy: "nobody can copy it: wake the app, which must close and unlink it"}
		case o.Kind == File && o.Lent.Path == "":
			return &UnsupportedError{
				PID: at.PID, FD: at.FD, What: "file " + strconv.Quote(o.Lent.Name) + " that is on none of the app's mounts",
				Remedy: "wake the app, which must close it: it can be held for a wake, but a copy can't open it",
			}
		case o.Kind == Inotify && waiting(int(o.File.Fd())):
			v := unreadInotify()
			return &UnsupportedError{PID: at.PID, FD: at.FD, What: v.What, Remedy: "wake the app, which has to read them first"}
		}
	}
	return nil
}
