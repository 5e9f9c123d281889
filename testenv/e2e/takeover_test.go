package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
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

// TestTakeover has a host die with three apps, two of which are taken over, while the daemon that does it
// dies at each step. When the host comes back its copy of one that was taken over stays stopped, and the
// other one goes on, once the directory has said so.
func TestTakeover(t *testing.T) {
	testenv.Need(t, testenv.Program("redis-server"), testenv.Program("redis-cli"), testenv.Program("ip"), testenv.Program("nft"))
	hs := newInstallation(t, "alpha", "beta")
	alpha, beta := hs.worlds[0], hs.worlds[1]
	alpha.Run(redisRequest("own", ""))
	endpoint := beta.Run(redisRequest("cache", "")).GetEndpoint()
	beta.Run(redisRequest("other", ""))
	third := beta.Run(redisRequest("third", "")).GetEndpoint()
	alpha.asks("own", endpoint, "OK", "SET", "where", "beta")
	beta.Hibernate("cache")
	beta.Hibernate("other")
	beta.Hibernate("third")

	takeover := []string{"host", "takeover", "cache", "--from", "beta", "--yes"}
	r := alpha.CLI(takeover...)
	qt.Assert(t, qt.Equals(r.Code, 1))
	qt.Check(t, qt.StringContains(r.Stderr, "host beta is alive"))
	holder := beta.holderPID()
	qt.Assert(t, qt.IsNil(beta.KillDaemon(t.Context(), syscall.SIGKILL)))
	beta.kill(holder)
	beta.powerOff(t)
	hs.rebooted = beta.Name()
	alpha.dies("takeover.begun", takeover...)
	alpha.owner(endpoint, "beta")
	alpha.dies("takeover.told", takeover...)
	alpha.owner(endpoint, "alpha")
	alpha.dies("takeover.kept", "host", "takeover", "third", "--from", "beta", "--yes")
	alpha.owner(third, "alpha")
	var again *api.App
	alpha.Until("the next daemon has reached the directory", func() (err error) {
		again, err = alpha.API.Run(t.Context(), redisRequest("third", ""))
		return err
	})
	qt.Check(t, qt.Equals(again.GetEndpoint(), third))
	alpha.asks("own", third, "PONG", "PING")
	r = hs.ok(alpha, takeover...)
	qt.Check(t, qt.StringContains(r.Stdout, "cache at "+endpoint+" of network default is on host alpha now"))
	qt.Check(t, qt.StringContains(r.Stdout, "snapctl run --name cache "))
	qt.Check(t, qt.Equals(alpha.Run(redisRequest("cache", "")).GetEndpoint(), endpoint))
	alpha.asks("own", endpoint, "OK", "SET", "where", "alpha")

	qt.Assert(t, qt.IsNil(hs.net.Partition(underlay.Group{alpha.Host}, underlay.Group{beta.Host})))
	beta.powerOn(t, "the next one")
	for _, app := range []string{"cache", "other"} {
		r = beta.CLI("wake", app)
		qt.Assert(t, qt.Equals(r.Code, 1))
		qt.Check(t, qt.StringContains(r.Stderr, "is not known until the directory is reached"))
		qt.Check(t, qt.StringContains(r.Stderr, "the directory is looked for at https://"+hs.eth0[0].Addr4().String()))
		qt.Check(t, qt.StringContains(beta.Show(app).GetError(), "is not known until the directory is reached"))
	}
	qt.Check(t, qt.StringContains(beta.OK("ps"), "WOULD NOT START"))
	qt.Assert(t, qt.IsNil(hs.net.Heal(t.Context())))

	beta.Until("its copy is lost", func() error {
		if text := beta.Show("cache").GetError(); !strings.Contains(text, "host alpha took it over") {
			return errors.New(text)
		}
		return nil
	})
	r = beta.CLI("wake", "cache")
	qt.Check(t, qt.Equals(r.Code, 1))
	qt.Check(t, qt.StringContains(r.Stderr, "this copy of app cache stays stopped"))
	qt.Check(t, qt.StringContains(r.Stderr, "snapctl snapshot cache saves this copy"))
	beta.OK("snapshot", "cache")
	beta.OK("wake", "other")
	beta.asks("other", endpoint, "alpha", "GET", "where")
	qt.Check(t, qt.Equals(beta.Show("cache").GetStatus(), api.Status_STATUS_HELD))
}

// dies has the daemon die at a point of what a command does, as soon as the command is not refused any
// more, and starts the next one.
func (w *World) dies(point fault.Name, command ...string) {
	w.t.Helper()
	qt.Assert(w.t, qt.IsTrue(slices.Contains(hostPoints("takeover."), point)))
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	qt.Assert(w.t, qt.IsNil(w.RestartDaemon(ctx, syscall.SIGTERM, host.Daemon{Env: gate.Env(gate.Kill(point))})))
	w.Dial()
	w.Until("it comes to "+string(point), func() error {
		r := w.CLI(command...)
		qt.Assert(w.t, qt.Not(qt.Equals(r.Code, 0)), qt.Commentf("%s", r.Stdout))
		if strings.Contains(r.Stderr, "is alive") || strings.Contains(r.Stderr, "must be reached first") {
			return errors.New(r.Stderr)
		}
		return nil
	})
	_, err := w.WaitDaemon(ctx)
	qt.Assert(w.t, qt.IsNil(err))
	qt.Assert(w.t, qt.IsNil(w.StartDaemon(ctx, host.Daemon{})))
	w.Dial()
}

// owner waits until the directory is reached, and proves who has an endpoint.
func (w *World) owner(endpoint, want string) {
	w.t.Helper()
	var found struct {
		Endpoints []struct{ Host string }
		Trouble   string
	}
	w.Until(endpoint+" is known", func() error {
		r := w.CLI("vem", "resolve", endpoint, "-o", "json")
		if err := json.Unmarshal([]byte(r.Stdout), &found); err != nil || r.Code != 0 || found.Trouble != "" {
			return errors.New(r.Stdout + r.Stderr)
		}
		return nil
	})
	qt.Assert(w.t, qt.HasLen(found.Endpoints, 1))
	qt.Check(w.t, qt.Equals(found.Endpoints[0].Host, want))
}

// asks has an app ask a Redis that may be on another host, until it gets an answer.
func (w *World) asks(app, endpoint, want string, command ...string) {
	w.t.Helper()
	w.Until(endpoint+" answers", func() error {
		r := w.CLI(append([]string{"exec", app, "--", "timeout", "5", "redis-cli", "-h", endpoint}, command...)...)
		if r.Code != 0 || strings.TrimSpace(r.Stdout) != want {
			return fmt.Errorf("exit code %d: %s%s", r.Code, r.Stdout, r.Stderr)
		}
		return nil
	})
}
