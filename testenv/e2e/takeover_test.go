package e2e

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/underlay"
)

// TestTakeover has a host die with two apps, one of which is taken over. When the host comes back
// its copy of that one stays stopped, and the other one goes on, once the directory has said so.
func TestTakeover(t *testing.T) {
	testenv.Need(t, testenv.Program("redis-server"), testenv.Program("redis-cli"), testenv.Program("ip"), testenv.Program("nft"))
	hs := newInstallation(t, "alpha", "beta")
	alpha, beta := hs.worlds[0], hs.worlds[1]
	alpha.Run(redisRequest("own", ""))
	endpoint := beta.Run(redisRequest("cache", "")).GetEndpoint()
	beta.Run(redisRequest("other", ""))
	alpha.asks("own", endpoint, "OK", "SET", "where", "beta")
	beta.Hibernate("cache")
	beta.Hibernate("other")

	takeover := []string{"host", "takeover", "cache", "--from", "beta", "--yes"}
	r := alpha.CLI(takeover...)
	qt.Assert(t, qt.Equals(r.Code, 1))
	qt.Check(t, qt.StringContains(r.Stderr, "host beta is alive"))
	holder := beta.holderPID()
	qt.Assert(t, qt.IsNil(beta.KillDaemon(t.Context(), syscall.SIGKILL)))
	beta.kill(holder)
	beta.powerOff(t)
	hs.rebooted = beta.Name()
	alpha.Until("host beta is not seen any more", func() error {
		if r = alpha.CLI(takeover...); r.Code != 0 {
			return errors.New(r.Stderr)
		}
		return nil
	})
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
