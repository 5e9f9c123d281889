package e2e

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/testenv/gate"
	"github.com/snapctl/snapctl/testenv/host"
)

// insideStates bring a connection inside an app, from "a" to "b", into a state, and
// prove, in the app and in each copy, that nothing was lost.
func insideStates() map[string]struct{ before, after func(s *survivor) } {
	return map[string]struct{ before, after func(s *survivor) }{
		"unread": {
			func(s *survivor) { s.ok("tcp write a there"); s.ok("tcp write b back") },
			func(s *survivor) {
				s.ok("tcp read b there")
				s.ok("tcp read a back")
				s.ok("tcp write a more")
				s.ok("tcp read b more")
				s.ok("tcp shutdown a")
				s.ok("tcp end b")
			},
		},
		"half-closed": {
			func(s *survivor) { s.ok("tcp write a last"); s.ok("tcp shutdown a") },
			func(s *survivor) {
				s.ok("tcp read b last")
				s.ok("tcp end b")
				s.ok("tcp write b answer")
				s.ok("tcp read a answer")
				s.ok("tcp shutdown b")
				s.ok("tcp end a")
			},
		},
		"closed, with unread data": {
			func(s *survivor) { s.ok("tcp write a last"); s.ok("tcp close a") },
			func(s *survivor) { s.ok("tcp read b last"); s.ok("tcp end b") },
		},
	}
}

// TestTCPInsideIsCopied restores and clones an app with connections to itself, while it
// goes on, and when it is hibernated.
func TestTCPInsideIsCopied(t *testing.T) {
	w := New(t)
	for state, do := range insideStates() {
		for _, to := range []string{"127.0.0.1", survivorEndpoint} {
			for name, save := range map[string]func(w *World){
				"running": func(*World) {},
				"held":    func(w *World) { w.Hibernate("survivor") },
			} {
				t.Run(state+"/"+to+"/"+name, func(t *testing.T) {
					w := w.in(t)
					s := w.survivor("survivor")
					s.ok("tcp listen l 7100 10")
					s.ok("tcp dial a %s:7100", to)
					s.ok("tcp accept l b")
					do.before(s)
					save(w)
					w.template("t", "survivor", "")
					if name == "held" {
						w.Wake("survivor")
					}
					do.after(s)
					restored, err := w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: "t", As: "copy", Endpoint: copyEndpoint}, nil)
					qt.Assert(t, qt.IsNil(err))
					outcomes := count(restored.GetSockets())
					qt.Check(t, qt.Equals(outcomes["kept"], 1))
					copies := []*survivor{w.control(copyEndpoint)}
					for _, c := range w.clones(&api.CloneRequest{Template: "t", Count: 5}) {
						copies = append(copies, w.control(c.GetApp().GetEndpoint()))
					}
					w.pool("t", 1)
					pooled := w.clones(&api.CloneRequest{Template: "t", Pool: api.PoolUse_POOL_USE_ONLY})[0]
					copies = append(copies, w.control(pooled.GetApp().GetEndpoint()))
					w.template("again", "t-1", "")
					copies = append(copies, w.control(w.clone("again", "grandchild", nil).GetEndpoint()))
					for _, c := range copies {
						do.after(c)
						c.ok("tcp dial fresh 127.0.0.1:7100") // the listener is there too
						c.ok("tcp accept l fresher")
					}
				})
			}
		}
	}
}

func count(all []*api.SocketOutcome) map[string]int {
	n := make(map[string]int)
	for _, s := range all {
		n[s.GetOutcome()]++
	}
	return n
}

// TestTCPInsideOutcome lists what became of each connection, and resets what the rules
// say, and what can't be kept.
func TestTCPInsideOutcome(t *testing.T) {
	w := New(t)
	s := w.survivor("survivor")
	s.ok("tcp listen l 7100 10")
	s.ok("tcp dial a 127.0.0.1:7100")
	s.ok("tcp accept l b")
	w.OK("snapshot", "survivor", "--name", "fine")
	s.ok("tcp dial waiting 127.0.0.1:7100")
	w.OK("snapshot", "survivor", "--name", "torn")

	// The test's own connection to the survivor is from outside.
	out := w.CLI("restore", "fine", "--as", "copy", "--endpoint", copyEndpoint)
	qt.Assert(t, qt.Equals(out.Code, 6), qt.Commentf("%s", out.Stderr))
	qt.Check(t, qt.StringContains(out.Stdout, ": 1 connection inside kept\n  1 socket reset: it belongs to app survivor\n"))
	w.remove("copy")
	out = w.CLI("restore", "torn", "--as", "copy", "--endpoint", copyEndpoint)
	qt.Check(t, qt.StringContains(out.Stdout, ": 1 connection inside kept\n"))
	qt.Check(t, qt.StringContains(out.Stdout,
		"  1 socket reset: both of its ends were in app survivor, but it can't be saved: its other end waits to be accepted\n    tcp 127.0.0.1:"))
	copied := w.control(copyEndpoint)
	copied.ok("tcp end waiting")
	copied.ok("tcp write a there")
	copied.ok("tcp read b there")

	w.template("t", "survivor", "connections: {internal: reset}")
	clone := w.control(w.clone("t", "clone", nil).GetEndpoint())
	clone.ok("tcp end a")
	clone.ok("tcp end b")
	s.ok("tcp write a still")
	s.ok("tcp read b still")
}

// TestTCPInsideFlows copies an app whose processes send each other numbered bytes all the
// time, by the loopback device and by the app's own addresses, and lets all of them come to
// their end: no byte is lost, doubled or changed anywhere.
func TestTCPInsideFlows(t *testing.T) {
	const flows = 8
	w := New(t)
	peer, err := w.Install(t.Context(), "peer")
	qt.Assert(t, qt.IsNil(err))
	drive := fmt.Sprintf("%s --connections %d --flows 0 --time 1h --max-pause 2ms --drive", peer, flows)
	six := w.Run(&api.RunRequest{Name: "flows", Endpoint: survivorEndpoint, Args: []string{"sleep", "100"}}).GetEndpoint6()
	w.remove("flows")
	w.Run(&api.RunRequest{Name: "flows", Endpoint: survivorEndpoint, Args: []string{"sh", "-c", fmt.Sprintf(
		`%s --listen :7000 & sleep 0.3; %s 127.0.0.1:7000 & d=$!; %s [%s]:7000 & e=$!; %s %s:7000 & f=$!
		until [ -e /run/done ]; do sleep 0.1; done; kill $d $e $f; wait $d && wait $e && wait $f`,
		peer, drive, drive, six, drive, survivorEndpoint)}})
	w.Until("all are connected", func() error {
		out := w.OK("exec", "flows", "--", "cat", "/proc/net/tcp", "/proc/net/tcp6")
		if n := strings.Count(out, " 01 "); n < 6*flows {
			return fmt.Errorf("%d ends are", n)
		}
		return nil
	})
	all := []string{"flows", "copy", "pooled", "again"}
	ended := make(map[string]bool)
	end := func(name string) {
		if !ended[name] {
			w.OK("exec", name, "--", "touch", "/run/done")
			ended[name] = true
		}
	}
	w.template("t", "flows", "")
	end("flows")
	restored, err := w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: "t", As: "copy", Endpoint: copyEndpoint}, nil)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(count(restored.GetSockets()), map[string]int{"kept": 3 * flows}))
	for _, c := range w.clones(&api.CloneRequest{Template: "t", Count: 5}) {
		all = append(all, c.GetName())
		if c.GetName() != "t-1" {
			end(c.GetName())
		}
	}
	w.template("second", "t-1", "")
	w.clone("second", "again", nil)
	w.pool("t", 1)
	w.clones(&api.CloneRequest{Template: "t", Names: []string{"pooled"}, Pool: api.PoolUse_POOL_USE_ONLY})
	for _, name := range all {
		end(name)
		w.Until(name+" has ended", func() error {
			if a := w.Show(name); a.GetStatus() != api.Status_STATUS_STOPPED {
				return fmt.Errorf("it is %s", a.GetStatus())
			}
			return nil
		})
		log := w.OK("logs", name)
		qt.Check(t, qt.Equals(w.Show(name).GetExit(), "exit code 0"), qt.Commentf("%s: %s", name, log))
	}
}

// TestKilledWhileConnectionsAreSaved kills the daemon when sockets of the app are in
// repair mode: the next one lets the app go on as if nothing had been.
func TestKilledWhileConnectionsAreSaved(t *testing.T) {
	w := New(t)
	for _, held := range []bool{false, true} {
		t.Run(fmt.Sprintf("held %v", held), func(t *testing.T) {
			w := w.in(t)
			s := w.survivor("survivor")
			s.ok("tcp listen l 7100 10")
			s.ok("tcp dial a 127.0.0.1:7100")
			s.ok("tcp accept l b")
			n := s.ask("tcp fill a")
			s.ok("tcp write b back")
			if held {
				w.Hibernate("survivor")
			}
			point := fault.Name("snapshot.repairing")
			if held {
				point = "save.repairing"
			}
			plan := host.Daemon{Env: gate.Env(gate.Kill(point))}
			qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), unix.SIGTERM, plan)))
			w.Dial()
			_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "survivor", Name: "saved"}, nil)
			qt.Assert(t, qt.IsNotNil(err))
			state, err := w.WaitDaemon(t.Context())
			qt.Assert(t, qt.IsNil(err))
			status, ok := state.Sys().(syscall.WaitStatus)
			qt.Assert(t, qt.IsTrue(ok && status.Signal() == unix.SIGKILL), qt.Commentf("%v", state))
			qt.Assert(t, qt.IsNil(w.StartDaemon(t.Context(), host.Daemon{})))
			w.Dial()
			if held {
				w.Wake("survivor")
			}
			s.ok("tcp read a back")
			s.ok("tcp drain b %s", n)
			s.ok("tcp shutdown a")
			s.ok("tcp end b")
		})
	}
}

// TestRedisWithItsClientsInside copies an app that is a redis and twenty clients, which
// together count to a number that no copy may miss.
func TestRedisWithItsClientsInside(t *testing.T) {
	const requests = "200000" // so many that it counts still when it is frozen
	w := New(t, "redis-server", "redis-benchmark")
	w.Run(&api.RunRequest{Name: "count", Endpoint: survivorEndpoint, Args: []string{
		"sh", "-c",
		"redis-server --save '' --protected-mode no & until redis-cli ping; do sleep 0.05; done; redis-benchmark -q -t incr -c 20 -n " + requests +
			" && redis-cli set finished yes; wait",
	}})
	const key = "counter:__rand_int__"
	w.Until("it counts", func() error {
		n := w.redis(survivorEndpoint).do("GET " + key)
		if n == "$-1" {
			return fmt.Errorf("%s", n)
		}
		return nil
	})
	w.template("t", "count", "")
	restored, err := w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: "t", As: "copy", Endpoint: copyEndpoint}, nil)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(count(restored.GetSockets())["kept"], 20))
	all := []string{survivorEndpoint, copyEndpoint}
	for _, c := range w.clones(&api.CloneRequest{Template: "t", Count: 3}) {
		all = append(all, c.GetApp().GetEndpoint())
	}
	for _, endpoint := range all {
		c := w.redis(endpoint)
		w.Until("it has counted", func() error {
			if c.do("EXISTS finished") != ":1" {
				return errors.New("it has not")
			}
			return nil
		})
		qt.Check(t, qt.Equals(c.do("INCR "+key), ":200001"))
	}
}
