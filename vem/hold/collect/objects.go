package collect

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/fsnotify"
	"github.com/snapctl/snapctl/vem/hold/mqueue"
	"github.com/snapctl/snapctl/vem/hold/proc"
)

// objectKind tells what kind of held object a descriptor leads to, by its link.
// All of them share one inode (fs/anon_inodes.c).
func objectKind(link string) (hold.Kind, bool) {
	switch link {
	case "anon_inode:[eventfd]":
		return hold.Eventfd, true
	case fsnotify.InotifyLink:
		return hold.Inotify, true
	default:
		return hold.Other, false
	}
}

// objects gathers the objects of an app, one copy of each.
type objects struct {
	list    []*object // in the kernel's order
	devices proc.Devices
	queues  uint64 // device of message queues, if known
	asked   int    // the last process that was asked for it
}

type object struct {
	fd        int // ours
	kind      hold.Kind
	semaphore bool
	external  string
	queue     *hold.Queue
	lent      *hold.Lent
	owners    []hold.Descriptor
}

// add takes a duplicated descriptor; kept tells whether it owns it now. An
// instance that is better saved by CRIU is not kept.
func (o *objects) add(kind hold.Kind, pid, fd, copied int) (kept bool, err error) {
	if kind == hold.Inotify {
		keep, err := fsnotify.Lasts(&o.devices, pid, fd)
		if err != nil || !keep && !fsnotify.Waiting(copied) {
			return false, err
		}
		if !keep {
			return false, hold.UnreadInotify().Refusal(pid, fd)
		}
	}
	inner, err := proc.InnerPID(pid)
	if err != nil {
		return false, err
	}
	owner := hold.Descriptor{PID: inner, FD: fd}
	i, known, err := o.find(copied)
	if err != nil {
		return false, err
	}
	if known {
		o.list[i].owners = append(o.list[i].owners, owner)
		return false, nil
	}
	fresh := &object{fd: copied, kind: kind, owners: []hold.Descriptor{owner}}
	switch kind { //nolint:exhaustive // the others have no more to them
	case hold.Eventfd:
		fresh.semaphore = countsDown(pid, fd) == yes
	case hold.Mqueue:
		if fresh.external, err = mqueue.External(pid, fd); err != nil {
			return false, err
		}
		link, err := os.Readlink(proc.FDPath(pid, fd))
		if err != nil {
			return false, proc.Gone(pid, err)
		}
		if fresh.queue, err = mqueue.Describe(copied, link); err != nil {
			return false, err
		}
	}
	o.list = slices.Insert(o.list, i, fresh)
	return true, nil
}

// find looks for the file behind a descriptor, or for where it belongs.
func (o *objects) find(fd int) (int, bool, error) {
	var failed error
	i, known := slices.BinarySearchFunc(o.list, fd, func(have *object, fd int) int {
		order, err := compare(have.fd, fd)
		failed = errors.Join(failed, err)
		return order
	})
	return i, known, failed
}

// compare orders two descriptors of this process by the open file description
// that they lead to, kcmp(2). The order lasts until the next boot.
func compare(a, b int) (int, error) {
	const kcmpFile = 0
	self := uintptr(os.Getpid())
	r, _, errno := unix.Syscall6(unix.SYS_KCMP, self, self, kcmpFile, uintptr(a), uintptr(b), 0)
	switch {
	case errno != 0:
		return 0, fmt.Errorf("compare descriptors (kernel with CONFIG_KCMP): %w", errno)
	case r == 0:
		return 0, nil
	case r == 1:
		return -1, nil
	default:
		return 1, nil
	}
}

// take moves the objects out.
func (o *objects) take(w *proc.Wrapper) ([]hold.Object, error) {
	list := make([]hold.Object, 0, len(o.list))
	for i, have := range o.list {
		file, err := w.File(have.fd, have.kind.String())
		if err != nil {
			return list, err
		}
		have.fd = -1
		list = append(list, hold.Object{Kind: have.kind, Number: i, Owners: have.owners, Semaphore: have.semaphore, External: have.external, Queue: have.queue, Lent: have.lent, File: file})
	}
	return list, nil
}

func (o *objects) close() {
	for _, have := range o.list {
		if have.fd >= 0 {
			unix.Close(have.fd) //nolint:errcheck // a duplicate that was never used
		}
	}
	o.list = nil
}
