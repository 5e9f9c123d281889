// Package taken has clients of the API know what it means that an app can't have the address or the port that
// it asks for.
package taken

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/vem"
)

// Error has clients of the API know what an error of a claim means.
func Error(err error) error {
	if e, ok := errors.AsType[*vem.PortError](err); ok {
		return fmt.Errorf("publish host port %d/%s: %w: app %s has it", e.Port.HostPort, e.Port.Proto, errdefs.ErrAlreadyExists, e.App)
	}
	if e, ok := errors.AsType[*vem.TakenError](err); ok {
		return takenError{e}
	}
	if e, ok := errors.AsType[*vem.AddressError](err); ok {
		return fmt.Errorf("endpoint in network %s (%s): %w: %w", e.Network, e.Prefix, errdefs.ErrInvalidArgument, e.Err)
	}
	return err
}

// takenError is an address that another app has. It is an errdefs.ErrAlreadyExists.
type takenError struct{ *vem.TakenError }

func (e takenError) Unwrap() error        { return e.TakenError }
func (e takenError) Is(target error) bool { return target == errdefs.ErrAlreadyExists }

// AlreadyExists is by what errdefs.Resolve knows the error, see app.Refuse.
func (e takenError) AlreadyExists() {}
