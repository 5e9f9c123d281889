package hold

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold/fsnotify"
	"github.com/snapctl/snapctl/vem/hold/proc"
)

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
		case o.Kind == Inotify && fsnotify.Waiting(int(o.File.Fd())):
			v := UnreadInotify()
			return &UnsupportedError{PID: at.PID, FD: at.FD, What: v.What, Remedy: "wake the app, which has to read them first"}
		}
	}
	return nil
}

// LostInCopies lists what a copy of the app that is saved would not have of the messages
// that wait in held sockets.
func (s *Set) LostInCopies() []Note {
	var notes []Note
	for i := range s.Sockets {
		sock := &s.Sockets[i]
		p := []unix.PollFd{{Fd: int32(sock.File.Fd()), Events: unix.POLLIN}}
		if !sock.Inside || proc.Poll(p) != nil || p[0].Revents&unix.POLLIN == 0 {
			continue
		}
		notes = append(notes, LostMessages(sock.Path, sock.Owners[0]))
	}
	return notes
}

// LostMessages tells what CRIU does not save of messages in a queue.
func LostMessages(path string, at Owner) Note {
	name := "a unix socket"
	if path != "" {
		name += " (" + path + ")"
	}
	return Note{
		Text: fmt.Sprintf("process %d has %s open as descriptor %d in which messages wait: their senders' addresses are lost, and an empty message with all behind it",
			at.PID, name, at.FD),
		Remedy: "let the program read them first",
	}
}
