package e2e

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/gate"
	"github.com/snapctl/snapctl/testenv/host"
)

// leavesMark is a program that writes a file and ends, and that tells of the file if it is there.
const leavesMark = `if [ -e /srv/mark ]; then cat /srv/mark; exec sleep 1000; fi; mkdir -p /srv && echo "written by $0" >/srv/mark; exit 7`

// stopped runs an app that has ended by itself, and has left a file.
func (w *World) stopped(name string) *api.App {
	w.t.Helper()
	w.Run(&api.RunRequest{Name: name, Args: []string{"sh", "-c", leavesMark, name}})
	w.Until("it has ended", func() error {
		if s := w.Show(name).GetStatus(); s != api.Status_STATUS_STOPPED {
			return fmt.Errorf("it is %s", s)
		}
		return nil
	})
	return w.Show(name)
}

// remembers proves that what a stopped app has written is there.
func (w *World) remembers(name string) {
	w.t.Helper()
	for _, args := range [][]string{{"snapshot", name, "--name", "kept"}, {"restore", "kept", "--as", "again"}} {
		r := w.CLI(args...)
		qt.Assert(w.t, qt.Equals(r.Code, 0), qt.Commentf("%v: %s", args, r.Stderr))
	}
	w.Until("the file is read", func() error {
		if out := w.CLI("logs", "again").Stdout; out != "written by "+name+"\n" {
			return errors.New(out)
		}
		return nil
	})
	for _, args := range [][]string{{"rm", "--force", "again"}, {"snapshots", "rm", "kept"}} {
		r := w.CLI(args...)
		qt.Assert(w.t, qt.Equals(r.Code, 0), qt.Commentf("%v: %s", args, r.Stderr))
	}
}

// TestMigrateStopped moves an app that has ended: its files, how it ended, and its address, which the directory
// knows from then on as the target's.
func TestMigrateStopped(t *testing.T) {
	testenv.Need(t, testenv.Program("ip"), testenv.Program("nft"))
	hs := newInstallation(t, "alpha", "beta")
	alpha, beta := hs.worlds[0], hs.worlds[1]
	was := alpha.stopped("done")
	m := hs.migrate("done", alpha, beta)
	qt.Check(t, qt.Equals(m.Trouble, ""))
	qt.Check(t, qt.Equals(alpha.CLI("show", "done").Code, 4))
	same := func(w *World) {
		t.Helper()
		now := w.Show("done")
		qt.Check(t, qt.Equals(now.GetStatus(), api.Status_STATUS_STOPPED))
		qt.Check(t, qt.Equals(now.GetExit(), was.GetExit()))
		qt.Check(t, qt.Equals(now.GetEndpoint(), was.GetEndpoint()))
		alpha.owner(was.GetEndpoint(), w.Name())
	}
	same(beta)
	beta.remembers("done")

	// So it is for the next daemon, and nobody else gets its name or its address.
	qt.Assert(t, qt.IsNil(beta.RestartDaemon(t.Context(), syscall.SIGTERM, host.Daemon{})))
	beta.Dial()
	same(beta)
	for _, args := range [][]string{{"--name", "done"}, {"--name", "other", "--endpoint", was.GetEndpoint()}} {
		r := alpha.CLI(append(append([]string{"run"}, args...), "--", "true")...)
		qt.Check(t, qt.Equals(r.Code, 1), qt.Commentf("%s", r.Stdout))
	}

	hs.migrate("done", beta, alpha)
	same(alpha)
	alpha.remembers("done")
	hs.ok(alpha, "rm", "done")
	beta.Until("nobody has its address", func() error {
		if r := beta.CLI("vem", "resolve", was.GetEndpoint()); r.Code != 4 {
			return fmt.Errorf("exit code %d: %s", r.Code, r.Stdout)
		}
		return nil
	})
}

// stoppedPoints are the points that the move of a stopped app comes to, and whether it has moved if its daemon is
// killed there: 0 if that depends on who hears of it first.
var stoppedPoints = []struct {
	name  fault.Name
	moves int
}{
	{"migrate.begun", -1},
	{"migrate.written", -1},
	{"migrate.sent", -1},
	{"arrive.begun", -1},
	{"arrive.furnished", -1},
	{"arrive.received", 0},
	{"migrate.prepared", -1},
	{"migrate.given", 0},
	{"migrate.gone", 1},
	{"arrive.owned", 1},
}

// TestMigrateStoppedIsKilledAtEveryPoint kills either daemon at each point of such a move: the app is on one host
// then, and not on two.
func TestMigrateStoppedIsKilledAtEveryPoint(t *testing.T) {
	testenv.Need(t, testenv.Program("ip"), testenv.Program("nft"))
	hs := newInstallation(t, "gamma", "alpha", "beta")
	at, other := hs.worlds[1], hs.worlds[2]
	endpoint := at.stopped("done").GetEndpoint()
	has := func(w *World) (bool, error) {
		apps, err := w.API.List(t.Context())
		for _, a := range apps {
			if a.GetStatus() != api.Status_STATUS_STOPPED {
				err = errors.Join(err, fmt.Errorf("%s: it is %s", w.Name(), a.GetStatus()))
			}
		}
		return len(apps) == 1, err
	}
	for _, p := range stoppedPoints {
		t.Run(string(p.name), func(t *testing.T) {
			broken := at
			if operationOf(p.name) == "arrive" {
				broken = other
			}
			qt.Assert(t, qt.IsNil(broken.RestartDaemon(t.Context(), syscall.SIGTERM, host.Daemon{Env: gate.Env(gate.Kill(p.name))})))
			broken.Dial()
			broken.Until("it could move", func() error {
				_, err := at.API.Migrate(t.Context(), &api.MigrateRequest{Name: "done", Host: other.Name(), DryRun: true}, nil)
				return err
			})
			_, err := at.API.Migrate(t.Context(), &api.MigrateRequest{Name: "done", Host: other.Name()}, nil)
			t.Log(err)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			state, err := broken.WaitDaemon(ctx)
			qt.Assert(t, qt.IsNil(err))
			status, ok := state.Sys().(syscall.WaitStatus)
			qt.Assert(t, qt.IsTrue(ok && status.Signal() == syscall.SIGKILL), qt.Commentf("the daemon never came to the point: %v", state))
			qt.Assert(t, qt.IsNil(broken.StartDaemon(t.Context(), host.Daemon{})))
			broken.Dial()
			at.Until("it is on one host", func() error {
				here, err := has(at)
				there, err2 := has(other)
				if err := errors.Join(err, err2); err != nil {
					return err
				}
				if here == there {
					return fmt.Errorf("it is on %s: %t, on %s: %t", at.Name(), here, other.Name(), there)
				}
				if p.moves != 0 {
					qt.Assert(t, qt.Equals(there, p.moves > 0))
				}
				if there {
					at, other = other, at
				}
				return nil
			})
			hs.worlds[0].owner(endpoint, at.Name())
			at.nothingPartial()
			other.nothingPartial()
		})
	}
	at.remembers("done")
}
