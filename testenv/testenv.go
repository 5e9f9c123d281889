// Package testenv is what the tests, the demo and the benchmarks of snapctl
// stand on. Shipped code never imports it.
//
//	testenv           what a test needs, and the programs it runs
//	testenv/host      scratch hosts: a machine's worth of namespaces
//	testenv/underlay  the networks between them, and what goes wrong there
//	testenv/cluster   clusters of the directory, without root
//	testenv/peer      peers that number every byte
//	testenv/traffic   many peers that exchange bytes with one another
//	testenv/leak      what was left behind
//	testenv/gate      stopping a daemon at a named point
package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// TB is the part of [testing.TB] that the packages here use, so that programs
// which are no tests can use them without linking the testing package.
type TB interface {
	Helper()
	Name() string
	Context() context.Context
	Cleanup(func())
	Failed() bool
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
}

// A Requirement is something a test can't do without. It returns nil if it is
// there, and else an error that says what is missing.
type Requirement func(ctx context.Context) error

// Need skips the test, with the reason, unless all requirements are met. Where
// the environment says CI=true, an unmet one is a failure: a test that never
// runs proves nothing.
func Need(t TB, requirements ...Requirement) {
	t.Helper()
	for _, check := range requirements {
		err := check(t.Context())
		switch {
		case err == nil:
		case os.Getenv("CI") == "true":
			t.Fatalf("CI can't run this test: %v", err)
		default:
			t.Skipf("can't run this test here: %v", err)
		}
	}
}

// Root is met by user 0 with the capabilities that namespaces, mounts and
// network devices take: CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_SYS_PTRACE.
func Root(context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("not root")
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData // the interface has 64 bits as two of 32
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	for number, name := range map[int]string{
		unix.CAP_SYS_ADMIN: "CAP_SYS_ADMIN", unix.CAP_NET_ADMIN: "CAP_NET_ADMIN", unix.CAP_SYS_PTRACE: "CAP_SYS_PTRACE",
	} {
		if data[number/32].Effective&(1<<(number%32)) == 0 {
			return fmt.Errorf("root without %s", name)
		}
	}
	return nil
}

// Program is met if there is a program called name on PATH.
func Program(name string) Requirement {
	return func(context.Context) error {
		_, err := exec.LookPath(name)
		return err
	}
}

// Kernel is met by this version of Linux and later ones.
func Kernel(major, minor int) Requirement {
	return func(context.Context) error {
		var u unix.Utsname
		if err := unix.Uname(&u); err != nil {
			return fmt.Errorf("read kernel version: %w", err)
		}
		release := unix.ByteSliceToString(u.Release[:])
		var haveMajor, haveMinor int
		if _, err := fmt.Sscanf(release, "%d.%d", &haveMajor, &haveMinor); err != nil {
			return fmt.Errorf("parse kernel version %q: %w", release, err)
		}
		if haveMajor < major || haveMajor == major && haveMinor < minor {
			return fmt.Errorf("needs Linux %d.%d, this is %s", major, minor, release)
		}
		return nil
	}
}

// CRIUPath is the CRIU to test with: SNAPCTL_CRIU, or criu on PATH.
func CRIUPath() string {
	if path := os.Getenv("SNAPCTL_CRIU"); path != "" {
		return path
	}
	return "criu"
}

// CRIU is met by CRIU 4.2 or later at [CRIUPath], which the
// kernels from 6.16 on need.
func CRIU(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, CRIUPath(), "--version").Output()
	if err != nil {
		return fmt.Errorf("run criu (SNAPCTL_CRIU names another one): %w", err)
	}
	_, version, _ := strings.Cut(string(out), "Version:")
	var major, minor int
	if _, err := fmt.Sscanf(version, "%d.%d", &major, &minor); err != nil {
		return fmt.Errorf("parse criu version %q: %w", strings.TrimSpace(string(out)), err)
	}
	if major < 4 || major == 4 && minor < 2 {
		return fmt.Errorf("needs criu 4.2, this is %d.%d (SNAPCTL_CRIU names another one)", major, minor)
	}
	return nil
}
