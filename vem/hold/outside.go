package hold

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold/sockdiag"
	"github.com/snapctl/snapctl/vem/netns"
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
	if s.unseen, err = s.findUnseen(known); err != nil {
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
		n := unixNode{moved: f.moved, path: f.details.path, listening: f.details.facts.Listening, pending: u.Pending, peer: uint64(u.Peer)}
		if u.waits() {
			n.peer = uint64(known.waiting[uint32(inode)])
		}
		nodes[inode] = n
	}
	outside := outsideUnix(nodes, opt.hostPaths())
	for inode := range outside {
		s.sockets[inode].details.facts.Outside = true
	}
	if opt.Copy {
		return nil
	}
	return s.markMessages(nodes, outside)
}

// unixTable is the unix sockets that an app may have to do with, by inode.
type unixTable struct {
	app     map[uint32]unixSocket // of the app's namespace
	host    map[uint32]unixSocket // of the caller's own, and of others that are needed
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

// foreign tells whether an app's socket, or the socket that it is connected to, is in a
// namespace that was not looked into. The same is told of a socket that waits at a listener
// outside of the app's namespace.
func (t unixTable) foreign(inode uint32) bool {
	u, ok := t.find(inode)
	if u.waits() {
		_, near := t.app[t.waiting[inode]]
		return !near
	}
	_, known := t.find(u.Peer)
	return !ok || u.Peer != 0 && !known
}

// findUnseen looks for the app's sockets that are not in its own namespace, and
// returns what the kernel tells of them and of their peers, for CRIU. A socket
// that was accepted is in the namespace of its client, which may be that of
// another app; it is added to the table.
func (s *scanner) findUnseen(known unixTable) ([][]byte, error) {
	wanted := map[uint32]bool{}
	places := map[uint64]*netns.NS{}
	defer func() {
		for _, ns := range places {
			_ = ns.Close() // a handle
		}
	}()
	for inode, f := range s.sockets {
		if f.details.facts.Family != unix.AF_UNIX {
			continue
		}
		u, near := known.app[uint32(inode)]
		if _, nearPeer := known.app[u.Peer]; near && (u.Peer == 0 || nearPeer) {
			continue
		}
		wanted[uint32(inode)], wanted[u.Peer] = true, true
		if near {
			continue // its peer is the caller's, or nobody knows whose
		}
		ns, err := netns.OfSocket(f.fd)
		if err != nil {
			return nil, err
		}
		if other := places[ns.Inode()]; other != nil {
			_ = other.Close() // a handle
		}
		places[ns.Inode()] = ns
	}
	if len(wanted) == 0 {
		return nil, nil
	}
	var unseen [][]byte
	look := func(ns NetNS) error {
		more, err := known.add(ns, wanted)
		unseen = append(unseen, more...)
		return err
	}
	own, err := netns.Current()
	if err != nil {
		return nil, err
	}
	defer own.Close() //nolint:errcheck // a handle
	err = look(nil)
	for inode, ns := range places {
		if inode != own.Inode() {
			err = errors.Join(err, look(ns))
		}
	}
	return unseen, err
}

// add looks into a namespace, nil being the caller's own, for wanted sockets and
// their peers that the app's own does not have.
func (t unixTable) add(ns NetNS, wanted map[uint32]bool) ([][]byte, error) {
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
	conn, err := sockdiag.Dial(ns)
	if err != nil {
		return nil, err
	}
	defer conn.Close() //nolint:errcheck // nothing was written
	out, err := conn.UnixMessages(func(inode uint32) bool {
		_, near := t.app[inode]
		return wanted[inode] && inode != 0 && !near
	})
	if errors.Is(err, sockdiag.ErrInterrupted) {
		err = nil // others come and go; if one of ours is missing, CRIU says so
	}
	return out, err
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
	moved     bool
	listening bool
	peer      uint64
	pending   []uint32 // of a listener, its waiting clients
}

// outsideUnix picks the unix sockets of an app that must be held, because what
// they lead to is not saved along with them:
//
//   - the peer is not in the app, or
//   - they are bound where the host can reach them, or their file was moved, or
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
		if n.moved || below(n.path, hostPaths) {
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
