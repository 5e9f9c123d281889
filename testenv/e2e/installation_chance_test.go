package e2e

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

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
	{"has its app sleep", func(_ context.Context, _ *hosts, w *World, _ *rand.Rand) { w.Hibernate("peer-" + w.Name()) }},
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
	{"has channels of another kind", func(_ context.Context, hs *hosts, w *World, random *rand.Rand) {
		for _, other := range hs.worlds { // two hosts that are to have different kinds have none
			hs.set(other, "auto")
		}
		kinds := []string{"auto", "direct", "tunnel", "vxlan", "wireguard"}
		hs.set(w, kinds[random.IntN(len(kinds))])
	}},
}

// set has channels of a host be of a kind. Those to a host that can't be reached now change later.
func (hs *hosts) set(w *World, kind string) {
	hs.t.Helper()
	if r := w.CLI("host", "set", "--channel", kind); r.Code != 0 {
		qt.Check(hs.t, qt.StringContains(r.Stderr, "not all that are up could be changed"))
	}
}

// know waits until all hosts know of all members: an app that is new is not found by another host
// until the directory has it.
func (hs *hosts) know(members []traffic.Member) {
	hs.t.Helper()
	for _, w := range hs.worlds {
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
	names, connections, flows := []string{"alpha", "beta", "gamma"}, 4, 1
	if rounds >= 100 {
		names, connections, flows = append(names, "delta", "epsilon"), 8, 2 // 160 connections, 40 flows
	}
	hs := newInstallation(t, names...)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute+time.Duration(rounds)*30*time.Second)
	defer cancel()
	qt.Check(t, qt.HasLen(hs.directories(hs.worlds[0]), 1))
	var members []traffic.Member
	for i := range hs.worlds {
		members = append(members, hs.endpoint(i))
	}
	hs.know(members)
	mesh, err := traffic.Start(ctx, traffic.Plan{
		Members: members, Pairs: traffic.Everyone(members, connections, flows), Pattern: peer.Pattern{MaxPause: 100 * time.Millisecond},
	})
	qt.Assert(t, qt.IsNil(err))
	for range rounds {
		d, err := hs.net.Disturb(ctx, random)
		qt.Assert(t, qt.IsNil(err))
		w, o := hs.worlds[random.IntN(len(hs.worlds))], mishaps[random.IntN(len(mishaps))]
		t.Logf("%v, and %s %s", d, w.Name(), o.what)
		o.do(ctx, hs, w, random)
		w.pause(random, 500*time.Millisecond)
		qt.Assert(t, qt.IsNil(d.End(ctx)))
		qt.Assert(t, qt.IsNil(mesh.Progress(ctx)), qt.Commentf("after: %v, and %s %s", d, w.Name(), o.what))
	}
	hs.unharmed(ctx, mesh)
}
