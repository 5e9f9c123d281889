package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv"
)

// criuForOtherUsers is a CRIU that can save processes of other users than root:
// the usual one, or, where CAP_SYS_RESOURCE is missing, that one with a
// replacement for the system call which needs it. See testdata/limits.c.
func criuForOtherUsers(t *testing.T) string {
	t.Helper()
	testenv.Need(t, testenv.Root, testenv.CRIU)
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData // the interface has 64 bits as two of 32
	qt.Assert(t, qt.IsNil(unix.Capget(&hdr, &data[0])))
	if data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0 {
		return testenv.CRIUPath()
	}
	testenv.Need(t, testenv.Program("cc"))
	dir, err := os.MkdirTemp(testenv.BaseDir(), "criu-") //nolint:usetesting // scratch hosts don't see t.TempDir
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(os.RemoveAll(dir))) })
	library, script := filepath.Join(dir, "limits.so"), filepath.Join(dir, "criu")
	out, err := exec.CommandContext(t.Context(), "cc", "-shared", "-fPIC", "-O2", "-o", library, "testdata/limits.c").CombinedOutput()
	qt.Assert(t, qt.IsNil(err), qt.Commentf("%s", out))
	criu, err := exec.LookPath(testenv.CRIUPath())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(os.WriteFile(script, fmt.Appendf(nil, "#!/bin/sh\nLD_PRELOAD=%s exec %s \"$@\"\n", library, criu), 0o755)))
	return script
}

// TestOtherUserNeedsCapability tells what is missing where it is.
func TestOtherUserNeedsCapability(t *testing.T) {
	w := New(t)
	w.Run(&api.RunRequest{Name: "app", User: "65534:65534", Args: []string{"sleep", "1000"}})
	r, err := w.Snapctl(t.Context(), "hibernate", "app")
	qt.Assert(t, qt.IsNil(err))
	if r.Code == 0 {
		t.Skip("nothing is missing here")
	}
	qt.Assert(t, qt.StringContains(r.Stderr, "start snapctld with CAP_SYS_RESOURCE"))
	qt.Assert(t, qt.Equals(w.Show("app").GetStatus(), api.Status_STATUS_RUNNING))
}
