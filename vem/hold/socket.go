package hold

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"strconv"

	"github.com/snapctl/snapctl/vem/hold/sockdiag"
)

// Owner is one descriptor of the app.
type Owner struct {
	PID int `json:"pid"` // in the daemon's pid namespace, when it was collected
	FD  int `json:"fd"`
}

// Socket is one held kernel socket.
type Socket struct {
	// Inode is the kernel's number of it, here and now. Saved is the number by which the
	// app's images know it, if that is another one, since the socket was made again on this
	// host; see [Socket.ImageInode].
	Inode  uint64         `json:"inode"`
	Saved  uint64         `json:"saved_inode,omitempty"`
	Kind   Kind           `json:"kind"`
	Family int            `json:"family"` // AF_INET, AF_INET6, AF_UNIX
	Type   int            `json:"type"`   // SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_RAW
	Proto  int            `json:"proto"`  // IPPROTO_TCP, ...; 0 for unix sockets
	State  string         `json:"state"`  // the kernel's name, when collected
	Local  netip.AddrPort `json:"local"`  // zero for unix sockets; IPv4 in IPv6 is unmapped
	Remote netip.AddrPort `json:"remote"` // zero if not connected
	Path   string         `json:"path,omitempty"`
	// Inside tells that nobody but the app itself can reach the socket: it is held for
	// messages in it, or in one that it is connected to.
	Inside bool `json:"inside,omitempty"`
	// Backlog is the listener's accept queue limit that the app asked for;
	// [Set.Disarm] puts it back.
	Backlog int `json:"backlog,omitempty"`
	// Receive is a datagram socket's receive buffer that the app has; [Set.Narrow] puts
	// it back. Sockets that an older snapctl holds have none.
	Receive *Buffer `json:"receive,omitempty"`
	// Owners are the descriptors that led here, at least one.
	Owners []Owner `json:"owners"`
	// File is our duplicate: the same open file description as the app's, so its
	// status flags (O_NONBLOCK) and position are shared. Never change them.
	File *os.File `json:"-"`
}

// ImageInode is the number by which the app's images know the socket: that of the socket
// that was saved, possibly on another host.
func (s *Socket) ImageInode() uint64 { return cmp.Or(s.Saved, s.Inode) }

// Key names the socket uniquely within its app: the inode number in hexadecimal
// first, so that keys differ early, for CRIU finds them with strcmp.
func (s *Socket) Key() string { return strconv.FormatUint(s.Inode, 16) + ".socket" }

// ExternalName is what CRIU must be told of a unix socket with a peer outside of
// the app, in the form of its --external option: it is an error to it otherwise
// (sk-unix.c, unix_sk_exception_lookup_id).
func (s *Socket) ExternalName() string { return fmt.Sprintf("unix[%d]", s.Inode) }

// External tells whether CRIU must be told of the socket. A listener and a socket
// that is only bound have no peer.
func (s *Socket) External() bool {
	return s.Kind == Unix && !s.Inside && s.State == sockdiag.Established.String()
}
