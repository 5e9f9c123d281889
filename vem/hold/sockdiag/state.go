package sockdiag

import "strconv"

// State is a socket's state, numbered as in include/net/tcp_states.h. The kernel
// uses the same numbers for TCP, UDP and unix sockets.
type State uint8

// The states.
const (
	Established State = iota + 1
	SynSent
	SynRecv
	FinWait1
	FinWait2
	TimeWait
	Close
	CloseWait
	LastAck
	Listen
	Closing
	NewSynRecv
)

// String gives the kernel's name of the state.
func (s State) String() string {
	switch s {
	case Established:
		return "ESTABLISHED"
	case SynSent:
		return "SYN_SENT"
	case SynRecv:
		return "SYN_RECV"
	case FinWait1:
		return "FIN_WAIT1"
	case FinWait2:
		return "FIN_WAIT2"
	case TimeWait:
		return "TIME_WAIT"
	case Close:
		return "CLOSE"
	case CloseWait:
		return "CLOSE_WAIT"
	case LastAck:
		return "LAST_ACK"
	case Listen:
		return "LISTEN"
	case Closing:
		return "CLOSING"
	case NewSynRecv:
		return "NEW_SYN_RECV"
	default:
		return "STATE_" + strconv.Itoa(int(s))
	}
}

// PeerClosed tells whether the peer's FIN was received in this state, so that it
// counts as one byte in a TCP receive queue length.
func (s State) PeerClosed() bool {
	return s == CloseWait || s == LastAck || s == Closing
}

// AllStates asks for sockets in every state.
const AllStates = ^uint32(0)

// States makes the bit set that a dump takes.
func States(states ...State) uint32 {
	var set uint32
	for _, s := range states {
		set |= 1 << s
	}
	return set
}
