package message

import "fmt"

// MinProtocol and MaxProtocol are the oldest and the newest version of the protocol that this
// build speaks.
const (
	MinProtocol = 1
	MaxProtocol = 1
)

// Range is the versions of the protocol that a host speaks, from the oldest to the newest.
type Range struct {
	Min, Max uint32
}

func (r Range) String() string {
	if r.Min == r.Max {
		return fmt.Sprintf("protocol %d", r.Min)
	}
	return fmt.Sprintf("protocols %d to %d", r.Min, r.Max)
}

// OrOurs returns the range, or that of this build if it is zero.
func (r Range) OrOurs() Range {
	if r == (Range{}) {
		return Range{Min: MinProtocol, Max: MaxProtocol}
	}
	return r
}

// Common returns the newest version that both speak.
func (r Range) Common(other Range) (version uint32, ok bool) {
	version = min(r.Max, other.Max)
	return version, version >= r.Min && version >= other.Min
}

// Has tells whether a version is in the range.
func (r Range) Has(version uint32) bool { return r.Min <= version && version <= r.Max }
