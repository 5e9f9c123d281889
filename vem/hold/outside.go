package hold

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold/sockdiag"
)

// markOutside finds the unix sockets that lead out of the app, and completes
// what is known of all of them.
func (s *scanner) markOutside(opt Options) error {
	some := false
	for _, f := range s.sockets {
		some = some || f.details.facts.Family == unix.AF_UNIX
	}
	if !some {
		return nil
	}
	known, err := unixSockets(opt.NS)
	if err != nil {
		return err
	}
	nodes := map[uint64]unixNode{}
	for inode, f := range s.sockets {
		if f.details.facts.Family != unix.AF_UNIX {
			continue
		}
		u, _ := known.find(uint32(inode))
		f.details.state = u.State
		if u.State == sockdiag.Listen {
			f.details.backlog = int(u.SendQ)
		}
		f.details.facts.Foreign = known.foreign(uint32(inode))
		f.details.facts.Abandoned = slices.Contains(u.Pending, 0)
		f.details.facts.Unaccepted = slices.ContainsFunc(u.Pending, func(client uint32) bool {
			c, _ := known.find(client)
			return c.SendQ > 0
		})
		n := unixNode{path: f.details.path, listening: f.details.facts.Listening, pending: u.Pending, peer: uint64(u.Peer)}
		if u.waits() {
			n.peer = uint64(known.waiting[uint32(inode)])
		}
		nodes[inode] = n
	}
	for inode := range outsideUnix(nodes, opt.HostPaths) {
		s.sockets[inode].details.facts.Outside = true
	}
	return nil
}

// unixTable is the unix sockets that an app may have to do with, by inode.
type unixTable struct {
	app     map[uint32]unixSocket // of the app's namespace
	host    map[uint32]unixSocket // of the caller's own
	waiting map[uint32]uint32     // clients in accept queues, and their listeners
}

type unixSocket struct{ sockdiag.Unix }

// waits tells whether a socket is connected but not accepted yet: its peer has no
// inode then.
func (u unixSocket) waits() bool {
	return u.Type != unix.SOCK_DGRAM && u.State == sockdiag.Established && u.Peer == 0 && !u.Ended
}

// find looks in both namespaces.
func (t unixTable) find(inode uint32) (unixSocket, bool) {
	if u, ok := t.app[inode]; ok {
		return u, true
	}
	u, ok := t.host[inode]
	return u, ok
}

// foreign tells whether an app's socket, or what it is connected to, is in
// another namespace than the app.
func (t unixTable) foreign(inode uint32) bool {
	u, ok := t.app[inode]
	peer := u.Peer
	if u.waits() {
		if peer = t.waiting[inode]; peer == 0 {
			return true // at a listener that is in neither namespace
		}
	}
	_, near := t.app[peer]
	return !ok || peer != 0 && !near
}

// unixSockets dumps the unix sockets of the app's namespace and of the caller's
// own: an accepted socket belongs to the namespace of its client, which may be a
// process of the host. Without a namespace, the app's is the caller's own.
func unixSockets(ns NetNS) (unixTable, error) {
	host, err := unixOf(nil)
	if err != nil {
		return unixTable{}, err
	}
	t := unixTable{app: host, host: host, waiting: map[uint32]uint32{}}
	if ns != nil {
		if t.app, err = unixOf(ns); err != nil {
			return unixTable{}, err
		}
	}
	for _, list := range []map[uint32]unixSocket{t.host, t.app} {
		for listener, u := range list {
			for _, client := range u.Pending {
				t.waiting[client] = listener
			}
		}
	}
	return t, nil
}

func unixOf(ns NetNS) (map[uint32]unixSocket, error) {
	conn, err := sockdiag.Dial(ns)
	if err != nil {
		return nil, err
	}
	list, err := conn.Unix()
	if err = errors.Join(err, conn.Close()); err != nil {
		return nil, fmt.Errorf("find peers of unix sockets: %w", err)
	}
	out := make(map[uint32]unixSocket, len(list))
	for _, u := range list {
		out[u.Inode] = unixSocket{u}
	}
	return out, nil
}

// unixNode is what outsideUnix needs of one unix socket of the app.
type unixNode struct {
	path      string
	listening bool
	peer      uint64
	pending   []uint32 // of a listener, its waiting clients
}

// outsideUnix picks the unix sockets of an app that must be held, because what
// they lead to is not saved along with them:
//
//   - the peer is not in the app, or
//   - they are bound where the host can reach them, or
//   - a client that is not in the app waits in the accept queue, or came through
//     the same listener (an accepted socket has its listener's name), or
//   - they are connected to one of these: CRIU could not restore a connection
//     with one end missing from its images.
//
// It only computes.
func outsideUnix(nodes map[uint64]unixNode, hostPaths []string) map[uint64]bool {
	out := map[uint64]bool{}
	visited := map[string]bool{} // names that outside clients came through
	for inode, n := range nodes {
		_, inside := nodes[n.peer]
		if n.peer != 0 && !inside {
			out[inode] = true
			if n.path != "" {
				visited[n.path] = true
			}
		}
		if below(n.path, hostPaths) {
			out[inode] = true
		}
		for _, client := range n.pending {
			if _, inside := nodes[uint64(client)]; !inside && client != 0 {
				out[inode] = true
			}
		}
	}
	for inode, n := range nodes {
		if n.listening && visited[n.path] {
			out[inode] = true
		}
	}
	for grown := true; grown; {
		grown = false
		add := func(inode uint64) {
			if _, inside := nodes[inode]; inside && !out[inode] {
				out[inode] = true
				grown = true
			}
		}
		for inode, n := range nodes {
			if out[n.peer] {
				add(inode)
			}
			if out[inode] {
				add(n.peer)
				for _, client := range n.pending {
					add(uint64(client))
				}
			}
		}
	}
	return out
}

func below(name string, folders []string) bool {
	if !strings.HasPrefix(name, "/") {
		return false
	}
	name = path.Clean(name)
	for _, folder := range folders {
		folder = path.Clean(folder)
		if folder == "/" || name == folder || strings.HasPrefix(name, folder+"/") {
			return true
		}
	}
	return false
}
