package views_test

import (
	"context"
	"fmt"
	"io/fs"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/cmd/internal/cli/clitest"
	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/runtime/client"
)

// TestDoctorMayNotAsk is another user than root beside a daemon that runs.
func TestDoctorMayNotAsk(t *testing.T) {
	b := clitest.NewBench(t)
	b.UID = 1000
	b.Dial = func(context.Context, string) (*client.Client, error) {
		return nil, fmt.Errorf("connect: %w", fs.ErrPermission)
	}
	qt.Assert(t, qt.Equals(b.Run(t.Context(), "doctor", "--socket", "/run/s"), session.Unsupported))
	qt.Assert(t, qt.Equals(b.Stdout.String(), `STATUS    CHECK      FOUND
failed    snapctld   can't be asked: permission denied at /run/s
ok        kernel     6.18.0
ok        criu       /usr/sbin/criu 4.2.1
warning   overlay    user 1000 can't see /var/lib/snapctl

snapctld: only root may use snapctl: try `+"`sudo snapctl`"+`
overlay: sudo snapctl doctor
`))
}
