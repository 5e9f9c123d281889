package e2e

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/testenv/gate"
	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/testenv/peer"
	"github.com/snapctl/snapctl/testenv/traffic"
)

// mishap is what may happen to a host of an installation, or be done there, while its apps talk.
type mishap struct {
	what string
	do   func(ctx context.Context, hs *hosts, w *World, random *rand.Rand)
}

var mishaps = []mishap{
	{"has an app sleep", func(_ context.Context, _ *hosts, w *World, random *rand.Rand) {
		apps := w.names()
		w.Hibernate(apps[random.IntN(len(apps))])
	}},
	{"loses its daemon", func(ctx context.Context, hs *hosts, w *World, _ *rand.Rand) {
		qt.Assert(hs.t, qt.IsNil(w.RestartDaemon(ctx, syscall.SIGKILL, host.Daemon{})))
		w.Dial()
	}},
	{"loses its part of the directory", func(_ context.Context, hs *hosts, w *World, _ *rand.Rand) {
		for _, pid := range hs.directories(w) {
			qt.Check(hs.t, qt.IsNil(syscall.Kill(pid, syscall.SIGKILL)))
		}
	}},
	{"has its part of the directory stand still", func(_ context.Context, hs *hosts, w *World, random *rand.Rand) {
		pids := hs.directories(w)
		for _, pid := range pids {
			qt.Check(hs.t, qt.IsNil(syscall.Kill(pid, syscall.SIGSTOP)))
		}
		w.pause(random, time.Second)
		for _, pid := range pids {
			qt.Check(hs.t, qt.IsNil(syscall.Kill(pid, syscall.SIGCONT)))
		}
	}},
	{"takes its channels down", func(_ context.Context, hs *hosts, w *World, _ *rand.Rand) {
		hs.ok(w, "vem", "channels", "down", "--all")
	}},
	{"is told to have channels of another kind", func(_ context.Context, hs *hosts, w *World, random *rand.Rand) {
		kinds := []string{"auto", "direct", "tunnel", "vxlan", "wireguard"}
		hs.set(w, kinds[random.IntN(len(kinds))])
	}},
}

// hard are further mishaps, for the long form of the test.
var hard = []mishap{
	{"loses its daemon in the middle of saving or waking an app", func(ctx context.Context, hs *hosts, w *World, random *rand.Rand) {
		all := slices.DeleteFunc(points(), func(n fault.Name) bool { return operationOf(n) != "hibernate" && operationOf(n) != "wake" })
		name := all[random.IntN(len(all))]
		hs.t.Logf("at %s", name)
		qt.Assert(hs.t, qt.IsNil(w.RestartDaemon(ctx, syscall.SIGKILL, host.Daemon{Env: gate.Env(gate.Kill(name))})))
		w.Dial()
		w.CLI("hibernate", "peer-"+w.Name()) // nobody answers if it dies at once; it wakes by itself
		short, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		if _, err := w.WaitDaemon(short); err != nil {
			hs.t.Logf("the daemon did not come to %s: nobody talks to the app now", name)
		}
		qt.Assert(hs.t, qt.IsNil(w.RestartDaemon(ctx, syscall.SIGKILL, host.Daemon{})))
		w.Dial()
	}},
	{"can't talk to other hosts' daemons, while packets get through", func(ctx context.Context, hs *hosts, w *World, random *rand.Rand) {
		nft := func(text string) {
			out, err := w.Command(ctx, "nft", text).CombinedOutput()
			qt.Assert(hs.t, qt.IsNil(err), qt.Commentf("%s", out))
		}
		nft(`table inet mishap { chain in { type filter hook input priority -300; tcp dport 7077-7079 drop; tcp sport 7077-7079 drop; }; }`)
		w.pause(random, 5*time.Second)
		nft(`delete table inet mishap`)
	}},
}

// set has channels of a host be of a kind. Those to a host that can't be reached now change later.
func (hs *hosts) set(w *World, kind string) {
	hs.t.Helper()
	if r := w.CLI("host", "set", "--channel", kind); r.Code != 0 {
		qt.Check(hs.t, qt.StringContains(r.Stderr, "not all that are up could be changed"))
	}
}

// know waits until all hosts know of all members, or those that are named do: an app that is new is not
// found by another host until the directory has it.
func (hs *hosts) know(members []traffic.Member, worlds ...*World) {
	hs.t.Helper()
	if len(worlds) == 0 {
		worlds = hs.worlds
	}
	for _, w := range worlds {
		for _, m := range members {
			w.Until(w.Name()+" knows "+m.Name, func() error {
				if r := w.CLI("vem", "resolve", m.Addr.String()); r.Code != 0 {
					return errors.New(r.Stderr)
				}
				return nil
			})
		}
	}
}

// directories are the processes of a host's members of the directory: those whose folder is the
// host's.
func (hs *hosts) directories(w *World) (pids []int) {
	hs.t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	qt.Assert(hs.t, qt.IsNil(err))
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err != nil { // it has ended
			continue
		}
		args := strings.Split(string(line), "\x00")
		if filepath.Base(args[0]) != "snapctl-directory" || !strings.Contains(string(line), w.StateDir()) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		qt.Assert(hs.t, qt.IsNil(err))
		pids = append(pids, pid)
	}
	return pids
}

// TestInstallationByChance draws what goes wrong on the underlay, and what happens to hosts
// meanwhile, while many connections and flows go between apps of all hosts.
func TestInstallationByChance(t *testing.T) {
	rounds, random := rounds(t, 6), seeded(t)
	names, draw, connections, flows := []string{"alpha", "beta", "gamma"}, mishaps, 4, 1
	long := os.Getenv(Rounds) != ""
	if long {
		names, draw, connections, flows = append(names, "delta", "epsilon"), append(draw, hard...), 8, 2
	}
	hs := newInstallation(t, names...)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute+time.Duration(rounds)*time.Minute)
	defer cancel()
	qt.Check(t, qt.HasLen(hs.directories(hs.worlds[0]), 1))
	var members []traffic.Member
	for i := range hs.worlds {
		members = append(members, hs.endpoint(i))
	}
	hs.know(members)
	pairs := traffic.Everyone(members, connections, flows)
	if long { // 160 connections and 40 flows, 40 and 10 with a stranger, and 20 and 5 with a machine behind a gateway
		doors, open := hs.doors()
		_, machine := hs.office()
		for _, w := range hs.worlds {
			open = append(open, traffic.Pair{From: machine.Name, To: w.Name(), Connections: 4, Flows: 1})
		}
		members, pairs = append(append(members, doors...), machine), append(pairs, open...)
	}
	mesh, err := traffic.Start(ctx, traffic.Plan{Members: members, Pairs: pairs, Pattern: peer.Pattern{MaxPause: 100 * time.Millisecond}})
	qt.Assert(t, qt.IsNil(err))
	for n := range rounds {
		d, err := hs.net.Disturb(ctx, random)
		qt.Assert(t, qt.IsNil(err))
		w, o := hs.worlds[random.IntN(len(hs.worlds))], draw[random.IntN(len(draw))]
		t.Logf("%d: %v, and %s %s", n, d, w.Name(), o.what)
		o.do(ctx, hs, w, random)
		w.pause(random, 500*time.Millisecond)
		qt.Assert(t, qt.IsNil(d.End(ctx)))
		hs.goesOn(mesh, qt.Commentf("after: %v, and %s %s", d, w.Name(), o.what))
	}
	hs.best()
	hs.goesOn(mesh, qt.Commentf("after: all have channels of the best kind"))
	hs.unharmed(ctx, mesh)
	if long {
		hs.ok(hs.worlds[1], "host", "gateway", "off") // and with it what the host forwards
	}
}

// best has all hosts have channels of the best kind again, and waits until they do: what a host has for
// channels of another kind goes with the last of them. One that can't be reached now changes later, and a
// kind that did not come up is tried again after some minutes.
func (hs *hosts) best() {
	hs.t.Helper()
	for _, w := range hs.worlds {
		hs.set(w, "auto")
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(4 * time.Minute); ; <-tick.C {
		other := ""
		for _, w := range hs.worlds {
			if text := hs.ok(w, "vem", "channels").Stdout; strings.Contains(text, "vxlan") || strings.Contains(text, "wireguard") {
				other += w.Name() + ": " + text
			}
		}
		if other == "" {
			return
		}
		qt.Assert(hs.t, qt.IsTrue(time.Now().Before(deadline)), qt.Commentf("%s", other))
	}
}

// goesOn waits until each connection and flow goes on.
func (hs *hosts) goesOn(mesh *traffic.Mesh, why qt.Comment) {
	hs.t.Helper()
	ctx, cancel := context.WithTimeout(hs.t.Context(), 4*time.Minute)
	defer cancel()
	if err := mesh.Progress(ctx); err != nil {
		for _, w := range hs.worlds {
			hs.t.Logf("%s: %s", w.Name(), w.CLI("vem", "channels").Stdout)
		}
		qt.Assert(hs.t, qt.IsNil(err), why)
	}
}

// doors are apps of all hosts at ports of their hosts, and a stranger that talks to them.
func (hs *hosts) doors() (members []traffic.Member, pairs []traffic.Pair) {
	stranger := hs.stranger("stranger", hs.lan)
	members = append(members, stranger)
	for i, w := range hs.worlds {
		door := hs.published(i, "door-"+w.Name())
		door.Name = "door of " + w.Name()
		members = append(members, door)
		pairs = append(pairs,
			traffic.Pair{From: stranger.Name, To: door.Name, Connections: 4, Flows: 1}, traffic.Pair{From: door.Name, To: stranger.Name, Connections: 4, Flows: 1})
	}
	return members, pairs
}
