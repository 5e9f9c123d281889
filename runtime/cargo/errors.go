package cargo

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/tree"
	"github.com/snapctl/snapctl/vem/control/message"
)

var (
	// ErrCut is a transfer whose other side went away in the middle.
	ErrCut = errors.New("the other host ended the transfer in the middle")
	// ErrUnknown is a transfer of which everything was sent, and nobody knows what became of it.
	ErrUnknown = errors.New("everything was sent, and the other host did not say whether it has it")
	// ErrTooMuch is a snapshot that is too large for the limits of a transfer.
	ErrTooMuch = errors.New("too much to be sent")
)

// SpaceError is that a target has no room for what it would get. It is an ENOSPC.
type SpaceError struct {
	Dir         string // on whose file system
	NeededBytes int64
	FreeBytes   int64
}

func (e *SpaceError) Error() string {
	return fmt.Sprintf("there is not enough room in %s: %d bytes are needed, and %d are free", e.Dir, e.NeededBytes, e.FreeBytes)
}

// Is makes the error an ENOSPC.
func (e *SpaceError) Is(target error) bool { return target == unix.ENOSPC }

// Remedy says what to do.
func (e *SpaceError) Remedy() string {
	return fmt.Sprintf("free %d bytes there, for example by `snapctl snapshots rm`", max(e.NeededBytes-e.FreeBytes, 1))
}

// RemoteError is what the other side of a transfer says that went wrong there. It wraps what is known
// of the error's kind.
type RemoteError struct {
	Host string // ""; the other one
	Text string
	kind error // may be nil
}

func (e *RemoteError) Error() string {
	if e.Host == "" {
		return "the other host says: " + e.Text
	}
	return "host " + e.Host + ": " + e.Text
}

// Unwrap returns the kind of the error.
func (e *RemoteError) Unwrap() error { return e.kind }

// failure is an error on its way to the other side.
type failure struct {
	Text  string      `json:"text"`
	Kind  string      `json:"kind,omitempty"`
	Space *SpaceError `json:"space,omitempty"`
}

// sayable are the kinds of errors that the other side is told, by their names on the wire. The first that
// fits is taken.
var sayable = []struct { //nolint:gochecknoglobals // a constant
	name string
	err  error
}{
	{"damaged", tree.ErrDamaged},
	{"damaged", memory.ErrDamaged},
	{"damaged", hostfile.ErrDamaged},
	{"damaged", snapshot.ErrInvalid},
	{"exists", errdefs.ErrAlreadyExists},
	{"exists", snapshot.ErrExists},
	{"not found", errdefs.ErrNotFound},
	{"invalid", errdefs.ErrInvalidArgument},
	{"precondition", errdefs.ErrFailedPrecondition},
	{"unavailable", errdefs.ErrUnavailable},
	{"space", unix.ENOSPC},
}

const mostText = 4 << 10 // bytes of what a host says

// short is a text that is fit to be said.
func short(text string) string {
	text = message.OneLine(text)
	if len(text) > mostText {
		text = strings.ToValidUTF8(text[:mostText], "")
	}
	return text
}

// failureOf makes a message of an error.
func failureOf(err error) failure {
	f := failure{Text: short(err.Error())}
	if space, ok := errors.AsType[*SpaceError](err); ok {
		f.Space = space
	}
	for _, s := range sayable {
		if errors.Is(err, s.err) {
			f.Kind = s.name
			break
		}
	}
	return f
}

// failureIn makes an error of a message.
func (l *link) failureIn(b []byte) error {
	var f failure
	if err := json.Unmarshal(b, &f); err != nil {
		return malformed("%v", err)
	}
	e := &RemoteError{Host: l.peer, Text: short(f.Text)}
	if f.Space != nil {
		f.Space.Dir = message.OneLine(f.Space.Dir)
		e.kind = f.Space
		return e
	}
	for _, s := range sayable {
		if s.name == f.Kind {
			e.kind = s.err
			break
		}
	}
	return e
}

// said tells whether an error is what the other side has said.
func said(err error) bool {
	_, ok := errors.AsType[*RemoteError](err)
	return ok
}
