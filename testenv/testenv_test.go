package testenv_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv"
)

// recorder is a test that records how it ended.
type recorder struct {
	testenv.TB
	skipped, failed string
}

func (r *recorder) Skipf(format string, args ...any)  { r.skipped = fmt.Sprintf(format, args...) }
func (r *recorder) Fatalf(format string, args ...any) { r.failed = fmt.Sprintf(format, args...) }

func TestNeed(t *testing.T) {
	met := func(context.Context) error { return nil }
	unmet := func(context.Context) error { return errors.New("no such thing") }
	tests := map[string]struct {
		ci            string
		need          testenv.Requirement
		skipped, fail string
	}{
		"met":         {need: met},
		"unmet":       {need: unmet, skipped: "can't run this test here: no such thing"},
		"met in CI":   {ci: "true", need: met},
		"unmet in CI": {ci: "true", need: unmet, fail: "CI can't run this test: no such thing"},
		"program":     {need: testenv.Program("sh")},
		"no program":  {need: testenv.Program("no-such-program"), skipped: `.*"no-such-program": executable file not found.*`},
		"old kernel":  {need: testenv.Kernel(3, 10)},
		"new kernel":  {need: testenv.Kernel(99, 0), skipped: ".*needs Linux 99.0, this is .*"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Setenv("CI", tt.ci)
			r := &recorder{TB: t}
			testenv.Need(r, tt.need)
			qt.Check(t, qt.Matches(r.skipped, tt.skipped))
			qt.Check(t, qt.Equals(r.failed, tt.fail))
		})
	}
}

func TestCRIU(t *testing.T) {
	tests := map[string]struct{ output, err string }{
		"new enough":  {output: "Version: 4.2.1"},
		"much newer":  {output: "Version: 10.0"},
		"too old":     {output: "Version: 3.17.1", err: "needs criu 4.2, this is 3.17 .*"},
		"just too":    {output: "Version: 4.1", err: "needs criu 4.2, this is 4.1 .*"},
		"not a criu":  {output: "hello", err: "parse criu version .*"},
		"not working": {err: "run criu .*"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "criu")
			script := "#!/bin/sh\necho " + tt.output + "\n"
			if tt.output == "" {
				script = "#!/bin/sh\nexit 1\n"
			}
			qt.Assert(t, qt.IsNil(os.WriteFile(path, []byte(script), 0o755)))
			t.Setenv("SNAPCTL_CRIU", path)
			err := testenv.CRIU(t.Context())
			if tt.err == "" {
				qt.Check(t, qt.IsNil(err))
				return
			}
			qt.Check(t, qt.ErrorMatches(err, tt.err))
		})
	}
}

func TestInstall(t *testing.T) {
	dir := t.TempDir()
	path, err := testenv.Install(t.Context(), "peer", dir)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(path, filepath.Join(dir, "peer")))
	again, err := testenv.Install(t.Context(), "peer", dir)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(again, path))
	out, err := exec.CommandContext(t.Context(), path).CombinedOutput()
	qt.Check(t, qt.IsNotNil(err))
	qt.Check(t, qt.Equals(strings.TrimSpace(string(out)), "peer: error: want --listen, --connect, --control or --drive"))

	_, err = testenv.Install(t.Context(), "no-such-program", dir)
	qt.Check(t, qt.ErrorMatches(err, ".*no such program in the module"))
}
