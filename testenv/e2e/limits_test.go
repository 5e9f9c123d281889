package e2e

import (
	"runtime"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv/host"
)

// snapctl runs the command line tool, which must succeed, and returns what it printed.
func (w *World) snapctl(args ...string) string {
	w.t.Helper()
	r, err := w.Snapctl(w.t.Context(), args...)
	qt.Assert(w.t, qt.IsNil(err))
	qt.Assert(w.t, qt.Equals(r.Code, 0), qt.Commentf("snapctl %v: %s%s", args, r.Stdout, r.Stderr))
	return strings.TrimSpace(r.Stdout)
}

// TestProgramsSeeTheirLimits asks the runtimes that size themselves by the limits of
// their cgroup what they find: in an app, after a wake, in a restored copy, and in
// clones.
func TestProgramsSeeTheirLimits(t *testing.T) {
	w := New(t, "java", "node")
	path, err := w.Install(t.Context(), "survivor")
	qt.Assert(t, qt.IsNil(err))
	see := func(app, cpus string) {
		t.Helper()
		java := w.snapctl("exec", app, "--", "sh", "-c", "java -XshowSettings:system -version 2>&1")
		qt.Check(t, qt.StringContains(java, "Effective CPU Count: "+cpus), qt.Commentf("%s", app))
		qt.Check(t, qt.StringContains(java, "Memory Limit: 500.00M"), qt.Commentf("%s", app))
		qt.Check(t, qt.Equals(w.snapctl("exec", app, "--", "node", "-p", "process.constrainedMemory()"), "524288000"), qt.Commentf("%s", app))
		// Go takes two processors for a limit of one (runtime/cgroup_linux.go,
		// adjustCgroupGOMAXPROCS): with two there is nothing to see.
		if runtime.NumCPU() > 2 {
			qt.Check(t, qt.Equals(w.snapctl("exec", app, "--", path, "processors"), "2"), qt.Commentf("%s", app))
		}
		r, err := w.Snapctl(t.Context(), "exec", app, "--", "sh", "-c", "echo $$ > $(find /sys/fs/cgroup -name cgroup.procs | head -n 1)")
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.StringContains(r.Stderr, "Read-only file system"), qt.Commentf("%s", app))
	}
	w.snapctl("run", "--name", "a", "--cpus", "1", "--memory", "500M", "--", "sleep", "1000")
	see("a", "1")
	w.Hibernate("a")
	w.Wake("a")
	see("a", "1")
	w.snapctl("snapshot", "--name", "s", "a")
	w.snapctl("restore", "s", "--as", "b")
	see("b", "1")
	w.snapctl("template", "create", "t", "--from", "s")
	w.snapctl("clone", "t", "--name", "c")
	see("c", "1")
	// Its own cgroup, not the original's.
	w.snapctl("rm", "--force", "a", "b")
	see("c", "1")
}

// TestExecTellsTheSignal runs commands that end by themselves, and by signals.
func TestExecTellsTheSignal(t *testing.T) {
	w := New(t)
	w.snapctl("run", "--name", "a", "--", "sleep", "1000")
	for command, want := range map[string]int{"exit 3": 3, "kill -KILL $$": 137, "kill -TERM $$": 143, "exec false": 1} {
		r, err := w.Snapctl(t.Context(), "exec", "a", "--", "sh", "-c", command)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(r.Code, want), qt.Commentf("%s: %s", command, r.Stderr))
	}
}

// TestRestoreTakesAnotherAddress restores copies beside the app that they are made of:
// each has an address of its own for others, and the result says so. Without another
// name, or with an address that was asked for, it is refused.
func TestRestoreTakesAnotherAddress(t *testing.T) {
	w := New(t)
	w.snapctl("run", "--name", "a", "--endpoint", "10.77.0.20", "--", "sleep", "1000")
	w.snapctl("snapshot", "--name", "s", "a")
	restored := func(code int, args ...string) host.Result {
		t.Helper()
		r, err := w.Snapctl(t.Context(), append([]string{"restore", "s"}, args...)...)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.Equals(r.Code, code), qt.Commentf("%v: %s%s", args, r.Stdout, r.Stderr))
		return r
	}
	r := restored(0, "--as", "b")
	qt.Check(t, qt.StringContains(r.Stderr, "snapctl: note: b is at 10.77.0.2 for others, and at 10.77.0.20, which it was saved with, for itself: app a has that endpoint"))
	restored(0, "--as", "c")
	qt.Check(t, qt.Equals(w.Show("b").GetEndpoint(), "10.77.0.2"))
	qt.Check(t, qt.Equals(w.Show("c").GetEndpoint(), "10.77.0.3"))
	qt.Check(t, qt.StringContains(restored(1, "--as", "d", "--endpoint", "10.77.0.20").Stderr, "app a has endpoint 10.77.0.20 of network default"))
	restored(1)
	w.snapctl("rm", "--force", "a", "b")
	r = restored(0, "--as", "b") // it is free
	qt.Check(t, qt.Equals(r.Stderr, ""))
	qt.Check(t, qt.Equals(w.Show("b").GetEndpoint(), "10.77.0.20"))
}

// TestForeignProcessInCgroup has somebody else's process in the cgroup that an app is to
// get. It must be named, and go on.
func TestForeignProcessInCgroup(t *testing.T) {
	w := New(t)
	version, err := w.API.Version(t.Context())
	qt.Assert(t, qt.IsNil(err))
	stranger := w.Command(t.Context(), "sh", "-c", `
		for root in /sys/fs/cgroup/unified /sys/fs/cgroup; do [ -e $root/cgroup.procs ] && break; done
		mkdir -p "$root$1/a/below" && echo $$ > "$root$1/a/below/cgroup.procs" && echo there && read -r _`, "sh", version.GetCgroup())
	in, err := stranger.StdinPipe()
	qt.Assert(t, qt.IsNil(err))
	out, err := stranger.StdoutPipe()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(stranger.Start()))
	buf := make([]byte, len("there\n"))
	_, err = out.Read(buf)
	qt.Assert(t, qt.IsNil(err))
	r, err := w.Snapctl(t.Context(), "run", "--name", "a", "--", "sleep", "1000")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(r.Code, 1))
	qt.Check(t, qt.Matches(r.Stderr, `(?s)snapctl: error: make app a: its cgroup is in use: process \d+ \(sh\), which is no app's, is in \S+/a/below: end it, .*`))
	_, err = in.Write([]byte("\n"))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(stranger.Wait())) // it was not killed
	w.snapctl("run", "--name", "a", "--", "sleep", "1000")
}
