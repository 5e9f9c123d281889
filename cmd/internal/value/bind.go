package value

import (
	"fmt"
	"path"
	"strings"
)

// Access says what may be done with a bind.
type Access string

// The kinds of access.
const (
	ReadWrite Access = "rw"
	ReadOnly  Access = "ro"
)

// Bind is a file or directory of the host that an app sees.
type Bind struct {
	Source      string // on the host; may be relative
	Destination string // in the app
	Access      Access
}

// ParseBind reads SRC:DST[:ro|:rw].
func ParseBind(text string) (Bind, error) {
	parts := strings.Split(text, ":")
	b := Bind{Access: ReadWrite}
	switch len(parts) {
	case 3:
		access, err := Word(ReadWrite, ReadOnly)(parts[2])
		if err != nil {
			return Bind{}, fmt.Errorf("access %w", err)
		}
		b.Access = access
		fallthrough
	case 2:
		b.Source, b.Destination = parts[0], parts[1]
	default:
		return Bind{}, fmt.Errorf("%q is not SRC:DST or SRC:DST:ro", text)
	}
	if b.Source == "" || !path.IsAbs(b.Destination) {
		return Bind{}, fmt.Errorf("%q: SRC must not be empty and DST must begin with /", text)
	}
	return b, nil
}

// String is what [ParseBind] reads.
func (b Bind) String() string {
	return b.Source + ":" + b.Destination + ":" + string(b.Access)
}
