package apart_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/criu/apart"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/leak"
)

// What is mounted for a process that is apart only it can see, and what comes into its mount namespace.
func TestApart(t *testing.T) {
	testenv.Need(t, testenv.Root)
	leak.Check(t)
	dir := t.TempDir()
	cmd := exec.Command("sh", "-c", `read x; ls "$1"`, "sh", dir)
	in, err := cmd.StdinPipe()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(dir, "below"), nil, 0o600)))
	var shown bytes.Buffer
	cmd.Stdout = &shown
	qt.Assert(t, qt.IsNil(apart.OnThread(func() error {
		if err := apart.Move(); err != nil {
			return err
		}
		return cmd.Start()
	})))
	above := filepath.Join(dir, "above")
	qt.Check(t, qt.IsNil(apart.Do(cmd.Process.Pid, func() error {
		return errors.Join(unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"), os.WriteFile(above, nil, 0o600))
	})))
	qt.Check(t, qt.IsNil(apart.Do(cmd.Process.Pid, func() error {
		_, err := os.Stat(above)
		return err
	})))
	_, err = os.Stat(above)
	qt.Check(t, qt.ErrorIs(err, os.ErrNotExist))
	sentinel := errors.New("sentinel")
	qt.Check(t, qt.ErrorIs(apart.Do(cmd.Process.Pid, func() error { return sentinel }), sentinel))
	qt.Assert(t, qt.IsNil(in.Close()))
	qt.Assert(t, qt.IsNil(cmd.Wait()))
	qt.Check(t, qt.Equals(shown.String(), "above\n"))
	qt.Check(t, qt.ErrorIs(apart.Do(1<<30, func() error { return nil }), unix.ENOENT))
}
