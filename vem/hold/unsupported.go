package hold

import (
	"errors"
	"fmt"
)

// ErrUnsupported is wrapped by every [UnsupportedError].
var ErrUnsupported = errors.New("not supported")

// UnsupportedError says that the app has an open file that can be neither held
// nor saved. Nothing was changed.
type UnsupportedError struct {
	PID    int    // in the daemon's pid namespace
	FD     int    // descriptor number, or -1 if none leads to it
	What   string // the thing: "MPTCP socket"
	Remedy string // what the user can do
}

// NoFD is the FD of an [UnsupportedError] to whose subject no descriptor leads.
const NoFD = -1

// Error implements error.
func (e *UnsupportedError) Error() string {
	if e.FD < 0 {
		return fmt.Sprintf("process %d uses an unsupported %s: %s", e.PID, e.What, e.Remedy)
	}
	return fmt.Sprintf("process %d has an unsupported %s open as descriptor %d: %s", e.PID, e.What, e.FD, e.Remedy)
}

// Unwrap gives [ErrUnsupported].
func (e *UnsupportedError) Unwrap() error { return ErrUnsupported }
