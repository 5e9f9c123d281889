package hold

import (
	"os"
	"strconv"
)

// Object is one held kernel object that is no socket: an eventfd, an inotify
// instance, which goes on collecting events meanwhile, an open POSIX message
// queue, see [Queue], or a file of the host, see [Lent].
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
	// External is what CRIU must be told of a message queue, or of a
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

// Lent describes a held file that the host shares with the app.
type Lent struct {
	// Path is where the app has it, below one of its binds; empty if it is
	// not there (any more).
	Path string `json:"path,omitempty"`
	// Name is what the kernel calls it: Path, if that is not empty, or for people only.
	Name string `json:"name,omitempty"`
	// Flags and Position are those of the open file, as in open(2) and lseek(2).
	Flags    int   `json:"flags,omitempty"`
	Position int64 `json:"position,omitempty"`
	// Mounted tells that CRIU would find it without being told.
	Mounted bool `json:"mounted,omitempty"`
}
