package collect

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold/proc"
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
	known, err := sockdiag.UnixTableOf(opt.NS)
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
		u, _ := known.Find(uint32(inode))
		f.details.state = u.State
		if u.State == sockdiag.Listen {
			f.details.backlog = int(u.SendQ)
		}
		f.details.facts.Foreign = known.Foreign(uint32(inode))
		f.details.facts.Abandoned = slices.Contains(u.Pending, 0)
		f.details.facts.Unaccepted = slices.ContainsFunc(u.Pending, func(client uint32) bool {
			c, _ := known.Find(client)
			return c.SendQ > 0
		})
		n := unixNode{moved: f.moved, path: f.details.path, listening: f.details.facts.Listening, pending: u.Pending, peer: uint64(u.Peer)}
		if u.Waits() {
			n.peer = uint64(known.Listener(uint32(inode)))
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

// findUnseen looks for the app's sockets that are not in its own namespace, and
// returns what the kernel tells of them and of their peers, for CRIU. A socket
// that was accepted is in the namespace of its client, which may be that of
// another app; it is added to the table.
func (s *scanner) findUnseen(known sockdiag.UnixTable) ([][]byte, error) {
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
		u, near := known.Near(uint32(inode))
		if _, nearPeer := known.Near(u.Peer); near && (u.Peer == 0 || nearPeer) {
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
	look := func(ns sockdiag.NetNS) error {
		more, err := known.Add(ns, wanted)
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
		if n.moved || proc.Below(n.path, hostPaths) {
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
