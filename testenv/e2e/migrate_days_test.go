package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/gate"
	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/testenv/underlay"
)

// TestMigrateAlone asks for a move where there is no other host.
func TestMigrateAlone(t *testing.T) {
	w := New(t, "redis-server")
	w.Run(redisRequest("cache", ""))
	r := w.CLI("migrate", "cache", "--to", "beta")
	qt.Check(t, qt.Equals(r.Code, 1))
	qt.Check(t, qt.StringContains(r.Stderr, "snapctl host init"))
	w.once("cache", api.Status_STATUS_RUNNING)
}

// TestMigrateIsRefused asks for moves that can't be: each is refused before anything is done, and says what to do.
func TestMigrateIsRefused(t *testing.T) {
	testenv.Need(t, testenv.Program("redis-server"), testenv.Program("ip"), testenv.Program("nft"))
	hs := newInstallation(t, "alpha", "beta")
	alpha, beta := hs.worlds[0], hs.worlds[1]
	alpha.Run(redisRequest("cache", ""))
	shared := filepath.Join(t.TempDir(), "shared")
	qt.Assert(t, qt.IsNil(os.Mkdir(shared, 0o755)))
	alpha.OK("run", "--name", "bound", "--bind", shared+":/srv/shared", "--", "redis-server", "--save", "", "--protected-mode", "no")
	for _, test := range []struct {
		args       []string
		code       int
		want, hint string
	}{
		{[]string{"cache", "--to", "nowhere"}, 4, "host nowhere: not found", "`snapctl host ls` lists what there is"},
		{[]string{"cache", "--to", "alpha"}, 1, "the app is on that host", ""},
		{[]string{"nothing", "--to", "beta"}, 4, "nothing", "`snapctl ps` lists what there is"},
		{[]string{"bound", "--to", "beta"}, 1, shared, "--shared-binds"},
		{[]string{"cache", "--to", "beta", "--max-pause", "1us"}, 1, "it changes too fast", ""},
	} {
		r := alpha.CLI(append([]string{"migrate"}, test.args...)...)
		qt.Check(t, qt.Equals(r.Code, test.code), qt.Commentf("%v: %s", test.args, r.Stderr))
		qt.Check(t, qt.StringContains(r.Stderr, test.want))
		qt.Check(t, qt.StringContains(r.Stderr, test.hint))
	}
	// Scratch hosts have the machine's file systems.
	r := alpha.CLI("migrate", "bound", "--to", "beta", "--shared-binds", "--dry-run")
	qt.Check(t, qt.Equals(r.Stdout, "bound can move from alpha to beta\n"), qt.Commentf("%s", r.Stderr))
	hs.migrate("bound", alpha, beta, "--shared-binds")
	beta.once("bound", api.Status_STATUS_RUNNING)
	qt.Check(t, qt.Equals(beta.OK("exec", "bound", "--", "sh", "-c", "echo it > /srv/shared/file; cat /srv/shared/file"), "it\n"))
	alpha.once("cache", api.Status_STATUS_RUNNING)
}

// TestMigrateToAFullHost moves an app to a host whose disk has too little room.
func TestMigrateToAFullHost(t *testing.T) {
	testenv.Need(t, testenv.Program("redis-server"), testenv.Program("ip"), testenv.Program("nft"), testenv.Program("mount"))
	js := journeysIn(installationOf(t, func(t *testing.T, cfg host.Config, prepare func(*host.Host), programs ...string) *World {
		t.Helper()
		return startWorld(t, cfg, func(h *host.Host) {
			prepare(h)
			if cfg.Name == "beta" {
				qt.Assert(t, qt.IsNil(os.MkdirAll(h.StateDir(), 0o700)))
				run(t, h, "mount", "-t", "tmpfs", "-o", "size=16m", "none", h.StateDir())
			}
		}, programs...)
	}, "gamma", "alpha", "beta"))
	qt.Assert(t, qt.Equals(js.clients[0].do("DEBUG POPULATE 200000 key 100"), "+OK"))
	r := js.at.CLI("migrate", "cache", "--to", "beta")
	qt.Check(t, qt.Equals(r.Code, 1))
	qt.Check(t, qt.StringContains(r.Stderr, "host beta: there is not enough room"))
	qt.Check(t, qt.StringContains(r.Stderr, "hint: host beta: free "))
	qt.Assert(t, qt.Equals(js.lands().Name(), "alpha"))
	run(t, js.other.Host, "mount", "-o", "remount,size=256m", js.other.StateDir())
	qt.Assert(t, qt.IsNil(js.move(t.Context())))
	qt.Assert(t, qt.Equals(js.lands().Name(), "beta"))
}

// TestMovesAtOnce asks for several things at once that have an app move, sleep and wake.
func TestMovesAtOnce(t *testing.T) {
	js := newJourneys(t)
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		var all sync.WaitGroup
		for range 2 {
			all.Go(func() { t.Log(js.move(ctx)) })
		}
		for range 3 {
			all.Go(func() {
				_, err := js.at.API.Hibernate(ctx, &api.HibernateRequest{Name: "cache"}, nil)
				_, werr := js.at.API.Wake(ctx, &api.WakeRequest{Name: "cache"}, nil)
				t.Log(errors.Join(err, werr))
			})
		}
		all.Wait()
		cancel()
		for _, w := range []*World{js.at, js.other} {
			_, _ = w.API.Wake(t.Context(), &api.WakeRequest{Name: "cache"}, nil) // it may sleep, on either
		}
		js.lands()
	}
}

// TestMoveIsCutOffAtEveryPoint cuts the host with the app, the target, or the one with the directory off from all others while
// a move is at one of its points, for some seconds: one of them at some points, or each at all if [Rounds] is set.
func TestMoveIsCutOffAtEveryPoint(t *testing.T) {
	js := newJourneys(t)
	draw := seeded(t)
	for _, name := range somePoints(t, movePoints()) {
		only := draw.IntN(len(js.worlds))
		for i, w := range js.worlds {
			if os.Getenv(Rounds) == "" && i != only {
				continue
			}
			t.Run(string(name)+"/"+w.Name(), func(t *testing.T) {
				js.cutOff(t, name, []*underlay.Port{js.eth0[i], js.eth1[i]})
			})
		}
	}
}

func (js *journeys) cutOff(t *testing.T, name fault.Name, ports []*underlay.Port) {
	t.Helper()
	w := js.broken(name)
	g := gate.New(t, w.Dir(), name)
	js.plan(w, g.Fault())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- js.move(ctx) }()
	stop, err := g.Wait(ctx)
	qt.Assert(t, qt.IsNil(err))
	for _, p := range ports {
		qt.Assert(t, qt.IsNil(p.Cut(underlay.Both)))
	}
	_ = stop.Continue() // it may be gone
	open(t, g)
	select {
	case err = <-ended:
		t.Log(err)
		ended <- err
	case <-time.After(5 * time.Second):
	}
	for _, p := range ports {
		qt.Assert(t, qt.IsNil(p.Mend(underlay.Both)))
	}
	<-ended
	js.lands()
	js.plan(w)
}

// TestWhatAPowerFailureLeavesOfAMove finds a snapshot for a move whose files never came to the disk, and one of somebody
// else's that is damaged, too.
func TestWhatAPowerFailureLeavesOfAMove(t *testing.T) {
	w := New(t)
	dir := filepath.Join(w.Outside(w.StateDir()), "snapshots")
	for _, name := range []string{"moving-abcdefgh2345-3", "moving-house-1"} {
		qt.Assert(t, qt.IsNil(os.Mkdir(filepath.Join(dir, name), 0o700)))
		qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(dir, name, "manifest.json"), nil, 0o600)))
	}
	qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), syscall.SIGKILL, host.Daemon{})))
	w.Dial()
	qt.Check(t, qt.DeepEquals(w.snapshots(), []string{"moving-house-1"}))
	w.OK("snapshots", "rm", "moving-house-1")
}
