package app

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// refusal is a request that can't be carried out as things are. It is an
// errdefs.ErrFailedPrecondition that says in its own words why.
type refusal struct{ error }

func (r refusal) Unwrap() error        { return r.error }
func (r refusal) Is(target error) bool { return target == errdefs.ErrFailedPrecondition }

// FailedPrecondition is by what errdefs.Resolve, and so errgrpc.ToGRPC, knows the error: it asks no
// Is of an error that has an Unwrap (containerd/errdefs v1.0.0, resolve.go, firstError).
func (r refusal) FailedPrecondition() {}

// Refuse makes an error, which it wraps, the reason why a request is refused: an
// errdefs.ErrFailedPrecondition with the same text.
func Refuse(err error) error { return refusal{err} }

// Refusef refuses a request for a reason that is formatted like that of fmt.Errorf.
func Refusef(format string, args ...any) error { return Refuse(fmt.Errorf(format, args...)) }
