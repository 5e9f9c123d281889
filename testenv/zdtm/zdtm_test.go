// Package zdtm runs CRIU's own static tests in the sandbox of an app: each is started,
// hibernated, woken, and then asked whether all is as it was. They are not a part of
// this repository: ZDTM names a checkout of CRIU in which they have been built, below a
// directory that apps see (not /tmp, /var/tmp or /run):
//
//	make -C DIR/test/zdtm/lib && make -k -C DIR/test/zdtm/static
//	make test PKGS=./testenv/zdtm ZDTM=DIR
//
// TESTING.md lists those that don't pass, and why. A test that does something else than
// the list says fails, in either direction.
package zdtm

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/e2e"
)

// outcome is how a test of CRIU's ended.
type outcome string

const (
	pass    outcome = "pass"
	nostart outcome = "no start" // it can't even start in an app
	refused outcome = "refused"  // the app was not hibernated, and went on
	asleep  outcome = "asleep"   // it was hibernated, and can't be woken
	differs outcome = "differs"  // something was not as before
)

func TestStatic(t *testing.T) {
	checkout := os.Getenv("ZDTM")
	if checkout == "" {
		t.Skip("ZDTM names no checkout of CRIU with its tests built")
	}
	dir := filepath.Join(checkout, "test", "zdtm", "static")
	known := readKnown(t)
	w := e2e.New(t, "make", "bash")
	for _, name := range built(t, dir) {
		t.Run(name, func(t *testing.T) {
			got, why := run(t, w, dir, name)
			want, listed := known[name]
			switch {
			case !listed && got != pass:
				t.Errorf("%s: %s: not in the list of TESTING.md", got, why)
			case listed && got != want:
				t.Errorf("%s: %s: TESTING.md says that it is %s", got, why, want)
			case listed:
				t.Logf("%s, as TESTING.md says: %s", got, why)
			}
		})
	}
}

// built lists the tests that are there as programs and that CRIU's own runner takes by
// itself: neither those that are expected to fail nor those for certain machines, nor
// those of cgroups.
func built(t *testing.T, dir string) []string {
	t.Helper()
	sources, err := filepath.Glob(filepath.Join(dir, "*.c"))
	qt.Assert(t, qt.IsNil(err))
	var names []string
	for _, source := range sources {
		program := strings.TrimSuffix(source, ".c")
		info, err := os.Stat(program)
		if err != nil || info.Mode()&0o111 == 0 || strings.HasPrefix(filepath.Base(program), "cgroup") {
			continue // those of cgroups make some on the machine, and leave them
		}
		desc, err := os.ReadFile(program + ".desc")
		qt.Assert(t, qt.IsTrue(err == nil || errors.Is(err, os.ErrNotExist)))
		flags := strings.Fields(flagsField.FindString(string(desc)))
		if !slices.ContainsFunc(flags, func(f string) bool {
			f = strings.Trim(f, `'",:}`)
			return f == "noauto" || f == "crfail" || f == "reqrst"
		}) {
			names = append(names, filepath.Base(program))
		}
	}
	qt.Assert(t, qt.IsTrue(len(names) > 0), qt.Commentf("no test is built in %s", dir))
	return names
}

var flagsField = regexp.MustCompile(`'flags'\s*:\s*'[^']*'`)

// start starts a test as CRIU's makefile does, and stays: somebody has to wait for
// processes whose parents have ended.
const start = `make -s %[1]s.pid </dev/null && echo STARTED || echo NOSTART; while :; do sleep 1000 & wait; done`

// finish tells the test that it was restored, and waits for its verdict.
const finish = `make -s %[1]s.out; for i in $(seq 300); do [ -f %[1]s.out ] && break; sleep 0.1; done; tail -n 3 %[1]s.out*`

const patience = time.Minute

func run(t *testing.T, w *e2e.World, dir, name string) (outcome, string) {
	t.Helper()
	ctx := t.Context()
	app := "zdtm"
	_, err := w.API.Run(ctx, &api.RunRequest{Name: app, Workdir: dir, Args: []string{"bash", "-c", fmt.Sprintf(start, name)}})
	qt.Assert(t, qt.IsNil(err))
	defer func() {
		qt.Check(t, qt.IsNil(w.API.Remove(ctx, &api.RemoveRequest{Name: app, Force: true})))
	}()
	log := ""
	tick, deadline := time.NewTicker(20*time.Millisecond), time.Now().Add(patience)
	defer tick.Stop()
	for !strings.Contains(log, "START") && time.Now().Before(deadline) {
		<-tick.C
		r, err := w.Snapctl(ctx, "logs", app)
		qt.Assert(t, qt.IsNil(err))
		log = r.Stdout
	}
	if !strings.Contains(log, "STARTED") {
		return nostart, lastLine(log)
	}
	if r, err := w.Snapctl(ctx, "hibernate", app); err != nil || r.Code != 0 {
		return refused, r.Stderr
	}
	if r, err := w.Snapctl(ctx, "wake", app); err != nil || r.Code != 0 {
		return asleep, r.Stderr
	}
	r, err := w.Snapctl(ctx, "exec", app, "--", "bash", "-c", "cd "+dir+"; "+fmt.Sprintf(finish, name))
	qt.Assert(t, qt.IsNil(err))
	if strings.Contains(r.Stdout, "PASS") {
		return pass, ""
	}
	return differs, lastLine(r.Stdout + r.Stderr)
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// readKnown reads the list of TESTING.md: rows of a table between two marks, with the
// tests, what becomes of them, and why.
func readKnown(t *testing.T) map[string]outcome {
	t.Helper()
	f, err := os.Open("../../TESTING.md")
	qt.Assert(t, qt.IsNil(err))
	defer f.Close()
	known := make(map[string]outcome)
	inside := false
	for in := bufio.NewScanner(f); in.Scan(); {
		line := in.Text()
		inside = inside && line != "<!-- zdtm end -->" || line == "<!-- zdtm -->"
		cells := strings.Split(line, "|")
		if !inside || len(cells) != 5 {
			continue
		}
		what := outcome(strings.TrimSpace(cells[2]))
		if !slices.Contains([]outcome{nostart, refused, asleep, differs}, what) {
			continue // the head of the table
		}
		for _, name := range strings.FieldsFunc(cells[1], func(r rune) bool { return r == ',' || r == ' ' || r == '`' }) {
			known[name] = what
		}
	}
	return known
}

// The list can be read on machines without CRIU's tests, too.
func TestKnownIsRead(t *testing.T) {
	qt.Assert(t, qt.IsTrue(len(readKnown(t)) > 0))
}
