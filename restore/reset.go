package restore

import (
	"net/netip"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/image/inspect"
)

// Reset is a connection that the processes had when they were saved, and find
// closed when they are restored.
type Reset struct {
	Inode  uint64 // of the socket, in the images
	Socket string // for people, like "tcp 10.77.0.7:6379 <- 10.77.0.1:5123"
	Inside bool   // the other end is the app's own too
}

// Resets lists the connections among a snapshot's sockets and external resources
// that a restore with these held ones, by inode, can't bring back: CRIU saves no state of TCP connections, and of a unix
// socket to the outside there is but the near end. Listeners and datagram sockets
// are made anew.
//
// What waited in an accept queue is in no image, and not in the list. It only
// computes.
//
// Of sockets that are closed it has those, by inode, whose data is lost.
func Resets(external []snapshot.External, sockets []inspect.Socket, held, lost map[uint64]bool) []Reset {
	pairs := make(map[[2]netip.AddrPort]bool)
	listens := make(map[uint16]bool)
	paths := make(map[uint64]string)
	for _, s := range sockets {
		if s.Protocol == "tcp" {
			pairs[[2]netip.AddrPort{unmap(s.Local), unmap(s.Remote)}] = true
			listens[s.Local.Port()] = listens[s.Local.Port()] || s.State == "LISTEN"
		}
		if s.Family == "unix" {
			paths[s.Inode] = s.Path
		}
	}
	var resets []Reset
	for _, s := range sockets {
		if s.Protocol != "tcp" || !connected(s) && !lost[s.Inode] || held[s.Inode] {
			continue
		}
		local, remote := unmap(s.Local), unmap(s.Remote)
		arrow := " -> "
		if listens[local.Port()] {
			arrow = " <- "
		}
		text := "tcp " + local.String()
		if remote.IsValid() {
			text += arrow + remote.String()
		}
		resets = append(resets, Reset{
			Inode:  s.Inode,
			Socket: text,
			Inside: pairs[[2]netip.AddrPort{remote, local}] || remote.Addr().IsLoopback(),
		})
	}
	for _, e := range external {
		if e.Kind == snapshot.ExternalUnix && !held[e.Inode] {
			resets = append(resets, Reset{Inode: e.Inode, Socket: unixText(e.Inode, sockets, paths)})
		}
	}
	return resets
}

// connected tells whether a TCP socket has a peer, or is about to.
func connected(s inspect.Socket) bool {
	return s.Remote.IsValid() && s.State != "LISTEN" && s.State != "CLOSE"
}

// unixText describes a unix socket by its name or, as clients seldom have one, by
// that of its peer.
func unixText(inode uint64, sockets []inspect.Socket, paths map[uint64]string) string {
	for _, s := range sockets {
		if s.Family != "unix" || s.Inode != inode {
			continue
		}
		text := "unix " + s.Protocol
		switch peer := paths[s.PeerInode]; {
		case s.Path != "":
			return text + " " + s.Path
		case peer != "":
			return text + " -> " + peer
		}
		return text
	}
	return "unix"
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
