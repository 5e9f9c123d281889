package control

import "time"

// DefaultPort is the TCP port of the control channel.
const DefaultPort = 7077

// DefaultTimeout is the deadline of a call whose context has none.
const DefaultTimeout = 3 * time.Second

const (
	// StreamWindow is how many bytes of a stream wait for a reader at most, besides the message that is
	// being read. So many are sent in a round trip: 200 MB/s between hosts that are 20 ms apart.
	StreamWindow = 4 << 20
	// StallTimeout is how long a message of a stream waits until the other side reads.
	StallTimeout = 30 * time.Second
	// MaxPadding is how many bytes of padding a probe may have.
	MaxPadding = 64 << 10
)
