package engine

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

// Refusef makes a refusal.
func Refusef(format string, args ...any) error { return refusal{fmt.Errorf(format, args...)} }
