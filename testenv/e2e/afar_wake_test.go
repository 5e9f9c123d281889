package e2e

import (
	"context"
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/testenv/peer"
	"github.com/snapctl/snapctl/testenv/traffic"
)

// elsewhere is a request for a Redis that traffic wakes on a host.
func elsewhere(name, host string) *api.RunRequest {
	req := redisRequest(name, "")
	if req.Wake == nil {
		req.Wake = &api.WakePolicy{}
	}
	req.Wake.Elsewhere = host
	return req
}

// TestWakeElsewhere has traffic wake apps on other hosts than they sleep on.
func TestWakeElsewhere(t *testing.T) {
	testenv.Need(t, testenv.Program("redis-server"), testenv.Program("redis-cli"), testenv.Program("ip"), testenv.Program("nft"))
	hs := newInstallation(t, "alpha", "beta")
	alpha, beta := hs.worlds[0], hs.worlds[1]
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	endpoint := alpha.Run(elsewhere("cache", "beta")).GetEndpoint()
	alpha.Run(redisRequest("near", ""))
	beta.Run(redisRequest("far", ""))
	alpha.asks("near", endpoint, "OK", "SET", "where", "alpha")
	alpha.Hibernate("cache")
	alpha.asks("near", endpoint, "alpha", "GET", "where")
	alpha.Until("it has left", func() error {
		if r := alpha.CLI("show", "cache"); r.Code != 4 {
			return errors.New(r.Stdout)
		}
		return nil
	})
	qt.Assert(t, qt.Equals(beta.Show("cache").GetStatus(), api.Status_STATUS_RUNNING))
	qt.Check(t, qt.Equals(beta.Show("cache").GetWake().GetElsewhere(), "beta"))
	// It is where it is to be: it wakes there.
	beta.Hibernate("cache")
	beta.asks("far", endpoint, "alpha", "GET", "where")
	qt.Check(t, qt.Equals(beta.Show("cache").GetStatus(), api.Status_STATUS_RUNNING))
	qt.Check(t, qt.HasLen(beta.Show("cache").GetNotes(), 0))

	// By a command, back.
	beta.Hibernate("cache")
	r := beta.CLI("wake", "cache", "--on", "alpha")
	qt.Assert(t, qt.Equals(r.Code, 0), qt.Commentf("%s", r.Stderr))
	qt.Check(t, qt.StringContains(r.Stdout, "cache woken on alpha in "))
	qt.Check(t, qt.Equals(alpha.Show("cache").GetStatus(), api.Status_STATUS_RUNNING))
	// All hosts have the same memory: it stays.
	alpha.Hibernate("cache")
	qt.Check(t, qt.Equals(alpha.CLI("wake", "cache", "--on", "any").Code, 0))
	qt.Check(t, qt.Equals(alpha.Show("cache").GetStatus(), api.Status_STATUS_RUNNING))
	qt.Check(t, qt.Equals(alpha.CLI("wake", "cache", "--on", "nowhere").Code, 4))

	// If it can't move it wakes where it is, and says why.
	alpha.Run(elsewhere("bound", "nowhere"))
	bound := alpha.Show("bound").GetEndpoint()
	alpha.Hibernate("bound")
	alpha.asks("near", bound, "PONG", "PING")
	a := alpha.Show("bound")
	qt.Assert(t, qt.HasLen(a.GetNotes(), 1))
	qt.Check(t, qt.StringContains(a.GetNotes()[0].GetText(), "it was to be woken on host nowhere, and was woken here: host nowhere: not found"))
	alpha.Hibernate("cache")
	qt.Assert(t, qt.IsNil(beta.RestartDaemon(ctx, syscall.SIGKILL, host.Daemon{})))
	beta.Dial()
	alpha.asks("near", endpoint, "alpha", "GET", "where") // there or here
	alpha.Until("it runs on one host", func() error {
		here, there := alpha.CLI("show", "cache").Code, beta.CLI("show", "cache").Code
		if (here == 0) == (there == 0) {
			return errors.New("on both, or none")
		}
		return nil
	})
}

// TestWakeElsewhereUnderTraffic has apps that others are connected to sleep, and be woken on another host, again and
// again: nothing is lost on the way.
func TestWakeElsewhereUnderTraffic(t *testing.T) {
	testenv.Need(t, testenv.Program("ip"), testenv.Program("nft"))
	hs := newInstallation(t, "alpha", "beta", "gamma")
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	alpha, beta := hs.worlds[0], hs.worlds[1]
	program, err := alpha.Install(ctx, "peer")
	qt.Assert(t, qt.IsNil(err))
	a := alpha.Run(&api.RunRequest{Name: "traveller", Args: append([]string{program}, traffic.Args(netip.Addr{})...), Wake: &api.WakePolicy{Elsewhere: "beta"}})
	members := []traffic.Member{{Name: "alpha", Addr: netip.MustParseAddr(a.GetEndpoint()), Via: alpha}, hs.endpoint(1), hs.endpoint(2)}
	hs.know(members, hs.worlds...)
	mesh, err := traffic.Start(ctx, traffic.Plan{Members: members, Pairs: traffic.Everyone(members, 6, 2), Pattern: peer.Pattern{MaxPause: 50 * time.Millisecond}})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(mesh.Progress(ctx)))
	for range 3 {
		alpha.OK("hibernate", "traveller") // in the middle of its traffic, which wakes it
		beta.Until("it runs on beta", func() error {
			a, err := beta.API.Show(ctx, "traveller")
			if err == nil && a.GetStatus() != api.Status_STATUS_RUNNING {
				err = errors.New(a.GetStatus().String())
			}
			return err
		})
		mesh.Reach("alpha", beta)
		qt.Assert(t, qt.IsNil(mesh.Progress(ctx)))
		hs.migrate("traveller", beta, alpha)
		mesh.Reach("alpha", alpha)
		qt.Assert(t, qt.IsNil(mesh.Progress(ctx)))
	}
	hs.unharmed(ctx, mesh)
}
