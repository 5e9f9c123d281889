package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/host"
)

// CLI runs snapctl.
func (w *World) CLI(args ...string) host.Result {
	w.t.Helper()
	r, err := w.Snapctl(w.t.Context(), args...)
	qt.Assert(w.t, qt.IsNil(err))
	return r
}

// OK runs a snapctl command that must succeed and returns its output.
func (w *World) OK(args ...string) string {
	w.t.Helper()
	r := w.CLI(args...)
	qt.Assert(w.t, qt.Equals(r.Code, 0), qt.Commentf("snapctl %s: %s", strings.Join(args, " "), r.Stderr))
	return r.Stdout
}

// rootfs makes a root directory with nothing in it but the actor.
func (w *World) rootfs() string {
	w.t.Helper()
	dir := w.hostDir("rootfs")
	_, err := testenv.Install(w.t.Context(), "actor", dir)
	qt.Assert(w.t, qt.IsNil(err))
	return dir
}

// TestRunFlags tells an app where it is and what it may do, and looks whether
// that is so, also after a wake.
func TestRunFlags(t *testing.T) {
	t.Setenv("SNAPCTL_CRIU", criuForOtherUsers(t))
	w := New(t)
	root, data := w.rootfs(), w.hostDir("data")
	qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(data, "file"), []byte("content"), 0o644)))
	w.OK("run", "--name", "flags", "--endpoint", actorEndpoint, "--rootfs", root, "--bind", data+":/data:ro",
		"--bind", data+":/open", "--env", "MODE=test", "--workdir", "/work", "--user", "1000:1001", "--hostname", "box",
		"--memory", "64M", "--cpus", "0.5", "--pids", "40", "--wake", "never", "--", "/actor", "--tcp", ":7000")
	qt.Assert(t, qt.IsNil(os.Chmod(data, 0o777)))
	c := w.caller(actorEndpoint)
	for _, when := range []string{"before", "after"} {
		t.Run(when, func(t *testing.T) {
			qt.Check(t, qt.Equals(c.ask("env MODE"), "test"))
			qt.Check(t, qt.Equals(c.ask("cwd"), "/work"))
			qt.Check(t, qt.Equals(c.ask("ids"), "1000 1001"))
			qt.Check(t, qt.Equals(c.ask("host"), "box"))
			qt.Check(t, qt.Equals(c.ask("read /data/file"), "content"))
			qt.Check(t, qt.Matches(c.ask("write /data/new x"), "error: .*read-only file system"))
			qt.Check(t, qt.Equals(c.ask("write /open/%s x", when), "ok"))
			_, err := os.Stat(filepath.Join(data, when))
			qt.Check(t, qt.IsNil(err))
			qt.Check(t, qt.Matches(c.ask("read /etc/passwd"), "error: .*no such file or directory"))
			used, err := strconv.Atoi(c.ask("burn 800"))
			qt.Check(t, qt.IsNil(err))
			qt.Check(t, qt.IsTrue(used < 600), qt.Commentf("%d ms of processor time in 800 ms", used)) // half a processor
		})
		if when == "before" {
			w.OK("hibernate", "flags")
			w.OK("wake", "flags")
		}
	}
}

// TestMemoryLimit has an app use more memory than it may, before and after a
// wake.
func TestMemoryLimit(t *testing.T) {
	w := New(t)
	for name, change := range map[string]func(*World){
		"before": func(*World) {},
		"after":  func(w *World) { w.Hibernate("hungry"); w.Wake("hungry") },
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			w.actor(&api.RunRequest{Name: "hungry", Endpoint: actorEndpoint, Limits: &api.Limits{MemoryBytes: 64 << 20}})
			c := w.caller(actorEndpoint)
			qt.Assert(t, qt.Equals(c.ask("alloc 20"), "ok"))
			change(w)
			qt.Assert(t, qt.Equals(c.ask("echo alive"), "alive"))
			c.send("alloc 200")
			w.Until("it is killed", func() error {
				if a := w.Show("hungry"); a.GetStatus() != api.Status_STATUS_STOPPED {
					return fmt.Errorf("it is %s", a.GetStatus())
				}
				return nil
			})
			qt.Assert(t, qt.Equals(w.Show("hungry").GetExit(), "signal 9 (SIGKILL)"))
		})
	}
}

// TestProcessLimit has a command beside an app start more processes than the
// app may have, before and after a wake.
func TestProcessLimit(t *testing.T) {
	w := New(t)
	w.OK("run", "--name", "few", "--pids", "10", "--", "sleep", "1000")
	const fork = `for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1 & done; wait`
	for range 2 {
		r := w.CLI("exec", "few", "--", "sh", "-c", fork)
		qt.Assert(t, qt.Not(qt.Equals(r.Code, 0)))
		qt.Assert(t, qt.Matches(r.Stderr, `(?s).*(Cannot fork|Resource temporarily unavailable).*`))
		// It leaves as many as the app may have, and its session has no leader.
		w.OK("hibernate", "few")
		w.OK("wake", "few")
	}
}

// TestEnd ends apps in all ways and looks at what is left.
func TestEnd(t *testing.T) {
	w := New(t)
	status := func(app, want, exit string) {
		t.Helper()
		w.Until(app+" has ended", func() error {
			if a := w.Show(app); a.GetStatus() != api.Status_STATUS_STOPPED || a.GetExit() != exit {
				return fmt.Errorf("it is %s (%s), want %s (%s)", a.GetStatus(), a.GetExit(), want, exit)
			}
			return nil
		})
	}
	w.OK("run", "--name", "code", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
	status("code", "stopped", "exit code 3")
	qt.Assert(t, qt.Equals(w.OK("logs", "code"), "out\nerr\n"))
	w.OK("rm", "code")
	qt.Assert(t, qt.Equals(w.CLI("show", "code").Code, 4))

	w.OK("run", "--name", "term", "--", "sleep", "1000") // ends by SIGTERM only if it says so: it is pid 1
	w.OK("stop", "--signal", "KILL", "term")
	status("term", "stopped", "signal 9 (SIGKILL)")

	w.actor(&api.RunRequest{Name: "orderly", Endpoint: actorEndpoint})
	c := w.caller(actorEndpoint)
	qt.Assert(t, qt.Equals(c.ask("echo up"), "up"))
	w.OK("hibernate", "orderly")
	qt.Assert(t, qt.Not(qt.Equals(w.CLI("rm", "orderly").Code, 0)))
	w.OK("stop", "orderly") // held
	status("orderly", "stopped", "stopped while held")
	qt.Assert(t, qt.IsNil(c.conn.SetReadDeadline(time.Now().Add(answerTime))))
	_, err := c.in.ReadByte()
	qt.Assert(t, qt.IsNotNil(err))
	ne, ok := err.(net.Error) //nolint:errorlint // as it comes
	qt.Assert(t, qt.IsFalse(ok && ne.Timeout()), qt.Commentf("the connection of a stopped app goes on"))
	_, err = w.DialContext(t.Context(), "tcp", actorPort)
	qt.Assert(t, qt.IsNotNil(err))
	w.OK("rm", "orderly")

	for _, hold := range []string{"running", "held"} {
		w.actor(&api.RunRequest{Name: "forced", Endpoint: actorEndpoint})
		qt.Assert(t, qt.Equals(w.caller(actorEndpoint).ask("echo up"), "up"))
		if hold == "held" {
			w.OK("hibernate", "forced")
		}
		w.OK("rm", "--force", "forced")
		qt.Assert(t, qt.Equals(w.CLI("show", "forced").Code, 4))
	}
	w.actor(&api.RunRequest{Name: "waits", Endpoint: actorEndpoint})
	qt.Assert(t, qt.Equals(w.caller(actorEndpoint).ask("echo up"), "up"))
	w.OK("stop", "waits") // by SIGTERM
	status("waits", "stopped", "exit code 0")
}

// TestConflicts asks for what another app has.
func TestConflicts(t *testing.T) {
	w := New(t)
	w.actor(&api.RunRequest{Name: "one", Endpoint: actorEndpoint})
	for name, test := range map[string]struct {
		args []string
		code int
		want string
	}{
		"name":          {[]string{"--name", "one"}, 1, `app one: already exists`},
		"endpoint":      {[]string{"--name", "two", "--endpoint", actorEndpoint}, 1, `app one has endpoint 10\.77\.0\.30 of network default`},
		"outside":       {[]string{"--name", "two", "--endpoint", "10.99.0.1"}, 2, `10\.99\.0\.1`},
		"gateway":       {[]string{"--name", "two", "--endpoint", "10.77.0.1"}, 2, `10\.77\.0\.1`},
		"no root":       {[]string{"--name", "two", "--rootfs", "/nowhere"}, 1, `/nowhere`},
		"no bind":       {[]string{"--name", "two", "--bind", "/nowhere:/data"}, 1, `/nowhere`},
		"no user":       {[]string{"--name", "two", "--user", "nobody-such"}, 2, `nobody-such`},
		"port twice":    {[]string{"--name", "two", "--publish", "80:80", "--publish", "127.0.0.1:80:81"}, 2, `80/tcp twice`},
		"port at IPv6":  {[]string{"--name", "two", "--publish", "[::1]:80:80"}, 2, `::1`},
		"no such place": {[]string{"--name", "two", "--workdir", "relative"}, 2, `relative`},
	} {
		t.Run(name, func(t *testing.T) {
			r := w.CLI(append(append([]string{"run"}, test.args...), "--", "sleep", "1000")...)
			qt.Check(t, qt.Equals(r.Code, test.code))
			qt.Check(t, qt.Matches(r.Stderr, "(?s)snapctl: error: .*"+test.want+".*"))
			qt.Check(t, qt.Equals(w.CLI("show", "two").Code, 4)) // nothing is left
		})
	}
	r := w.CLI("run", "--name", "two", "--", "/no/such/program")
	qt.Assert(t, qt.Equals(r.Code, 1))
	qt.Assert(t, qt.StringContains(r.Stderr, "/no/such/program"))
	qt.Assert(t, qt.Equals(w.CLI("show", "two").Code, 4))
}

// TestLogsFollow follows an app's log through a wake, to its end.
func TestLogsFollow(t *testing.T) {
	w := New(t)
	w.actor(&api.RunRequest{Name: "talks", Endpoint: actorEndpoint})
	c := w.caller(actorEndpoint)
	snapctl, err := w.Install(t.Context(), "snapctl")
	qt.Assert(t, qt.IsNil(err))
	follow := w.Command(t.Context(), snapctl, "logs", "-f", "talks")
	pipe, err := follow.StdoutPipe()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(follow.Start()))
	out := bufio.NewReader(pipe)
	line := func(want string) {
		t.Helper()
		got, err := out.ReadString('\n')
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.Equals(got, want+"\n"))
	}
	line("ready")
	qt.Assert(t, qt.Equals(c.ask("say before"), "ok"))
	line("before")
	w.Hibernate("talks")
	qt.Assert(t, qt.Equals(c.ask("say after"), "ok"))
	line("after")
	qt.Assert(t, qt.Equals(w.OK("logs", "--tail", "2", "talks"), "before\nafter\n"))
	w.OK("rm", "--force", "talks")
	rest, err := io.ReadAll(out)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(string(rest), ""))
	_ = follow.Wait() // the app is gone: whether that is an error is not said
}

// TestExec runs commands beside an app.
func TestExec(t *testing.T) {
	w := New(t)
	w.OK("run", "--name", "app", "--hostname", "box", "--env", "MODE=app", "--workdir", "/work", "--endpoint", actorEndpoint, "--", "sleep", "1000")
	for _, when := range []string{"before", "after"} {
		r := w.CLI("exec", "app", "--", "sh", "-c", "hostname; echo $MODE; pwd; echo wrong >&2; exit 7")
		qt.Check(t, qt.Equals(r.Code, 7), qt.Commentf(when))
		qt.Check(t, qt.Equals(r.Stdout, "box\napp\n/work\n"))
		qt.Check(t, qt.Equals(r.Stderr, "wrong\n"))
		r = w.CLI("exec", "--user", "1000:1001", "--env", "MODE=exec", "--workdir", "/usr", "app", "--", "sh", "-c", "id -u; id -g; echo $MODE; pwd")
		qt.Check(t, qt.Equals(r.Stdout, "1000\n1001\nexec\n/usr\n"))
		qt.Check(t, qt.StringContains(w.OK("exec", "app", "--", "cat", "/proc/1/cmdline"), "sleep"))
		w.OK("hibernate", "app")
		r = w.CLI("exec", "app", "--", "true")
		qt.Check(t, qt.Equals(r.Code, 1))
		qt.Check(t, qt.StringContains(r.Stderr, "held"))
		w.OK("wake", "app")
	}
	qt.Check(t, qt.Equals(w.CLI("exec", "none", "--", "true").Code, 4))
	qt.Check(t, qt.Equals(w.CLI("exec", "app", "--", "test", "-t", "1").Code, 1))
	qt.Check(t, qt.Equals(w.CLI("exec", "-t", "app", "--", "test", "-t", "1").Code, 0))
	r := w.CLI("exec", "app", "--", "no-such-program")
	qt.Check(t, qt.Equals(r.Code, 127))

	// A client that goes away ends its command.
	snapctl, err := w.Install(t.Context(), "snapctl")
	qt.Assert(t, qt.IsNil(err))
	long := w.Command(t.Context(), snapctl, "exec", "app", "--", "sh", "-c", "echo runs; exec sleep 1000")
	out, err := long.StdoutPipe()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(long.Start()))
	line, err := bufio.NewReader(out).ReadString('\n')
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(line, "runs\n"))
	r = w.CLI("hibernate", "app")
	qt.Check(t, qt.Equals(r.Code, 1))
	qt.Check(t, qt.StringContains(r.Stderr, "snapctl exec"))
	qt.Assert(t, qt.IsNil(long.Process.Kill()))
	_ = long.Wait() // killed
	w.Until("the command has ended", func() error {
		if n := w.Show("app").GetProcesses(); n != 1 {
			return fmt.Errorf("%d processes", n)
		}
		return nil
	})
	w.OK("hibernate", "app")
}

// TestNetworks has two networks on one host. Each has its own addresses, and
// apps of one don't reach those of the other.
func TestNetworks(t *testing.T) {
	w := New(t)
	w.actor(&api.RunRequest{Name: "near", Endpoint: actorEndpoint})
	blue := w.actor(&api.RunRequest{Name: "blue", Network: "blue"})
	qt.Assert(t, qt.Not(qt.Matches(blue.GetEndpoint(), `10\.77\..*`)))
	for _, network := range []string{"blue", "red"} {
		// Kept for good, as networks are.
		t.Cleanup(func() { qt.Check(t, qt.IsNil(os.Remove(filepath.Join(w.StateDir(), "networks", network+".json")))) })
	}
	red := w.actor(&api.RunRequest{Name: "red", Network: "red"})
	qt.Assert(t, qt.Not(qt.Equals(red.GetEndpoint(), blue.GetEndpoint())))
	for _, endpoint := range []string{actorEndpoint, blue.GetEndpoint(), red.GetEndpoint()} {
		qt.Assert(t, qt.Equals(w.caller(endpoint).ask("echo host"), "host"))
	}
	near := w.caller(actorEndpoint)
	qt.Check(t, qt.Matches(near.ask("dial tcp %s:7000 echo x", blue.GetEndpoint()), "error: .*"))
	qt.Check(t, qt.Matches(near.ask("dial tcp %s echo x", net.JoinHostPort(red.GetEndpoint6(), "7000")), "error: .*"))

	c := w.caller(blue.GetEndpoint())
	w.Hibernate("blue")
	w.Hibernate("near")
	qt.Assert(t, qt.Equals(c.ask("echo blue"), "blue"))
	w.Running("blue")
	w.Asleep("near")
	w.OK("rm", "--force", "blue")
	// A network keeps its addresses.
	again := w.actor(&api.RunRequest{Name: "again", Network: "blue"})
	qt.Assert(t, qt.Equals(again.GetEndpoint(), blue.GetEndpoint()))
	qt.Assert(t, qt.Equals(near.ask("echo near"), "near"))
}

// TestWakeAtMemoryLimit wakes an app that uses nearly all memory that it may.
func TestWakeAtMemoryLimit(t *testing.T) {
	w := New(t)
	w.actor(&api.RunRequest{Name: "full", Endpoint: actorEndpoint, Limits: &api.Limits{MemoryBytes: 64 << 20}})
	c := w.caller(actorEndpoint)
	qt.Assert(t, qt.Equals(c.ask("alloc 50"), "ok"))
	for range 2 {
		w.Hibernate("full")
		qt.Assert(t, qt.Equals(c.ask("echo full"), "full"))
		w.Running("full")
	}
	qt.Assert(t, qt.Equals(w.Show("full").GetError(), "")) // the limit is in force again
	c.send("alloc 200")
	w.Until("it is killed", func() error {
		if a := w.Show("full"); a.GetStatus() != api.Status_STATUS_STOPPED {
			return fmt.Errorf("it is %s", a.GetStatus())
		}
		return nil
	})
}
