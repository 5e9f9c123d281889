package e2e

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/daemon"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/testenv/gate"
	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/testenv/leak"
	"github.com/snapctl/snapctl/testenv/peer"
	"github.com/snapctl/snapctl/testenv/traffic"
)

// hostPoints are the fault points of one thing that a host does with others.
func hostPoints(of string) []fault.Name {
	return slices.DeleteFunc(daemon.HostPoints(), func(p fault.Name) bool { return !strings.HasPrefix(string(p), of) })
}

// TestLeaveIsKilled has the daemons of hosts die while these leave their installation, each at another step: the
// next daemon finishes it, and nothing is left of channels and of the host's own address in the network
// that its app is in, which goes on.
func TestLeaveIsKilled(t *testing.T) {
	points := hostPoints("leave.")
	hs := makeHosts(t, startWorld, "alpha", "beta", "gamma", "delta")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	before := make([]leak.State, len(hs.worlds))
	var members []traffic.Member
	for i, w := range hs.worlds { // before there is anything of an installation
		program, err := w.Install(ctx, "peer")
		qt.Assert(t, qt.IsNil(err))
		at := netip.AddrFrom4([4]byte{10, 77, byte(i), 10}).String()
		a := w.Run(&api.RunRequest{Name: "peer-" + w.Name(), Endpoint: at, Args: append([]string{program}, traffic.Args(netip.Addr{})...)})
		members = append(members, traffic.Member{Name: w.Name(), Addr: netip.MustParseAddr(a.GetEndpoint()), Via: w})
		before[i], err = leak.Take(w.Host)
		qt.Assert(t, qt.IsNil(err))
	}
	t.Cleanup(func() {
		for _, w := range hs.worlds {
			w.RemoveAll()
		}
	})
	for i := range hs.worlds {
		hs.join(i, 0)
	}
	hs.know(members)
	mesh, err := traffic.Start(ctx, traffic.Plan{Members: members, Pairs: traffic.Everyone(members, 1, 0), Pattern: peer.Pattern{MaxPause: 100 * time.Millisecond}})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(mesh.Progress(ctx)))
	hs.unharmed(ctx, mesh)
	for i, point := range points {
		w := hs.worlds[i+1]
		qt.Assert(t, qt.IsNil(w.RestartDaemon(ctx, syscall.SIGTERM, host.Daemon{Env: gate.Env(gate.Kill(point))})))
		w.Dial()
		w.Until("it takes part again", func() error {
			if r := w.CLI("vem", "resolve", members[0].Addr.String()); r.Code != 0 {
				return errors.New(r.Stderr)
			}
			return nil
		})
		r := w.CLI("host", "leave", "--force")
		qt.Assert(t, qt.Not(qt.Equals(r.Code, 0)), qt.Commentf("%s: %s", point, r.Stdout))
		qt.Assert(t, qt.IsNil(w.RestartDaemon(ctx, syscall.SIGKILL, host.Daemon{})))
		w.Dial()
		w.Until("it has left", func() error {
			if r := w.CLI("host", "ls"); r.Code != 0 || strings.Contains(r.Stdout, w.Name()) {
				return errors.New(r.Stdout + r.Stderr)
			}
			return nil
		})
		hs.worlds[0].Until("the others know", func() error {
			if h := hs.listed(hs.worlds[0])[w.Name()]; h.Health != "removed" {
				return errors.New(h.Health)
			}
			return nil
		})
		w.Until("nothing is left after "+string(point), func() error {
			timed, stop := context.WithTimeout(ctx, time.Millisecond)
			defer stop()
			left, err := leak.Wait(timed, before[i+1], w.Host)
			qt.Assert(t, qt.IsNil(err))
			left = slices.DeleteFunc(left, func(line string) bool { return strings.Contains(line, ": open file ") })
			if len(left) > 0 {
				return errors.New(strings.Join(left, "\n"))
			}
			return nil
		})
		qt.Check(t, qt.Equals(w.Show("peer-"+w.Name()).GetStatus().String(), "STATUS_RUNNING"))
	}
}
