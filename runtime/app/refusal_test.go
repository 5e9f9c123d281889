package app

import (
	"errors"
	"fmt"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"
)

func TestRefusalsAreKnownByTheirKind(t *testing.T) {
	cause := errors.New("it has a device open")
	for _, err := range []error{Refusef("app is held"), Refuse(cause), fmt.Errorf("snapshot: %w", Refuse(cause))} {
		qt.Check(t, qt.IsTrue(errdefs.IsFailedPrecondition(err)))
		qt.Check(t, qt.Equals(errdefs.Resolve(err), error(errdefs.ErrFailedPrecondition)))
	}
	qt.Check(t, qt.ErrorIs(Refuse(cause), cause))
}
