package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/gate"
	"github.com/snapctl/snapctl/testenv/host"
)

// TestCordon has no app move to a host that is cordoned, also by another daemon and by force, and has apps run there
// all the same.
func TestCordon(t *testing.T) {
	testenv.Need(t, testenv.Program("ip"), testenv.Program("nft"))
	hs := newInstallation(t, "alpha", "beta")
	alpha, beta := hs.worlds[0], hs.worlds[1]
	alpha.Run(&api.RunRequest{Name: "goes", Args: []string{"sleep", "1000"}})
	beta.Run(&api.RunRequest{Name: "here", Args: []string{"sleep", "1000"}})

	cordoned := func(w *World, want bool) {
		t.Helper()
		qt.Check(t, qt.Equals(hs.listed(w)["beta"].Cordoned, want))
	}
	hs.ok(alpha, "host", "cordon", "beta")
	cordoned(alpha, true)
	qt.Assert(t, qt.IsNil(beta.RestartDaemon(t.Context(), syscall.SIGTERM, host.Daemon{})))
	beta.Dial()
	cordoned(beta, true)
	beta.Until("a move is refused", func() error {
		r := alpha.CLI("migrate", "goes", "--to", "beta", "--force")
		if r.Code == 1 && strings.Contains(r.Stderr, "host beta is cordoned: it takes no apps of other hosts") && strings.Contains(r.Stderr, "hint: choose another host, or have it take them again: snapctl host uncordon beta") {
			return nil
		}
		qt.Assert(t, qt.Not(qt.Equals(r.Code, 0)))
		return errors.New(r.Stderr) // the hosts have to find each other again
	})
	hs.ok(alpha, "snapshot", "goes", "--name", "saved")
	r := alpha.CLI("restore", "saved", "--as", "copy", "--host", "beta")
	qt.Check(t, qt.Equals(r.Code, 1))
	qt.Check(t, qt.StringContains(r.Stderr, "host beta is cordoned: it takes no apps of other hosts"))
	qt.Check(t, qt.StringContains(r.Stderr, "hint: choose another host, or have it take them again: snapctl host uncordon beta"))
	hs.ok(alpha, "snapshots", "push", "saved", "--to", "beta")
	qt.Check(t, qt.Equals(alpha.CLI("restore", "saved", "--as", "copy", "--host", "beta").Code, 1)) // although it is there
	hs.ok(beta, "restore", "saved", "--as", "own")
	beta.Run(&api.RunRequest{Name: "more", Args: []string{"sleep", "1000"}})
	hs.migrate("here", beta, alpha)

	hs.ok(beta, "host", "uncordon")
	cordoned(alpha, false)
	hs.migrate("goes", alpha, beta)
	hs.ok(alpha, "restore", "saved", "--as", "copy", "--host", "beta")
	qt.Check(t, qt.Equals(alpha.CLI("host", "cordon", "delta").Code, 4))
}

// drained is what host drain prints.
type drained struct {
	Stopped bool
	Moved   []struct {
		App, Status, Host, Trouble string
		Lost                       []string
	}
	Stayed []struct{ App, Status, Error, Hint string }
}

// drain has a host give its apps to others.
func (hs *hosts) drain(w *World, code int, flags ...string) drained {
	hs.t.Helper()
	r := w.CLI(append([]string{"host", "drain", "-o", "json"}, flags...)...)
	qt.Assert(hs.t, qt.Equals(r.Code, code), qt.Commentf("%s%s", r.Stdout, r.Stderr))
	hs.t.Log(r.Stdout)
	var d drained
	qt.Assert(hs.t, qt.IsNil(json.Unmarshal([]byte(r.Stdout), &d)))
	return d
}

// TestDrain has a host give its apps to two others, of which one is cordoned: one that runs and has connections, one
// that sleeps, one that is stopped, and, when that is promised, one that has a bind.
func TestDrain(t *testing.T) {
	testenv.Need(t, testenv.Program("redis-server"), testenv.Program("redis-cli"), testenv.Program("ip"), testenv.Program("nft"))
	hs := newInstallation(t, "gamma", "alpha", "beta")
	gamma, alpha, beta := hs.worlds[0], hs.worlds[1], hs.worlds[2]
	runs := alpha.Run(redisRequest("runs", "")).GetEndpoint()
	sleeps := alpha.Run(redisRequest("sleeps", "")).GetEndpoint()
	alpha.stopped("done")
	alpha.Run(&api.RunRequest{Name: "bound", Args: []string{"sleep", "1000"}, Binds: []*api.Bind{{Source: "/srv", Destination: "/srv"}}})
	awake, asleep := gamma.redis(runs), gamma.redis(sleeps)
	for _, c := range []*redis{awake, asleep} {
		qt.Assert(t, qt.Equals(c.do("INCR n"), ":1"))
	}
	alpha.Hibernate("sleeps")
	hs.ok(alpha, "host", "cordon", "gamma")

	d := hs.drain(alpha, 6, "--dry-run")
	qt.Check(t, qt.HasLen(d.Moved, 3))
	qt.Check(t, qt.IsFalse(hs.listed(alpha)["alpha"].Cordoned))
	r := beta.CLI("host", "drain", "alpha")
	qt.Check(t, qt.Equals(r.Code, 1))
	qt.Check(t, qt.StringContains(r.Stderr, "run it there: snapctl host drain"))
	r = alpha.CLI("host", "drain", "--to", "gamma")
	qt.Check(t, qt.Equals(r.Code, 1))
	qt.Check(t, qt.StringContains(r.Stdout, "runs stays: no host takes it: host gamma: it is cordoned"))

	d = hs.drain(alpha, 6)
	qt.Check(t, qt.IsTrue(hs.listed(beta)["alpha"].Cordoned))
	qt.Assert(t, qt.HasLen(d.Stayed, 1))
	qt.Check(t, qt.Equals(d.Stayed[0].App, "bound"))
	qt.Check(t, qt.StringContains(d.Stayed[0].Error, "--shared-binds"))
	qt.Check(t, qt.DeepEquals(alpha.names(), []string{"bound"}))
	for app, want := range map[string]api.Status{"runs": api.Status_STATUS_RUNNING, "sleeps": api.Status_STATUS_HELD, "done": api.Status_STATUS_STOPPED} {
		qt.Check(t, qt.Equals(beta.Show(app).GetStatus(), want))
	}
	for _, m := range d.Moved {
		qt.Check(t, qt.Equals(m.Host, "beta"))
		qt.Check(t, qt.Equals(m.Trouble, ""))
		qt.Check(t, qt.HasLen(m.Lost, 0))
	}
	for _, c := range []*redis{awake, asleep} {
		qt.Check(t, qt.Equals(c.do("INCR n"), ":2"))
	}

	// The rest goes once it may, and a host that has nothing has nothing to do.
	d = hs.drain(alpha, 0, "alpha", "--shared-binds", "--to", "gamma,beta")
	qt.Check(t, qt.HasLen(d.Moved, 1))
	qt.Check(t, qt.HasLen(alpha.names(), 0))
	qt.Check(t, qt.HasLen(hs.drain(alpha, 0).Moved, 0))
}

// TestDrainIsStopped has a drain be ended while one app of three moves, by whoever asked for it: that one gets there.
// The next drain goes on with the others. Then its daemon is killed, and the host has nothing half.
func TestDrainIsStopped(t *testing.T) {
	testenv.Need(t, testenv.Program("ip"), testenv.Program("nft"))
	hs := newInstallation(t, "alpha", "beta")
	alpha, beta := hs.worlds[0], hs.worlds[1]
	for _, app := range []string{"a", "b", "c"} {
		alpha.Run(&api.RunRequest{Name: app, Args: []string{"sleep", "1000"}})
	}
	plan := func(f gate.Fault) {
		t.Helper()
		qt.Assert(t, qt.IsNil(alpha.RestartDaemon(t.Context(), syscall.SIGTERM, host.Daemon{Env: gate.Env(f)})))
		alpha.Dial()
		alpha.Until("apps could move", func() error {
			r, err := alpha.API.DrainHost(t.Context(), &api.DrainRequest{DryRun: true}, nil, nil)
			for _, a := range r.GetApps() {
				err = errors.Join(err, map[bool]error{true: errors.New(a.GetError())}[a.GetError() != ""])
			}
			return err
		})
	}
	g := gate.New(t, alpha.Dir(), "migrate.sent")
	plan(g.Fault())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stop, ended := make(chan struct{}), make(chan *api.DrainResult, 1)
	go func() {
		r, err := alpha.API.DrainHost(ctx, &api.DrainRequest{Parallel: 1}, stop, nil)
		t.Log(err)
		ended <- r
	}()
	at, err := g.Wait(ctx)
	qt.Assert(t, qt.IsNil(err))
	_, err = alpha.API.DrainHost(ctx, &api.DrainRequest{}, nil, nil)
	qt.Check(t, qt.ErrorMatches(err, "this host is being drained"))
	close(stop)
	qt.Assert(t, qt.IsNil(at.Continue()))
	r := <-ended
	qt.Check(t, qt.IsTrue(r.GetStopped()))
	qt.Assert(t, qt.HasLen(r.GetApps(), 3))
	qt.Check(t, qt.Equals(r.GetApps()[0].GetMove().GetTo(), "beta"))
	for _, a := range r.GetApps()[1:] {
		qt.Check(t, qt.Equals(a.GetError(), "the drain was ended before the app's turn came"))
	}
	qt.Check(t, qt.DeepEquals(alpha.names(), []string{"b", "c"}))
	open(t, g)

	// A daemon that is killed while it moves several leaves each on one host, and the next drain goes on.
	plan(gate.Kill("migrate.withdrawn"))
	_, err = alpha.API.DrainHost(ctx, &api.DrainRequest{}, nil, nil)
	qt.Check(t, qt.IsNotNil(err))
	_, err = alpha.WaitDaemon(ctx)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(alpha.StartDaemon(t.Context(), host.Daemon{})))
	alpha.Dial()
	alpha.Until("the rest has moved", func() error {
		r, err := alpha.API.DrainHost(ctx, &api.DrainRequest{}, nil, nil)
		for _, a := range r.GetApps() {
			err = errors.Join(err, map[bool]error{true: fmt.Errorf("%s: %s", a.GetApp(), a.GetError())}[a.GetError() != ""])
		}
		return err
	})
	qt.Check(t, qt.HasLen(alpha.names(), 0))
	qt.Check(t, qt.DeepEquals(beta.names(), []string{"a", "b", "c"}))
	for _, app := range beta.names() {
		beta.once(app, api.Status_STATUS_RUNNING)
	}
}
