// Package tcprepair saves TCP connections and makes them again, with TCP_REPAIR.
//
// A socket that is held stays what it is (package hold). This package is for where
// that can't be: a copy of an app needs sockets of its own, and so does an app on
// another host. A [State] is all that there is of one end; a [Connection] is both
// ends, or one whose other end has been closed, for copies of an app that has both.
//
//	Save ──▶ Connection ──▶ Encode ... Decode ──▶ Restore ──▶ Release
//	 TCP_REPAIR on, read,                          TCP_REPAIR   off: the kernel
//	 off: nothing is sent                          on           goes on
//
// Nobody may use the sockets meanwhile, but the kernel does: it delivers,
// acknowledges and sends. So the ends are read in an order that makes the whole
// consistent whatever happens in between, see [Save], and joined: what one end has
// received the other has sent, and what was on its way is unsent again. Nothing is in
// flight in a restored connection, so nothing waits for a retransmission.
//
// The streams' ends (FIN) are not forged: an end that had closed its side closes it
// again, after all that it had not sent, and the kernel does the rest. So half-closed
// connections come into their states as they did at first.
//
// What a new socket can't have: the congestion state (it starts slowly, with a round trip
// that it measures as soon as it goes on, see [State.Restore]), segments that
// had arrived out of order (they are sent again), SO_COOKIE, the cgroup, and the mark
// of urgent data that is unsent.
//
// It needs CAP_NET_ADMIN over the network namespace, and Linux 4.19
// (TCP_REPAIR_OFF_NO_WP).
//
// # Which connections a copy gets
//
// A connection both of whose ends are in the app belongs to a copy as much as the app's memory
// does. sock_diag tells which these are (copies.FindInside). Only the processes are frozen while the
// states are read: the kernel goes on delivering and acknowledging. A restore makes sockets of the
// states before CRIU starts, in the copy's network namespace, and CRIU inherits them like held
// ones. Listeners are bound beside them. When all processes are there, and none runs, the sockets
// leave repair mode.
//
// A connection that waits in an accept queue can't be read without taking it out, so a copy has it
// reset. A connection that is over is in no list of the kernel's, so it is looked for among the
// descriptors ([SaveClosed]). What was not read of it is kept in the same way, with another end
// that closes at once. An end whose other end was closed gets another one for a moment.
//
// A daemon that is killed while it saves leaves sockets in repair mode, and the app frozen. The
// next one calls [End.Recover] before it thaws the app.
package tcprepair

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/snapctl/snapctl/vem/sockopt"
)

// Option is a socket option with its value, as getsockopt(2) gives it.
type Option = sockopt.Option

// Options are what a program has set, or could have.
type Options struct {
	List []Option
	// Device is that of SO_BINDTODEVICE, and Congestion that of TCP_CONGESTION.
	Device, Congestion string
	// SendBuffer and ReceiveBuffer are as getsockopt gives them, twice of what was
	// set; BufferLock is SO_BUF_LOCK, -1 before Linux 5.16.
	SendBuffer, ReceiveBuffer, BufferLock int
	ReuseAddress                          int
	NonBlock                              bool // of the open file description
	UID, GID                              uint32
}

// Window is struct tcp_repair_window of linux/tcp.h.
type Window struct {
	SendUpdate uint32 // snd_wl1: sequence number of the segment that had the last window
	Send       uint32 // what the other end takes, from the first unacknowledged byte on
	Max        uint32 // the largest that it ever took
	Receive    uint32 // what this end takes, from Announced on
	Announced  uint32 // rcv_wup: sequence number up to which it was told so
}

// Negotiated is what both ends agreed on.
type Negotiated struct {
	MSS                       uint32 // the largest segment that the other end takes
	Scaling, SACK, Timestamps bool
	SendScale, ReceiveScale   uint8 // of windows
	// Timestamp is the clock of this end; its lowest bit says that it counts
	// microseconds (Linux 6.7).
	Timestamp uint32
}

// State is one end of a connection. Sequence numbers of streams do not count FIN.
type State struct {
	Inode         uint64 // the socket's, by which a caller knows it
	Family        int    // AF_INET or AF_INET6
	Local, Remote netip.AddrPort
	Scope         uint32 // interface of link-local addresses

	Sending
	Receiving

	Window     Window
	Negotiated Negotiated
	Options    Options
}

// Sending is the stream from this end to the other one.
type Sending struct {
	// Sent is what the other end has not acknowledged, up to SendEnd; of that,
	// Unsent bytes at the end were never sent.
	Sent    []byte
	Unsent  int
	SendEnd uint32
	Finish  bool // this end has closed its stream
}

// Receiving is the stream from the other end to this one.
type Receiving struct {
	// Received is what the program has not read, up to ReceiveEnd.
	Received   []byte
	ReceiveEnd uint32
	Finished   bool // the other end has closed its stream, and all of it has arrived
	Deaf       bool // the program reads no more (SHUT_RD)
}

// Connection is a connection within one network namespace: both ends, or one whose
// other end was closed when all of its data had arrived.
type Connection struct{ Ends []State }

// UnsupportedError says why a connection can't be saved. The connection is as before.
type UnsupportedError struct{ What string }

// Error implements error.
func (e *UnsupportedError) Error() string { return "save TCP connection: " + e.What }

func unsupported(format string, args ...any) error {
	return &UnsupportedError{What: fmt.Sprintf(format, args...)}
}

// ErrInconsistent is two ends that are not of one connection.
var ErrInconsistent = errors.New("the ends of a connection do not match")

// ErrStuck is a socket that could not be taken out of repair mode.
var ErrStuck = errors.New("socket stays in repair mode")

// MaxQueue bounds the bytes in the queues of one end.
const MaxQueue = 64 << 20
