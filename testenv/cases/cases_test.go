// Package cases runs situations of an ordinary day against a real daemon, and looks
// whether the right thing happened. Each is a shell script in this folder: it says what
// goes wrong and what would be right, and ends with
//
//	0   ok: ...
//	1   wrong: what was seen instead
//	77  skip: why it can't run here
//
// What they share is in case.bash. A script runs on a scratch host with a daemon of its
// own, so that it may do what it likes to that host. To look into one, run it by hand:
//
//	go run ./testenv/cmd/onhost bash -x testenv/cases/bind-lock.sh
package cases

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/testenv/leak"
)

// scriptTime bounds one script: those that go wrong wait for what does not come.
const scriptTime = 3 * time.Minute

var lastWord = regexp.MustCompile(`(?m)^(ok|wrong|skip): .*$`)

func TestCases(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.CRIU)
	scripts, err := filepath.Glob("*.sh")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsTrue(len(scripts) > 0))
	for _, script := range scripts {
		t.Run(strings.TrimSuffix(script, ".sh"), func(t *testing.T) { run(t, script) })
	}
}

// run runs one script on a host of its own, of which nothing may be left.
func run(t *testing.T, script string) {
	t.Helper()
	path, err := filepath.Abs(script)
	qt.Assert(t, qt.IsNil(err))
	h := host.New(t, host.Config{})
	qt.Assert(t, qt.IsNil(h.StartDaemon(t.Context(), host.Daemon{})))
	_, err = h.Install(t.Context(), "snapctl")
	qt.Assert(t, qt.IsNil(err))
	leak.Check(t, h)

	ctx, cancel := context.WithTimeout(t.Context(), scriptTime)
	defer cancel()
	cmd := h.Command(ctx, "bash", path)
	cmd.Dir = t.TempDir()
	r, err := host.Run(cmd)
	qt.Assert(t, qt.IsNil(err))
	forgetNetworks(t, h)
	said := lastWord.FindString(r.Stdout)
	switch r.Code {
	case 0:
		t.Log(said)
	case 77:
		testenv.Need(t, func(context.Context) error { return skipError(said) })
	default:
		t.Errorf("%s\n%s%s", said, r.Stdout, r.Stderr)
	}
}

// forgetNetworks removes what a daemon keeps of a network for ever: its addresses.
func forgetNetworks(t *testing.T, h *host.Host) {
	t.Helper()
	networks, err := filepath.Glob(h.Outside(filepath.Join(h.StateDir(), "networks", "*.json")))
	qt.Assert(t, qt.IsNil(err))
	for _, path := range networks {
		if filepath.Base(path) != "default.json" {
			qt.Check(t, qt.IsNil(os.Remove(path)))
		}
	}
}

// skipError is why a script can't run.
type skipError string

func (e skipError) Error() string { return string(e) }

// Scripts that nobody runs prove nothing.
func TestScriptsAreExecutable(t *testing.T) {
	scripts, err := filepath.Glob("*.sh")
	qt.Assert(t, qt.IsNil(err))
	for _, script := range scripts {
		info, err := os.Stat(script)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.IsTrue(info.Mode()&0o100 != 0), qt.Commentf("%s", script))
	}
}
