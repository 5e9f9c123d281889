package sockdiag

import (
	"errors"
	"fmt"
	"maps"

	"golang.org/x/sys/unix"
)

// UnixTable is the unix sockets that an app may have to do with, by inode.
type UnixTable struct {
	app     map[uint32]Unix   // of the app's namespace
	host    map[uint32]Unix   // of the caller's own, and of others that are needed
	waiting map[uint32]uint32 // clients in accept queues, and their listeners
}

// UnixTableOf dumps the unix sockets of the app's namespace and of the caller's
// own: an accepted socket belongs to the namespace of its client, which may be a
// process of the host. Without a namespace, the app's is the caller's own.
func UnixTableOf(ns NetNS) (UnixTable, error) {
	host, err := unixOf(nil)
	if err != nil {
		return UnixTable{}, err
	}
	t := UnixTable{app: host, host: host, waiting: map[uint32]uint32{}}
	if ns != nil {
		if t.app, err = unixOf(ns); err != nil {
			return UnixTable{}, err
		}
	}
	for _, list := range []map[uint32]Unix{t.host, t.app} {
		for listener, u := range list {
			for _, client := range u.Pending {
				t.waiting[client] = listener
			}
		}
	}
	return t, nil
}

func unixOf(ns NetNS) (map[uint32]Unix, error) {
	conn, err := Dial(ns)
	if err != nil {
		return nil, err
	}
	list, err := conn.Unix()
	if err = errors.Join(err, conn.Close()); err != nil {
		return nil, fmt.Errorf("find peers of unix sockets: %w", err)
	}
	out := make(map[uint32]Unix, len(list))
	for _, u := range list {
		out[u.Inode] = u
	}
	return out, nil
}

// Find looks in both namespaces.
func (t UnixTable) Find(inode uint32) (Unix, bool) {
	if u, ok := t.app[inode]; ok {
		return u, true
	}
	u, ok := t.host[inode]
	return u, ok
}

// Near looks in the app's namespace alone.
func (t UnixTable) Near(inode uint32) (Unix, bool) {
	u, ok := t.app[inode]
	return u, ok
}

// Listener is the listener in whose accept queue a client waits; 0 if in none.
func (t UnixTable) Listener(client uint32) uint32 { return t.waiting[client] }

// Connected tells whether the app may have a connected unix socket: one of its
// namespace has a peer, or listens. A socket that was accepted from a client in
// another namespace belongs to that one, where nothing tells it from others.
func (t UnixTable) Connected() bool {
	for _, u := range t.app {
		if u.Peer != 0 || u.State == Listen {
			return true
		}
	}
	return false
}

// Waits tells whether a socket is connected but not accepted yet: its peer has no
// inode then.
func (u Unix) Waits() bool {
	return u.Type != unix.SOCK_DGRAM && u.State == Established && u.Peer == 0 && !u.Ended
}

// Foreign tells whether an app's socket, or the socket that it is connected to, is in a
// namespace that was not looked into. The same is told of a socket that waits at a listener
// outside of the app's namespace.
func (t UnixTable) Foreign(inode uint32) bool {
	u, ok := t.Find(inode)
	if u.Waits() {
		_, near := t.app[t.waiting[inode]]
		return !near
	}
	_, known := t.Find(u.Peer)
	return !ok || u.Peer != 0 && !known
}

// Add looks into a namespace, nil being the caller's own, for wanted sockets and
// their peers that the app's own does not have. It adds what it finds to the table, and the
// peers to wanted. It returns what the kernel tells of them, as [Conn.UnixMessages].
func (t UnixTable) Add(ns NetNS, wanted map[uint32]bool) ([][]byte, error) {
	list := t.host
	if ns != nil {
		var err error
		if list, err = unixOf(ns); err != nil {
			return nil, err
		}
		maps.Copy(t.host, list)
	}
	for inode := range wanted {
		if u, ok := list[inode]; ok && u.Peer != 0 {
			wanted[u.Peer] = true
		}
	}
	conn, err := Dial(ns)
	if err != nil {
		return nil, err
	}
	defer conn.Close() //nolint:errcheck // nothing was written
	out, err := conn.UnixMessages(func(inode uint32) bool {
		_, near := t.app[inode]
		return wanted[inode] && inode != 0 && !near
	})
	if errors.Is(err, ErrInterrupted) {
		err = nil // others come and go; if one of ours is missing, CRIU says so
	}
	return out, err
}
