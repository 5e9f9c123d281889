package hold

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"

	"github.com/snapctl/snapctl/vem/hold/sockdiag"
)

// Kind is what a socket or another kernel object is to the hold.
type Kind int

// The kinds. Only sockets of the first seven, and the last four, are ever held.
const (
	Other      Kind = iota // nothing that the hold knows
	TCP                    // a TCP socket that does not listen, in whatever state
	TCPListen              // a TCP listener with its accept queue
	UDP                    // UDP and UDP-Lite
	Ping                   // ICMP and ICMPv6 datagram socket (ping_group_range)
	Raw                    // raw IP socket
	Unix                   // unix socket, connected or not
	UnixListen             // unix listener with its accept queue
	Netlink                // netlink socket: CRIU saves it
	Packet                 // packet socket
	Eventfd                // eventfd(2)
	Inotify                // inotify(7) instance
	Mqueue                 // POSIX message queue, mq_overview(7)
	File                   // file or directory of the host, see [Lent]
)

// String gives the kind's name as in JSON.
func (k Kind) String() string {
	switch k {
	case TCP:
		return "tcp"
	case TCPListen:
		return "tcp_listen"
	case UDP:
		return "udp"
	case Ping:
		return "ping"
	case Raw:
		return "raw"
	case Unix:
		return "unix"
	case UnixListen:
		return "unix_listen"
	case Netlink:
		return "netlink"
	case Packet:
		return "packet"
	case Eventfd:
		return "eventfd"
	case Inotify:
		return "inotify"
	case Mqueue:
		return "mqueue"
	case File:
		return "file"
	case Other:
		return "other"
	default:
		return "kind_" + strconv.Itoa(int(k))
	}
}

// ErrKind says that a text names no [Kind].
var ErrKind = errors.New("unknown kind of socket")

// MarshalText implements [encoding.TextMarshaler].
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]; an error wraps [ErrKind].
func (k *Kind) UnmarshalText(text []byte) error {
	for v := Other; v <= File; v++ {
		if v.String() == string(text) {
			*k = v
			return nil
		}
	}
	return fmt.Errorf("parse %q: %w", text, ErrKind)
}

// Owner is one descriptor of the app.
type Owner struct {
	PID int `json:"pid"` // in the daemon's pid namespace, at the time of Collect
	FD  int `json:"fd"`
}

// Socket is one held kernel socket.
type Socket struct {
	Inode  uint64         `json:"inode"`
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

// Key names the socket uniquely within its app: the inode number in hexadecimal
// first, so that keys differ early, for CRIU finds them with strcmp.
func (s *Socket) Key() string { return strconv.FormatUint(s.Inode, 16) + ".socket" }

// ExternalName is what CRIU must be told of a unix socket with a peer outside of
// the app, in the form of its --external option: it is an error to it otherwise
// (sk-unix.c, unix_sk_exception_lookup_id).
func (s *Socket) ExternalName() string { return fmt.Sprintf("unix[%d]", s.Inode) }

// external tells whether CRIU must be told of the socket. A listener and a socket
// that is only bound have no peer.
func (s *Socket) external() bool {
	return s.Kind == Unix && !s.Inside && s.State == sockdiag.Established.String()
}

// External lists what CRIU must be told of: the ExternalName of each socket that
// has one, and the message queues.
func (s *Set) External() []string {
	var out []string
	for i := range s.Sockets {
		if s.Sockets[i].external() {
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

	queues []Queue // that have a name

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
	return closeAll(s.Sockets, s.Objects)
}

func closeAll(sockets []Socket, objects []Object) error {
	var errs []error
	for i := range sockets {
		if f := sockets[i].File; f != nil {
			errs = append(errs, f.Close())
		}
	}
	for i := range objects {
		if f := objects[i].File; f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}
