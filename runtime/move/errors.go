package move

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/runtime/cargo"
	"github.com/snapctl/snapctl/vem/control/message"
	"github.com/snapctl/snapctl/vem/membership"
)

// Error is that an app was not moved.
type Error struct {
	App, To string
	Err     error
}

func (e *Error) Error() string { return fmt.Sprintf("move app %s to host %s: %v", e.App, e.To, e.Err) }

// Unwrap returns why.
func (e *Error) Unwrap() error { return e.Err }

// Remedy says what to do; "": nothing is known that helps.
func (e *Error) Remedy() string {
	if errors.Is(e.Err, errUndecided) {
		return "nothing is lost: which of the two hosts has the app is asked again and again; snapctl show tells when it is known"
	}
	if errdefs.IsNotFound(e.Err) {
		return "`snapctl host ls` lists what there is"
	}
	return remedyOf(e.Err)
}

// remedyOf is what can be done about an error; "": nothing is known that helps.
func remedyOf(err error) string {
	if host, ok := errors.AsType[*membership.Error](err); ok {
		return host.Remedy
	}
	var remedied interface{ Remedy() string }
	if !errors.As(err, &remedied) {
		return ""
	}
	if there, ok := errors.AsType[*cargo.RemoteError](err); ok && remedied.Remedy() != "" {
		return "host " + there.Host + ": " + remedied.Remedy()
	}
	return remedied.Remedy()
}

// errUndecided is that an operation can neither be finished nor undone, since it is not known who has the
// endpoint.
var errUndecided = errors.New("it is not known yet on which host the app is")

// refused has the other host know why.
func refused(err error) error {
	if err == nil {
		return nil
	}
	if r, ok := errors.AsType[*message.RefusedError](err); ok {
		return r
	}
	return &message.RefusedError{Why: message.OneLine(err.Error()), Hint: message.OneLine(remedyOf(err))}
}
