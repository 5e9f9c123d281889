package sockopt

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Saved is what a snapshot keeps of an app's sockets.
type Saved struct {
	Sockets []Socket `json:"sockets"`
}

// ErrMalformed is data that Encode has not made.
var ErrMalformed = errors.New("malformed socket options")

const version = 1

type file struct {
	Version int `json:"version"`
	Saved
}

// Encode makes the bytes of a file.
func Encode(s Saved) ([]byte, error) { return json.Marshal(file{version, s}) }

// Decode is the inverse of Encode. Returns an error wrapping [ErrMalformed].
func Decode(b []byte) (Saved, error) {
	var f file
	if err := json.Unmarshal(b, &f); err != nil {
		return Saved{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if f.Version != version {
		return Saved{}, fmt.Errorf("%w: version %d, this snapctl reads %d", ErrMalformed, f.Version, version)
	}
	for i := range f.Sockets {
		s := &f.Sockets[i]
		err := s.Check()
		if s.PID <= 0 || s.FD < 0 {
			err = fmt.Errorf("descriptor %d of process %d", s.FD, s.PID)
		}
		if err != nil {
			return Saved{}, fmt.Errorf("%w: socket %d: %w", ErrMalformed, i, err)
		}
	}
	return f.Saved, nil
}

// Check tells whether options and groups that were read from elsewhere can be those of a
// socket.
func (s *Socket) Check() error {
	for _, o := range s.Options {
		k, ok := Find(o.Level, o.Name)
		if ok && (len(o.Value) > k.Size || k.device != noDevice && o.Device == "") {
			return fmt.Errorf("option %s has no such value", k.Label)
		}
	}
	const most = 1 << 16 // more than any kernel takes
	for _, g := range s.Groups {
		if !g.Address.IsMulticast() || g.Address.Is4In6() || g.Address.Zone() != "" || len(g.Sources) > most {
			return fmt.Errorf("multicast group %s", g.Address)
		}
		for _, a := range g.Sources {
			if !a.IsValid() || a.Is4() != g.Address.Is4() {
				return fmt.Errorf("source %s of multicast group %s", a, g.Address)
			}
		}
	}
	return nil
}
