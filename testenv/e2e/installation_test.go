package e2e

import (
	"context"
	"encoding/json"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/testenv/leak"
	"github.com/snapctl/snapctl/testenv/peer"
	"github.com/snapctl/snapctl/testenv/traffic"
	"github.com/snapctl/snapctl/testenv/underlay"
	"github.com/snapctl/snapctl/vem/fabric"
)

// newInstallation makes an installation of hosts: the first one makes it, and invites the others.
// At the end nothing of their apps and channels may be left; what makes them an installation stays.
func newInstallation(t *testing.T, names ...string) *hosts {
	t.Helper()
	return installationOf(t, startWorld, names...)
}

// installationOf is newInstallation of worlds that a function makes as startWorld does.
func installationOf(t *testing.T, world func(*testing.T, host.Config, func(*host.Host), ...string) *World, names ...string) *hosts {
	t.Helper()
	hs := makeHosts(t, world, names...)
	for i := range hs.worlds {
		hs.join(i, 0)
	}
	hs.leaveNothing(hs.worlds)
	return hs
}

// leaveNothing looks at the end for what is left on hosts of an installation.
func (hs *hosts) leaveNothing(worlds []*World) {
	hs.t.Helper()
	t := hs.t
	var all []*host.Host
	for _, w := range worlds {
		all = append(all, w.Host)
	}
	before, err := leak.Take(all...)
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() {
		for _, w := range worlds {
			w.RemoveAll()
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		left, err := leak.Wait(ctx, before, all...)
		qt.Check(t, qt.IsNil(err))
		for _, line := range left {
			// The daemons and the directory have connections, and write. A host is in its networks also
			// when no app is.
			if !strings.Contains(line, ": open file ") && !strings.Contains(line, ": state file installation") && !hs.made(line) {
				t.Errorf("left behind: %s", line)
			}
		}
	})
}

// made tells whether a line is about a network of a host that was rebooted, and not about an app.
func (hs *hosts) made(line string) bool {
	about, isHost := strings.CutPrefix(line, hs.rebooted)
	return hs.rebooted != "" && isHost && strings.Contains(about, "net namespace ") && !strings.Contains(about, " device "+fabric.EndpointPrefix)
}

// join has a host join the installation at another one of its hosts; a host that joins at itself
// makes it.
func (hs *hosts) join(i, at int) {
	hs.t.Helper()
	w := hs.worlds[i]
	own := []string{"--address", hs.eth0[i].Addr4().String(), "--address", hs.eth1[i].Addr4().String() + ",priority=10"}
	_, err := w.Install(hs.t.Context(), "snapctl-directory")
	qt.Assert(hs.t, qt.IsNil(err))
	if i == at {
		hs.ok(w, append([]string{"host", "init"}, own...)...)
		return
	}
	var invitation struct {
		Token string `json:"token"`
	}
	r := hs.ok(hs.worlds[at], "host", "invite", "-o", "json")
	qt.Assert(hs.t, qt.IsNil(json.Unmarshal([]byte(r.Stdout), &invitation)))
	hs.ok(w, append([]string{"host", "join", hs.eth0[at].Addr4().String(), invitation.Token}, own...)...)
}

// ok runs a command that has to succeed.
func (hs *hosts) ok(w *World, args ...string) host.Result {
	hs.t.Helper()
	r := w.CLI(args...)
	qt.Assert(hs.t, qt.Equals(r.Code, 0), qt.Commentf("%s: snapctl %v: %s", w.Name(), args, r.Stderr))
	return r
}

// endpoint runs an app that takes part in the traffic at its virtual address.
func (hs *hosts) endpoint(i int, publish ...*api.Publication) traffic.Member {
	hs.t.Helper()
	w := hs.worlds[i]
	program, err := w.Install(hs.t.Context(), "peer")
	qt.Assert(hs.t, qt.IsNil(err))
	a := w.Run(&api.RunRequest{Name: "peer-" + w.Name(), Args: append([]string{program}, traffic.Args(netip.Addr{})...), Publish: publish})
	return traffic.Member{Name: w.Name(), Addr: netip.MustParseAddr(a.GetEndpoint()), Via: w}
}

// leavesNetwork cuts the network that all channels go over: they take the other one.
func (hs *hosts) leavesNetwork(mesh *traffic.Mesh) {
	hs.t.Helper()
	ctx, cancel := context.WithTimeout(hs.t.Context(), 2*time.Minute)
	defer cancel()
	hs.used(hs.eth0)
	for _, p := range hs.eth0 {
		qt.Assert(hs.t, qt.IsNil(p.Cut(underlay.Both)))
	}
	hs.used(hs.eth1)
	qt.Assert(hs.t, qt.IsNil(mesh.Progress(ctx)))
	for _, p := range hs.eth0 {
		qt.Assert(hs.t, qt.IsNil(p.Mend(underlay.Both)))
	}
	qt.Assert(hs.t, qt.IsNil(mesh.Progress(ctx)))
}

// used waits until the first host's channels to all others go from a port of these.
func (hs *hosts) used(ports []*underlay.Port) {
	hs.t.Helper()
	ctx, cancel := context.WithTimeout(hs.t.Context(), time.Minute)
	defer cancel()
	for i := 1; i < len(hs.worlds); i++ {
		var shown struct {
			Ways []struct {
				Address, Device, Remote, State string
				Used                           bool
			}
		}
		for is := false; !is; {
			qt.Assert(hs.t, qt.IsNil(ctx.Err()), qt.Commentf("%+v", shown))
			r := hs.ok(hs.worlds[0], "host", "show", hs.worlds[i].Name(), "-o", "json")
			qt.Assert(hs.t, qt.IsNil(json.Unmarshal([]byte(r.Stdout), &shown)))
			for _, w := range shown.Ways {
				is = is || w.Used && w.State == "up" && w.Device == ports[0].Device() && w.Remote == ports[i].Addr4().String()
			}
		}
	}
}

// TestInstallation has apps of three hosts talk to one another by their virtual addresses, while
// a network fails, they sleep, daemons are killed, and all networks are divided.
func TestInstallation(t *testing.T) {
	hs := newInstallation(t, "alpha", "beta", "gamma")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var listed struct {
		Hosts []struct {
			Name, Health string
		}
	}
	qt.Assert(t, qt.IsNil(json.Unmarshal([]byte(hs.ok(hs.worlds[1], "host", "ls", "-o", "json").Stdout), &listed)))
	qt.Assert(t, qt.HasLen(listed.Hosts, 3))
	members := []traffic.Member{hs.endpoint(0, everyPort()...), hs.endpoint(1), hs.endpoint(2)}
	pairs := traffic.Everyone(members, 4, 1)
	hs.know(members)
	office, others, more := hs.others()
	mesh, err := traffic.Start(ctx, traffic.Plan{
		Members: append(members, others...), Pairs: append(pairs, more...), Pattern: peer.Pattern{MaxPause: 100 * time.Millisecond},
	})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(mesh.Progress(ctx)))
	hs.shown()
	qt.Assert(t, qt.IsNil(mesh.Progress(ctx)))

	hs.leavesNetwork(mesh)
	alpha, beta, gamma := hs.worlds[0], hs.worlds[1], hs.worlds[2]
	beta.Hibernate("peer-beta")
	qt.Assert(t, qt.IsNil(mesh.Progress(ctx))) // it woke by what came from other hosts

	for _, kind := range []string{"vxlan", "wireguard"} {
		qt.Check(t, qt.StringContains(hs.ok(beta, "host", "set", "--channel", kind).Stdout, kind+" (it makes direct, tunnel, vxlan, wireguard)"))
		qt.Assert(t, qt.IsNil(mesh.Progress(ctx)))
	}
	qt.Check(t, qt.StringContains(hs.ok(beta, "vem", "channels").Stdout, "wireguard"))

	for _, w := range hs.worlds {
		qt.Assert(t, qt.IsNil(w.RestartDaemon(ctx, syscall.SIGKILL, host.Daemon{})))
		w.Dial()
	}
	qt.Assert(t, qt.IsNil(mesh.Progress(ctx)))
	hs.set(beta, "auto")
	qt.Assert(t, qt.IsNil(mesh.Progress(ctx)))

	qt.Assert(t, qt.IsNil(hs.net.Partition(underlay.Group{alpha.Host}, underlay.Group{beta.Host, gamma.Host})))
	gamma.Hibernate("peer-gamma")
	qt.Assert(t, qt.IsNil(hs.net.Heal(ctx)))
	qt.Assert(t, qt.IsNil(mesh.Progress(ctx)))
	hs.unharmed(ctx, mesh)
	office.oneFails(members[0].Addr)
}
