package hold

import (
	"errors"
	"fmt"
	"strconv"
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
