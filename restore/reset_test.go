package restore

import (
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/image/inspect"
)

func TestResets(t *testing.T) {
	tcp := func(inode uint64, state, local, remote string) inspect.Socket {
		s := inspect.Socket{Inode: inode, Family: "inet", Protocol: "tcp", State: state, Local: netip.MustParseAddrPort(local)}
		if remote != "" {
			s.Remote = netip.MustParseAddrPort(remote)
		}
		return s
	}
	sockets := []inspect.Socket{
		tcp(1, "LISTEN", "0.0.0.0:6379", ""),
		tcp(2, "ESTABLISHED", "10.77.0.7:6379", "10.77.0.1:5123"),
		tcp(3, "CLOSE_WAIT", "[::ffff:10.77.0.7]:6379", "[::ffff:10.77.0.1]:5124"),
		tcp(4, "SYN_SENT", "10.77.0.7:40000", "10.77.0.9:80"),
		tcp(5, "CLOSE", "0.0.0.0:0", ""),
		tcp(6, "CLOSE", "10.77.0.7:40001", "10.77.0.9:80"), // had ended
		tcp(7, "ESTABLISHED", "127.0.0.1:6379", "127.0.0.1:40002"),
		tcp(8, "ESTABLISHED", "127.0.0.1:40002", "127.0.0.1:6379"),
		tcp(15, "CLOSE_WAIT", "127.0.0.1:40003", "127.0.0.1:6379"), // its other end is closed
		{Inode: 9, Family: "inet", Protocol: "udp", State: "ESTABLISHED", Local: netip.MustParseAddrPort("10.77.0.7:53"), Remote: netip.MustParseAddrPort("10.77.0.1:54")},
		{Inode: 10, Family: "unix", Protocol: "stream", State: "ESTABLISHED", PeerInode: 11},
		{Inode: 12, Family: "unix", Protocol: "stream", State: "ESTABLISHED", PeerInode: 13},
		{Inode: 13, Family: "unix", Protocol: "stream", State: "LISTEN", Path: "/sock/host", External: true},
		{Inode: 14, Family: "unix", Protocol: "dgram", State: "ESTABLISHED", Path: "@mine"},
	}
	external := []snapshot.External{
		{Kind: snapshot.ExternalNet, Key: "net"},
		{Kind: snapshot.ExternalUnix, Inode: 12, SocketType: unix.SOCK_STREAM},
		{Kind: snapshot.ExternalUnix, Inode: 14, SocketType: unix.SOCK_DGRAM},
	}
	all := []Reset{
		{Inode: 2, Socket: "tcp 10.77.0.7:6379 <- 10.77.0.1:5123"},
		{Inode: 3, Socket: "tcp 10.77.0.7:6379 <- 10.77.0.1:5124"},
		{Inode: 4, Socket: "tcp 10.77.0.7:40000 -> 10.77.0.9:80"},
		{Inode: 7, Socket: "tcp 127.0.0.1:6379 <- 127.0.0.1:40002", Inside: true},
		{Inode: 8, Socket: "tcp 127.0.0.1:40002 -> 127.0.0.1:6379", Inside: true},
		{Inode: 15, Socket: "tcp 127.0.0.1:40003 -> 127.0.0.1:6379", Inside: true},
		{Inode: 12, Socket: "unix stream -> /sock/host"},
		{Inode: 14, Socket: "unix dgram @mine"},
	}
	qt.Check(t, qt.DeepEquals(Resets(external, sockets, nil, nil), all))
	held := make(map[uint64]bool)
	for _, s := range sockets {
		held[s.Inode] = true
	}
	qt.Check(t, qt.HasLen(Resets(external, sockets, held, nil), 0))
	delete(held, 4)
	qt.Check(t, qt.DeepEquals(Resets(external, sockets, held, nil), all[2:3]))
}
