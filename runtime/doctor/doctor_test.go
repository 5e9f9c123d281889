package doctor

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv"
)

// TestMain makes the test binary a doctor for another user.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "doctor" {
		checks := Run(context.Background(), Options{CRIU: []string{"/nonexistent/criu"}, StateDir: os.Args[2]}) //nolint:forbidigo // a main function
		if err := json.NewEncoder(os.Stdout).Encode(checks); err != nil {
			panic(err)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func named(t *testing.T, checks []Check, name string) Check {
	t.Helper()
	for _, c := range checks {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no check %s in %v", name, checks)
	return Check{}
}

func TestKernel(t *testing.T) {
	for release, want := range map[string]Status{
		"6.1.0-13-amd64": OK, "6.18.0": OK, "7.0": OK, "6.0.19": Failed, "5.15.0": Failed, "": Warning, "x": Warning,
	} {
		qt.Check(t, qt.Equals(judgeKernel(release).status, want), qt.Commentf("%q", release))
	}
	qt.Check(t, qt.Not(qt.Equals(Kernel(), "")))
}

// TestRoot makes all checks as root: each has found something, a failed one says
// what to do, and nothing is left behind.
func TestRoot(t *testing.T) {
	testenv.Need(t, testenv.Root)
	dir := t.TempDir()
	missing := filepath.Join(dir, "var", "snapctl") // of a daemon that never ran
	checks := Run(t.Context(), Options{CRIU: []string{"/nonexistent/criu"}, StateDir: missing})
	for _, c := range checks {
		qt.Check(t, qt.Not(qt.Equals(c.Found, "")), qt.Commentf("%v", c))
		qt.Check(t, qt.IsTrue(c.Status == OK || c.Remedy != ""), qt.Commentf("%v", c))
		qt.Check(t, qt.IsFalse(strings.Contains(c.Found, "can't see")), qt.Commentf("%v", c))
	}
	qt.Check(t, qt.Equals(named(t, checks, "criu").Status, Failed))
	qt.Check(t, qt.Equals(named(t, checks, "overlay"), Check{Name: "overlay", Status: OK, Found: "upper layers in " + missing}))
	qt.Check(t, qt.Equals(named(t, checks, "root").Status, OK))
	qt.Check(t, qt.Matches(named(t, checks, "shared-files").Found, "layers in "+missing+"(, by stubs)?"))
	qt.Check(t, qt.Equals(named(t, checks, "cgroups").Status, OK))
	left, err := os.ReadDir(dir)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(left, 0))
	probes, err := filepath.Glob("/sys/fs/cgroup/*/snapctl-doctor-" + strconv.Itoa(os.Getpid()))
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(probes, 0))
}

// TestAnotherUser makes them as a user without rights: what that can't see is no
// failure, and said.
func TestAnotherUser(t *testing.T) {
	testenv.Need(t, testenv.Root) // to become somebody else
	exe, err := os.ReadFile("/proc/self/exe")
	qt.Assert(t, qt.IsNil(err))
	dir := t.TempDir()
	for up := dir; up != os.TempDir() && up != "/"; up = filepath.Dir(up) {
		qt.Assert(t, qt.IsNil(os.Chmod(up, 0o755)))
	}
	program := filepath.Join(dir, "doctor")
	qt.Assert(t, qt.IsNil(os.WriteFile(program, exe, 0o755)))
	cmd := exec.CommandContext(t.Context(), program, "doctor", "/var/lib/nonexistent")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Dir, cmd.Stderr = "/", os.Stderr
	out, err := cmd.Output()
	qt.Assert(t, qt.IsNil(err))
	var checks []Check
	qt.Assert(t, qt.IsNil(json.Unmarshal(out, &checks)), qt.Commentf("%s", out))

	qt.Check(t, qt.Equals(named(t, checks, "root"), Check{
		Name: "root", Status: Warning, Found: "user 65534", Remedy: "snapctld and snapctl need root: sudo snapctl doctor sees more",
	}))
	for _, name := range []string{"criu", "cgroups", "namespaces", "overlay", "shared-files", "limits"} {
		c := named(t, checks, name)
		qt.Check(t, qt.Equals(c.Status, Warning), qt.Commentf("%v", c))
		qt.Check(t, qt.Matches(c.Found, `user 65534 can't see .*`))
		qt.Check(t, qt.Equals(c.Remedy, "sudo snapctl doctor"))
	}
	for _, c := range checks {
		qt.Check(t, qt.Not(qt.Equals(c.Status, Failed)), qt.Commentf("%v", c))
	}
}
