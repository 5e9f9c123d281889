package collect

import (
	"context"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/fsnotify"
	"github.com/snapctl/snapctl/vem/hold/proc"
)

// ForCopy looks at the frozen processes of an app that goes on, and of which CRIU's images are
// to make copies. A copy gets no held object. So where CRIU would lose something, ForCopy fails
// with an *[hold.UnsupportedError], as the preflight of a copy does before the freeze.
//
// It returns one descriptor of each eventfd that has EFD_SEMAPHORE, since CRIU saves only the
// count of it. Before Linux 6.6 the kernel does not tell which have it (fs/eventfd.c,
// eventfd_show_fdinfo), and a copy gets plain ones.
func ForCopy(ctx context.Context, pids []int) (_ []hold.Descriptor, err error) {
	var seen objects
	defer seen.close()
	for _, pid := range pids {
		if err := seen.ofCopy(ctx, pid); err != nil {
			return nil, err
		}
	}
	out := make([]hold.Descriptor, len(seen.list))
	for i, o := range seen.list {
		out[i] = o.owners[0]
	}
	return out, nil
}

// ofCopy adds the counting eventfds of a process.
func (o *objects) ofCopy(ctx context.Context, pid int) error {
	return proc.Duplicate(ctx, pid, func(fd, copied int, at proc.Attributes) (bool, error) {
		if at.Mode&unix.S_IFMT != 0 {
			return false, nil
		}
		link, err := os.Readlink(proc.FDPath(pid, fd))
		if err != nil {
			return false, proc.Gone(pid, err)
		}
		switch kind, _ := objectKind(link); {
		case kind == hold.Eventfd && countsDown(pid, fd) == yes:
			return o.add(kind, pid, fd, copied)
		case kind == hold.Inotify && fsnotify.Waiting(copied):
			return false, hold.UnreadInotify().Refusal(pid, fd)
		case link == fsnotify.FanotifyLink && fsnotify.Waiting(copied):
			return false, hold.UnreadFanotify().Refusal(pid, fd)
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
