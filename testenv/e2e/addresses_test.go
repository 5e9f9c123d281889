package e2e

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/testenv/peer"
	"github.com/snapctl/snapctl/testenv/traffic"
	"github.com/snapctl/snapctl/testenv/underlay"
)

// quick is a daemon that probes often, so that it trusts a way soon.
var quick = host.Daemon{Args: []string{"--probe-interval", "100ms"}}

// addresses are those of a host, as another one has them.
func (hs *hosts) addresses(at, of *World) (list []string) {
	hs.t.Helper()
	var shown struct {
		Host struct {
			Addresses []struct{ Address string }
		}
	}
	hs.read(at, &shown, "host", "show", of.Name())
	for _, a := range shown.Host.Addresses {
		list = append(list, a.Address)
	}
	return list
}

// TestAddressesChange has hosts move to other addresses while their apps talk: nothing is lost, not even a
// datagram. What can't be changes nothing, and what a daemon was killed in never was.
func TestAddressesChange(t *testing.T) {
	testenv.Need(t, testenv.Program("nft"))
	hs := newInstallation(t, "alpha", "beta")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	alpha, beta := hs.worlds[0], hs.worlds[1]
	for _, w := range hs.worlds {
		qt.Assert(t, qt.IsNil(w.RestartDaemon(ctx, syscall.SIGTERM, quick)))
		w.Dial()
	}
	members := []traffic.Member{hs.endpoint(0), hs.endpoint(1)}
	hs.know(members)
	mesh, err := traffic.Start(ctx, traffic.Plan{Members: members, Pairs: traffic.Everyone(members, 4, 2), Pattern: peer.Pattern{MaxPause: 20 * time.Millisecond}})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(mesh.Progress(ctx)))
	hs.used(hs.eth0)
	lan, wan := hs.eth0[1].Addr4().String(), hs.eth1[1].Addr4().String()

	hs.ok(beta, "host", "set", "--address", wan)
	qt.Check(t, qt.DeepEquals(hs.addresses(beta, beta), []string{wan}))
	alpha.Until("alpha knows", func() error {
		if now := hs.addresses(alpha, beta); !slices.Equal(now, []string{wan}) {
			return errors.New("not yet")
		}
		return nil
	})
	hs.used(hs.eth1)
	qt.Assert(t, qt.IsNil(mesh.Progress(ctx)))
	qt.Assert(t, qt.IsNil(hs.eth0[1].Cut(underlay.Both))) // nobody needs it
	qt.Assert(t, qt.IsNil(mesh.Progress(ctx)))
	qt.Assert(t, qt.IsNil(hs.eth0[1].Mend(underlay.Both)))

	// The one that runs the directory moves too, both know all, and the priorities change.
	hs.ok(alpha, "host", "set", "--address", hs.eth1[0].Addr4().String())
	hs.ok(beta, "host", "set", "--address", "auto")
	qt.Check(t, qt.IsTrue(slices.Contains(hs.addresses(beta, beta), lan) && slices.Contains(hs.addresses(beta, beta), wan)))
	hs.ok(alpha, "host", "set", "--address", "auto")
	hs.ok(beta, "host", "set", "--address", lan, "--address", wan+",priority=10")
	hs.used(hs.eth0)
	qt.Assert(t, qt.IsNil(mesh.Progress(ctx)))

	both := []string{lan, wan}
	for what, x := range map[string]struct {
		w    *World
		args []string
		want string
	}{
		"not here":  {beta, []string{"--address", "192.0.2.99"}, "this host has no address 192.0.2.99"},
		"twice":     {beta, []string{"--address", lan, "--address", lan}, "is given twice"},
		"directory": {alpha, []string{"--address", hs.eth0[0].Addr6().String()}, "this host runs a member of the directory"},
	} {
		r := x.w.CLI(append([]string{"host", "set"}, x.args...)...)
		qt.Check(t, qt.Equals(r.Code, 1), qt.Commentf("%s", what))
		qt.Check(t, qt.StringContains(r.Stderr, x.want))
	}
	qt.Assert(t, qt.IsNil(hs.eth1[1].Cut(underlay.Both)))
	r := beta.CLI("host", "set", "--address", wan)
	qt.Check(t, qt.Equals(r.Code, 1))
	qt.Check(t, qt.StringContains(r.Stderr, "no other host answers from these addresses"))
	r = hs.ok(beta, "host", "set", "--address", lan, "--address", wan+",priority=10")
	qt.Check(t, qt.StringContains(r.Stderr, "note: no other host answers from "+wan))
	qt.Assert(t, qt.IsNil(hs.eth1[1].Mend(underlay.Both)))
	qt.Check(t, qt.DeepEquals(hs.addresses(alpha, beta), both))

	qt.Assert(t, qt.IsNil(mesh.Progress(ctx)))
	report, err := mesh.Stop(ctx)
	qt.Assert(t, qt.IsNil(err))
	t.Log(report)
	qt.Check(t, qt.IsNil(report.Err()))
	qt.Check(t, qt.Equals(report.Total().Lost, 0))

	// Channels can't move, since no probe gets through; the daemon is killed while they are to.
	for _, command := range []string{"add table inet closed", "add chain inet closed in { type filter hook input priority 0; }", "add rule inet closed in iifname " + hs.eth1[1].Device() + " udp dport 7078 drop"} {
		out, err := beta.Command(ctx, "nft", command).CombinedOutput()
		qt.Assert(t, qt.IsNil(err), qt.Commentf("%s", out))
	}
	begun := make(chan error, 1)
	go func() {
		_, err := beta.Snapctl(ctx, "host", "set", "--address", wan)
		begun <- err
	}()
	alpha.Until("the directory has the old address last", func() error {
		if now := hs.addresses(alpha, beta); !slices.Equal(now, []string{wan, lan}) {
			return errors.New("not yet")
		}
		return nil
	})
	qt.Assert(t, qt.IsNil(beta.RestartDaemon(ctx, syscall.SIGKILL, quick)))
	beta.Dial()
	qt.Assert(t, qt.IsNil(<-begun))
	alpha.Until("all is as it was", func() error {
		if now := hs.addresses(alpha, beta); !slices.Equal(now, both) {
			return errors.New("not yet")
		}
		return nil
	})
	out, err := beta.Command(ctx, "nft", "delete table inet closed").CombinedOutput()
	qt.Assert(t, qt.IsNil(err), qt.Commentf("%s", out))
}
