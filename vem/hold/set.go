package hold

import (
	"errors"
	"slices"
	"sync"
)

// External lists what CRIU must be told of: the ExternalName of each socket that
// has one, and the message queues.
func (s *Set) External() []string {
	var out []string
	for i := range s.Sockets {
		if s.Sockets[i].External() {
			out = append(out, s.Sockets[i].ExternalName())
		}
	}
	for _, o := range s.Objects {
		if o.External != "" {
			out = append(out, o.External)
		}
	}
	return out
}

// Note is something that an app will have otherwise than before when it comes back,
// though nothing is wrong.
type Note struct {
	Text   string // what, of which process, descriptor and path
	Remedy string // what can be done about it; may be empty
}

// Set is what is held of one app. It owns the files.
type Set struct {
	// Sockets are ordered by inode. Read only.
	Sockets []Socket
	// Objects are ordered by number. Read only.
	Objects []Object
	// Unseen is what sock_diag(7) says of unix sockets of the app that belong to
	// other network namespaces, and of their peers, for CRIU: it looks in the
	// app's alone. Only of a set that was just collected.
	Unseen [][]byte
	// Notes list what the app will have otherwise than before. Only of a set that
	// was just collected.
	Notes []Note

	// Named are the message queues that have a name. Only of a set that was just
	// collected.
	Named []Queue

	mu     sync.Mutex
	closed bool
}

// NewSet makes a set of sockets that were collected earlier, as after a daemon
// restart. The set owns their files from now on.
func NewSet(sockets []Socket) *Set {
	slices.SortFunc(sockets, func(a, b Socket) int {
		switch {
		case a.Inode < b.Inode:
			return -1
		case a.Inode > b.Inode:
			return 1
		default:
			return 0
		}
	})
	return &Set{Sockets: sockets}
}

// Close drops our copies. A socket that nobody else has (the app, the holder) is
// closed by the kernel, which tells its peer. Closing again does nothing.
func (s *Set) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	var errs []error
	for i := range s.Sockets {
		if f := s.Sockets[i].File; f != nil {
			errs = append(errs, f.Close())
		}
	}
	for i := range s.Objects {
		if f := s.Objects[i].File; f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}
