package collect

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/mqueue"
	"github.com/snapctl/snapctl/vem/hold/proc"
)

// Queues are the POSIX message queues of an app.
type Queues struct {
	Any bool // it has some, open or not
	// External is what CRIU must be told of open ones, as in [hold.Set.External]:
	// they lie on the kernel's own mount.
	External []string
}

// FindQueues looks for the POSIX message queues of a running app. What the app
// changes later is for the caller to notice, by [App] of the frozen app.
func FindQueues(ctx context.Context, pids []int) (Queues, error) {
	var q Queues
	var o objects
	defer o.close()
	for _, pid := range pids {
		names, err := mqueue.Names(pid)
		if err != nil {
			return q, err
		}
		q.Any = q.Any || len(names) > 0
		err = proc.Duplicate(ctx, pid, func(fd, copied int, at proc.Attributes) (bool, error) {
			if !o.isQueue(pid, at) {
				return false, nil
			}
			return o.add(hold.Mqueue, pid, fd, copied)
		})
		if err != nil && !errors.Is(err, proc.ErrGone) {
			return q, err
		}
	}
	for _, have := range o.list {
		q.Any = true
		q.External = append(q.External, have.external)
	}
	return q, nil
}

// isQueue tells whether a file lies on the file system that a process, or one
// that was asked for before, has for its queues.
func (o *objects) isQueue(pid int, at proc.Attributes) bool {
	if at.Mode&unix.S_IFMT != unix.S_IFREG {
		return false
	}
	if o.asked != pid && o.queues == 0 {
		o.asked = pid
		o.queues = mqueue.Device(pid)
	}
	return o.queues != 0 && at.Dev == o.queues
}
