package taken

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem"
)

func TestErrorsOfClaims(t *testing.T) {
	port := vem.Port{Proto: "tcp", HostPort: 80}
	for _, test := range []struct {
		err  error
		text string
		is   error
	}{
		{&vem.PortError{App: "web", Port: port}, "publish host port 80/tcp: already exists: app web has it", errdefs.ErrAlreadyExists},
		{&vem.TakenError{App: "web"}, ".*", errdefs.ErrAlreadyExists},
		{&vem.AddressError{Network: "blue", Err: errors.New("not in it")}, "endpoint in network blue .*: not in it", errdefs.ErrInvalidArgument},
		{os.ErrPermission, "permission denied", os.ErrPermission},
	} {
		err := Error(fmt.Errorf("claim: %w", test.err))
		qt.Check(t, qt.ErrorIs(err, test.is))
		if !errors.Is(test.is, os.ErrPermission) {
			qt.Check(t, qt.ErrorMatches(err, test.text))
			qt.Check(t, qt.Equals(errdefs.Resolve(err), test.is)) // by what clients are told the kind
		}
	}
}
