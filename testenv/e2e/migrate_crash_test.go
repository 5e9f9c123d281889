package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/gate"
	"github.com/snapctl/snapctl/testenv/host"
)

// journeys are two hosts between which a Redis moves back and forth, and a third one, which has the directory and a
// client that is connected all the time.
type journeys struct {
	*hosts
	at, other *World   // where the app is, and where it goes next
	clients   []*redis // one on each host, and one by IPv6
	waiting   *redis   // waits for an entry of a list all the time
	n         int      // what the clients have counted to
}

func newJourneys(t *testing.T) *journeys {
	t.Helper()
	testenv.Need(t, testenv.Program("redis-server"), testenv.Program("redis-cli"), testenv.Program("ip"), testenv.Program("nft"))
	return journeysIn(newInstallation(t, "gamma", "alpha", "beta"))
}

// journeysIn begins at the second host of an installation, and leads to the third one.
func journeysIn(hs *hosts) *journeys {
	hs.t.Helper()
	js := &journeys{hosts: hs, at: hs.worlds[1], other: hs.worlds[2]}
	req := redisRequest("cache", "")
	req.Args = append(req.Args, "--enable-debug-command", "yes")
	a := js.at.Run(req)
	for _, w := range hs.worlds {
		js.clients = append(js.clients, w.redis(a.GetEndpoint()))
	}
	js.clients = append(js.clients, js.other.redis(a.GetEndpoint6()))
	js.waiting = hs.worlds[0].redis(a.GetEndpoint())
	js.waiting.send("BLPOP queue 0")
	js.counts()
	return js
}

// counts has the clients ask the app.
func (js *journeys) counts() {
	js.t.Helper()
	for _, c := range js.clients {
		js.n++
		qt.Assert(js.t, qt.Equals(c.do("INCR n"), fmt.Sprintf(":%d", js.n)))
	}
}

// broken is where a daemon is broken: that of the host that has the app, or that of the target.
func (js *journeys) broken(name fault.Name) *World {
	if operationOf(name) == string(event.Arrive) {
		return js.other
	}
	return js.at
}

// plan has the daemon of a host follow a plan.
func (js *journeys) plan(w *World, faults ...gate.Fault) {
	js.t.Helper()
	qt.Assert(js.t, qt.IsNil(w.RestartDaemon(js.t.Context(), syscall.SIGTERM, host.Daemon{Env: gate.Env(faults...)})))
	w.Dial()
	w.Until("the app could move", func() error { // the hosts may have to find each other again
		_, err := js.at.API.Migrate(js.t.Context(), &api.MigrateRequest{Name: "cache", Host: js.other.Name(), DryRun: true}, nil)
		return err
	})
}

func (js *journeys) move(ctx context.Context) error {
	_, err := js.at.API.Migrate(ctx, &api.MigrateRequest{Name: "cache", Host: js.other.Name()}, nil)
	return err
}

// lands waits until the app runs on one of the two hosts, and is not known on the other one. From then on it is
// where it was found. It proves that the clients have noticed nothing, and that nothing is left of the move.
func (js *journeys) lands() *World {
	js.t.Helper()
	there := func(w *World) (bool, error) {
		apps, err := w.API.List(js.t.Context())
		if err != nil {
			return false, err
		}
		for _, a := range apps {
			if a.GetOperation() != "" || a.GetStatus() != api.Status_STATUS_RUNNING {
				return false, fmt.Errorf("%s: %s of %s goes on, it is %s", w.Name(), a.GetOperation(), a.GetName(), a.GetStatus())
			}
		}
		return len(apps) == 1, nil
	}
	js.at.Until("the app runs on one host", func() error {
		here, err := there(js.at)
		moved, err2 := there(js.other)
		if err := errors.Join(err, err2); err != nil {
			return err
		}
		if here == moved {
			return fmt.Errorf("it is on %s: %t, on %s: %t", js.at.Name(), here, js.other.Name(), moved)
		}
		if moved {
			js.at, js.other = js.other, js.at
		}
		return nil
	})
	js.at.once("cache", api.Status_STATUS_RUNNING)
	qt.Assert(js.t, qt.Equals(js.other.processes("cache"), 0))
	js.counts()
	qt.Assert(js.t, qt.Equals(js.clients[0].do("RPUSH queue job"), ":1"))
	for _, want := range []string{"*2", "$5", "queue", "$3", "job"} {
		qt.Assert(js.t, qt.Equals(js.waiting.line(), want))
	}
	js.waiting.send("BLPOP queue 0")
	for _, w := range []*World{js.at, js.other} {
		w.nothingPartial()
		w.Until("no snapshot of a move is left", func() error {
			entries, err := os.ReadDir(filepath.Join(w.Outside(w.StateDir()), "snapshots"))
			for _, e := range entries {
				err = errors.Join(err, fmt.Errorf("%s is", e.Name()))
			}
			return err
		})
		w.Until("layers and kept files are those that are needed", w.sharedFiles)
	}
	return js.at
}

// where tells where an app has to be after a move that was broken at a point, by the table of its operation: nil
// if that depends on who hears of it first.
func (js *journeys) where(name fault.Name) *World {
	switch late, _ := committed(name); {
	case name == "migrate.given", name == "arrive.received":
		return nil
	case late:
		return js.other
	default:
		return js.at
	}
}

// TestMoveIsKilledAtEveryPoint kills either daemon at each point of a move.
func TestMoveIsKilledAtEveryPoint(t *testing.T) {
	js := newJourneys(t)
	for _, name := range movePoints() {
		t.Run(string(name), func(t *testing.T) {
			want, w := js.where(name), js.broken(name)
			js.plan(w, gate.Kill(name))
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			t.Log(js.move(ctx)) // it may be told that it went well, if the daemon dies later
			state, err := w.WaitDaemon(ctx)
			qt.Assert(t, qt.IsNil(err))
			status, ok := state.Sys().(syscall.WaitStatus)
			qt.Assert(t, qt.IsTrue(ok && status.Signal() == syscall.SIGKILL), qt.Commentf("the daemon never came to the point: %v", state))
			qt.Assert(t, qt.IsNil(w.StartDaemon(t.Context(), host.Daemon{})))
			w.Dial()
			if at := js.lands(); want != nil {
				qt.Assert(t, qt.Equals(at.Name(), want.Name()))
			}
		})
	}
}

// TestMoveFailsAtEveryPoint fails each step of a move, on either host.
func TestMoveFailsAtEveryPoint(t *testing.T) {
	js := newJourneys(t)
	for _, name := range somePoints(t, movePoints()) {
		t.Run(string(name), func(t *testing.T) {
			want, w, from := js.where(name), js.broken(name), js.at
			js.plan(w, gate.Fail(name))
			err := js.move(t.Context())
			w.Until("the daemon logs it", func() error {
				if !strings.Contains(w.DaemonLog(), "at "+string(name)+": injected fault") {
					return errors.New("it does not")
				}
				return nil
			})
			at := js.lands()
			if want != nil {
				qt.Check(t, qt.Equals(at.Name(), want.Name()))
			}
			qt.Check(t, qt.Equals(err == nil, at != from), qt.Commentf("%v", err))
			js.plan(w)
		})
	}
}

// TestMoveIsCalledOffAtEveryPoint has whoever asked for a move hang up while either daemon is at a point.
func TestMoveIsCalledOffAtEveryPoint(t *testing.T) {
	js := newJourneys(t)
	for _, name := range somePoints(t, movePoints()) {
		t.Run(string(name), func(t *testing.T) {
			w := js.broken(name)
			g := gate.New(t, w.Dir(), name)
			js.plan(w, g.Fault())
			ctx, hangUp := context.WithTimeout(t.Context(), time.Minute)
			defer hangUp()
			ended := make(chan error, 1)
			go func() { ended <- js.move(ctx) }()
			stop, err := g.Wait(ctx)
			qt.Assert(t, qt.IsNil(err))
			hangUp()
			<-ended
			_ = stop.Continue() // it may be gone
			open(t, g)
			js.lands()
			js.plan(w)
		})
	}
}
