package e2e

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/host"
)

// TestCordon has no app move to a host that is cordoned, also by another daemon and by force, and has apps run there
// all the same.
func TestCordon(t *testing.T) {
	testenv.Need(t, testenv.Program("ip"), testenv.Program("nft"))
	hs := newInstallation(t, "alpha", "beta")
	alpha, beta := hs.worlds[0], hs.worlds[1]
	alpha.Run(&api.RunRequest{Name: "goes", Args: []string{"sleep", "1000"}})
	beta.Run(&api.RunRequest{Name: "here", Args: []string{"sleep", "1000"}})

	cordoned := func(w *World, want bool) {
		t.Helper()
		qt.Check(t, qt.Equals(hs.listed(w)["beta"].Cordoned, want))
	}
	hs.ok(alpha, "host", "cordon", "beta")
	cordoned(alpha, true)
	qt.Assert(t, qt.IsNil(beta.RestartDaemon(t.Context(), syscall.SIGTERM, host.Daemon{})))
	beta.Dial()
	cordoned(beta, true)
	beta.Until("a move is refused", func() error {
		r := alpha.CLI("migrate", "goes", "--to", "beta", "--force")
		if r.Code == 1 && strings.Contains(r.Stderr, "host beta is cordoned: it takes no apps of other hosts") && strings.Contains(r.Stderr, "hint: choose another host, or have it take them again: snapctl host uncordon beta") {
			return nil
		}
		qt.Assert(t, qt.Not(qt.Equals(r.Code, 0)))
		return errors.New(r.Stderr) // the hosts have to find each other again
	})
	hs.ok(alpha, "snapshot", "goes", "--name", "saved")
	r := alpha.CLI("restore", "saved", "--as", "copy", "--host", "beta")
	qt.Check(t, qt.Equals(r.Code, 1))
	qt.Check(t, qt.StringContains(r.Stderr, "host beta is cordoned: it takes no apps of other hosts"))
	qt.Check(t, qt.StringContains(r.Stderr, "hint: choose another host, or have it take them again: snapctl host uncordon beta"))
	hs.ok(alpha, "snapshots", "push", "saved", "--to", "beta")
	qt.Check(t, qt.Equals(alpha.CLI("restore", "saved", "--as", "copy", "--host", "beta").Code, 1)) // although it is there
	hs.ok(beta, "restore", "saved", "--as", "own")
	beta.Run(&api.RunRequest{Name: "more", Args: []string{"sleep", "1000"}})
	hs.migrate("here", beta, alpha)

	hs.ok(beta, "host", "uncordon")
	cordoned(alpha, false)
	hs.migrate("goes", alpha, beta)
	hs.ok(alpha, "restore", "saved", "--as", "copy", "--host", "beta")
	qt.Check(t, qt.Equals(alpha.CLI("host", "cordon", "delta").Code, 4))
}
