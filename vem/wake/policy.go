package wake

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/snapctl/snapctl/vem/hold"
)

// Mode says what kind of traffic wakes an app.
type Mode int

// The modes.
const (
	// OnData: payload of at least MinBytes on a connection, or a datagram; and a
	// new connection that stays open and silent for SilentAfter. Connecting,
	// probing, resetting and closing do not wake.
	OnData Mode = iota
	// OnConnect: whatever the app itself would notice: also a new connection, and
	// a peer that closes or resets one.
	OnConnect
	// Never: only a command wakes.
	Never
)

// String gives the mode's name as in JSON and flags.
func (m Mode) String() string {
	switch m {
	case OnData:
		return "on-data"
	case OnConnect:
		return "on-connect"
	case Never:
		return "never"
	default:
		return "mode-" + strconv.Itoa(int(m))
	}
}

// ErrMode says that a text names no [Mode].
var ErrMode = errors.New("unknown wake mode, want on-data, on-connect or never")

// MarshalText implements [encoding.TextMarshaler].
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]; an error wraps [ErrMode].
func (m *Mode) UnmarshalText(text []byte) error {
	for v := OnData; v <= Never; v++ {
		if v.String() == string(text) {
			*m = v
			return nil
		}
	}
	return fmt.Errorf("parse %q: %w", text, ErrMode)
}

// Policy says which traffic wakes an app, and whether its timers do.
type Policy struct {
	Mode Mode `json:"mode"`
	// MinBytes is how much must wait on one connection, in OnData; less will do if
	// it fills a quarter of the receive buffer. It does not apply to datagrams.
	// Default: 1.
	MinBytes int `json:"min_bytes,omitempty"`
	// Ignore are sources that never wake, in OnData and OnConnect: a monitor's
	// probes. They do not apply to unix sockets. An IPv4 address in its IPv6 form
	// (::ffff:10.77.0.1) is that IPv4 address. Default: none.
	Ignore []netip.Prefix `json:"ignore,omitempty"`
	// SilentAfter is how long a new connection has to stay open and silent, in
	// OnData, to count as a client that waits for the app to speak first, as those
	// of MySQL, SMTP and SSH do. Default: [DefaultSilentAfter]; negative: such a
	// connection never wakes.
	SilentAfter time.Duration `json:"silent_after_ns,omitempty"`
	// Timers has the app's own timers wake it, too, in every mode. No [Watcher] sees
	// those: whoever has saved the processes knows their timers. Default: they do not.
	Timers bool `json:"timers,omitempty"`
}

// DefaultSilentAfter is the default of [Policy.SilentAfter]: a probe has hung up
// by then, and a client has not given up yet.
const DefaultSilentAfter = 1500 * time.Millisecond

// patience is how long a silent connection is left alone; negative: for ever.
func (p Policy) patience() time.Duration {
	if p.SilentAfter == 0 {
		return DefaultSilentAfter
	}
	return p.SilentAfter
}

// ErrPolicy says that a wake policy makes no sense.
var ErrPolicy = errors.New("wrong wake policy")

// Validate returns an error wrapping [ErrPolicy] if the policy makes no sense.
func (p Policy) Validate() error {
	if p.Mode < OnData || p.Mode > Never {
		return fmt.Errorf("%w: mode %d", ErrPolicy, p.Mode)
	}
	if p.MinBytes < 0 {
		return fmt.Errorf("%w: min bytes %d is negative", ErrPolicy, p.MinBytes)
	}
	for _, prefix := range p.Ignore {
		if !prefix.IsValid() {
			return fmt.Errorf("%w: invalid ignored prefix", ErrPolicy)
		}
		if prefix.Addr().Is4In6() && prefix.Bits() < mappedBits {
			return fmt.Errorf("%w: ignored prefix %s is wider than all IPv4 addresses; name those as 0.0.0.0/0", ErrPolicy, prefix)
		}
	}
	return nil
}

// mappedBits is how long the prefix is by which IPv6 knows the IPv4 addresses.
const mappedBits = 96

// Unmap is the IPv4 prefix for one that is written in its IPv6 form, and any other
// prefix as it is.
func Unmap(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= mappedBits {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-mappedBits)
	}
	return p
}

// Ignores tells whether traffic from an address never wakes.
func (p Policy) Ignores(source netip.Addr) bool {
	source = source.Unmap().WithZone("")
	for _, prefix := range p.Ignore {
		if Unmap(prefix).Contains(source) {
			return true
		}
	}
	return false
}

// enough tells whether the payload that waits on a connection is worth a wake.
// With a quarter of the receive buffer full it always is: the peer may not be
// able to send more, and would wait for ever.
func (p Policy) enough(bytes, buffer int) bool {
	return bytes > 0 && (bytes >= p.MinBytes || bytes >= buffer/4)
}

// Enough tells whether so much payload, that waits on a connection whose receive buffer
// is not known, is worth a wake.
func (p Policy) Enough(bytes int) bool {
	if p.Mode == OnConnect {
		return bytes > 0
	}
	return p.enough(bytes, queuedBuffer)
}

// WakesOnSilence tells whether a new connection wakes though it stays silent.
func (p Policy) WakesOnSilence() bool {
	return p.Mode == OnConnect || p.Mode == OnData && p.patience() >= 0
}

// Reason is why an app is woken.
type Reason int

// The reasons.
const (
	Data     Reason = iota + 1 // payload waits on a connection
	Datagram                   // a datagram waits
	Connect                    // a connection waits to be accepted
	Closed                     // the peer closed or reset a connection, or an error waits
	Writable                   // output that was stuck when the app was frozen can go on
	Backlog                    // an accept queue is nearly full
	Silent                     // a new connection stays open, and its client waits for the app to speak
)

// String gives the reason's name as in JSON.
func (r Reason) String() string {
	switch r {
	case Data:
		return "data"
	case Datagram:
		return "datagram"
	case Connect:
		return "connect"
	case Closed:
		return "closed"
	case Writable:
		return "writable"
	case Backlog:
		return "backlog"
	case Silent:
		return "silent"
	default:
		return "reason_" + strconv.Itoa(int(r))
	}
}

// MarshalText implements [encoding.TextMarshaler].
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Event is the traffic that wakes an app.
type Event struct {
	Socket *hold.Socket   // of the watched set
	Reason Reason         // why
	Bytes  int            // payload that waits, as far as known
	Remote netip.AddrPort // who sent it, if known
}
