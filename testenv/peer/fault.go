package peer

import "fmt"

// Kind is what went wrong.
type Kind int

// The kinds of fault.
const (
	Loss      Kind = iota + 1 // bytes that were sent never came
	Duplicate                 // bytes came again
	Reorder                   // bytes came after later ones
	Corrupt                   // bytes came that nobody sent
	Reset                     // the connection was reset, or refused
	Truncated                 // the stream ended before its end
	Timeout                   // it did not end in time
)

var kindNames = map[Kind]string{
	Loss: "loss", Duplicate: "duplicate", Reorder: "reorder", Corrupt: "corrupt",
	Reset: "reset", Truncated: "truncated", Timeout: "timeout",
}

func (k Kind) String() string {
	if name, ok := kindNames[k]; ok {
		return name
	}
	return fmt.Sprintf("Kind(%d)", int(k))
}

// MarshalText returns the kind's name.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (k *Kind) UnmarshalText(text []byte) error {
	for kind, name := range kindNames {
		if name == string(text) {
			*k = kind
			return nil
		}
	}
	return fmt.Errorf("parse fault kind %q", text)
}

// Fault is the first thing that went wrong in one stream, or in one flow of
// datagrams. It is an error.
//
//nolint:errname // it is a finding, and an error among others
type Fault struct {
	Kind      Kind      `json:"kind"`
	Proto     string    `json:"proto"` // tcp or udp
	Conn      uint64    `json:"conn"`  // key of the connection or flow
	Direction Direction `json:"direction"`
	Offset    uint64    `json:"offset_bytes"` // bytes received in order before it
	Detail    string    `json:"detail"`
}

func (f *Fault) Error() string {
	return fmt.Sprintf("%s connection %x %s after %d bytes: %s: %s",
		f.Proto, f.Conn, f.Direction, f.Offset, f.Kind, f.Detail)
}
