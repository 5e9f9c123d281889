package hold

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Object is one held kernel object that is no socket: an eventfd, an inotify
// instance, which goes on collecting events meanwhile, an open POSIX message
// queue, see [Queues], or a file of the host, see [Lent].
//
// CRIU saves only a part of such an object. It makes an eventfd again without
// EFD_SEMAPHORE (eventfd.c, eventfd_open). It makes an inotify instance again without its
// unread events, and with the basic events of its watches only (fsnotify.c,
// dump_one_inotify, restore_one_inotify). Also, the new object would be another one than
// the object that a host program still has, if the app has passed it to one.
type Object struct {
	Kind   Kind `json:"kind"`
	Number int  `json:"number"` // tells it from the others of the set
	// Owners are the descriptors that led here, at least one.
	Owners []Descriptor `json:"owners"`
	// Semaphore tells that an eventfd has EFD_SEMAPHORE, from Linux 6.6 on.
	Semaphore bool `json:"semaphore,omitempty"`
	// External is what CRIU must be told of a message queue, see [Queues], or of a
	// file, see [Lent].
	External string `json:"external,omitempty"`
	Queue    *Queue `json:"queue,omitempty"`
	Lent     *Lent  `json:"lent,omitempty"`
	// File is our duplicate, as in [Socket].
	File *os.File `json:"-"`
}

// Descriptor is a descriptor of the app as the app itself knows it.
type Descriptor struct {
	PID int `json:"pid"` // in the app's pid namespace
	FD  int `json:"fd"`
}

// Key names the object uniquely within its app.
func (o *Object) Key() string { return strconv.Itoa(o.Number) + objectSuffix }

const objectSuffix = ".object"

// objectKind tells what kind of held object a descriptor leads to, by its link.
// All of them share one inode (fs/anon_inodes.c).
func objectKind(link string) (Kind, bool) {
	switch link {
	case "anon_inode:[eventfd]":
		return Eventfd, true
	case inotifyLink:
		return Inotify, true
	default:
		return Other, false
	}
}

// objects gathers the objects of an app, one copy of each.
type objects struct {
	list    []*object // in the kernel's order
	devices devices
	queues  uint64 // device of message queues, if known
	asked   int    // the last process that was asked for it
}

type object struct {
	fd        int // ours
	kind      Kind
	semaphore bool
	external  string
	queue     *Queue
	lent      *Lent
	owners    []Descriptor
}

// add takes a duplicated descriptor; kept tells whether it owns it now. An
// instance that is better saved by CRIU is not kept.
func (o *objects) add(kind Kind, pid, fd, copied int) (kept bool, err error) {
	if kind == Inotify {
		keep, err := o.devices.lasting(pid, fd)
		if err != nil || !keep && !waiting(copied) {
			return false, err
		}
		if !keep {
			return false, unreadInotify().refusal(pid, fd)
		}
	}
	inner, err := InnerPID(pid)
	if err != nil {
		return false, err
	}
	owner := Descriptor{PID: inner, FD: fd}
	i, known, err := o.find(copied)
	if err != nil {
		return false, err
	}
	if known {
		o.list[i].owners = append(o.list[i].owners, owner)
		return false, nil
	}
	fresh := &object{fd: copied, kind: kind, owners: []Descriptor{owner}}
	switch kind { //nolint:exhaustive // the others have no more to them
	case Eventfd:
		fresh.semaphore = countsDown(pid, fd) == yes
	case Mqueue:
		if fresh.external, err = queueExternal(pid, fd); err != nil {
			return false, err
		}
		link, err := os.Readlink(fmt.Sprintf("%s/%d", fdDir(pid), fd))
		if err != nil {
			return false, gone(pid, err)
		}
		if fresh.queue, err = describeQueue(copied, link); err != nil {
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
func (o *objects) take(w *wrapper) ([]Object, error) {
	list := make([]Object, 0, len(o.list))
	for i, have := range o.list {
		file, err := w.file(have.fd, have.kind.String())
		if err != nil {
			return list, err
		}
		have.fd = -1
		list = append(list, Object{Kind: have.kind, Number: i, Owners: have.owners, Semaphore: have.semaphore, External: have.external, Queue: have.queue, Lent: have.lent, File: file})
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

// InnerPID is a process's id in its own pid namespace.
func InnerPID(pid int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, gone(pid, err)
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, "NSpid:"); ok {
			ids := strings.Fields(value)
			return strconv.Atoi(ids[len(ids)-1])
		}
	}
	return 0, fmt.Errorf("look at process %d: no NSpid in its status", pid)
}

// waiting tells whether events wait to be read.
func waiting(fd int) bool {
	n, err := unix.IoctlGetInt(fd, unix.TIOCINQ) // FIONREAD, inotify(7)
	return err == nil && n > 0
}
