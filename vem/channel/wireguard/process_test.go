package wireguard_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/channel/wireguard"
)

// processes are those that do WireGuard for this test.
func processes(t *testing.T) (pids []int) {
	t.Helper()
	lists, err := filepath.Glob("/proc/self/task/*/children")
	qt.Assert(t, qt.IsNil(err))
	for _, name := range lists {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // the thread has ended
		}
		for text := range strings.FieldsSeq(string(b)) {
			line, _ := os.ReadFile("/proc/" + text + "/cmdline")
			if pid, err := strconv.Atoi(text); err == nil && strings.Contains(string(line), "\x00wireguard\x00") {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

func inUserSpace(t *testing.T) wireguard.Local {
	t.Helper()
	exe, err := os.Executable()
	qt.Assert(t, qt.IsNil(err))
	return wireguard.Local{Exe: exe, UserSpace: true}
}

// A process ends, whoever ends it, and another one does its work: connections go on.
func TestProcessEnds(t *testing.T) {
	w := newWorld(t, inUserSpace(t), 1500, "192.0.2.0/24")
	w.use(0)
	a, b := w.attach(w.alpha, 2), w.attach(w.beta, 3)
	b.serve(t)
	l := load(t, a, b.ep.Addr4, streams)
	moved(t, l, 1<<20)
	before := processes(t)
	qt.Assert(t, qt.HasLen(before, 2))
	for _, pid := range before {
		qt.Assert(t, qt.IsNil(unix.Kill(pid, unix.SIGKILL)))
		moved(t, l, 1<<20)
	}
	for _, pid := range processes(t) {
		for _, old := range before {
			qt.Check(t, qt.Not(qt.Equals(pid, old)))
		}
	}
	stop(t, l)
	for _, p := range []*place{w.alpha, w.beta} {
		qt.Assert(t, qt.IsNil(p.m.RemoveHost(t.Context(), w.other(p).Name())))
	}
	none(t)
	sockets, err := filepath.Glob(fmt.Sprintf("/var/run/wireguard/snapctl-%d*", w.alpha.f.Namespace().Inode()))
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(sockets, 0))
}

// A process does not end, but does nothing any more: another one does its work, with the same keys,
// port and peers, and connections go on.
func TestProcessHangs(t *testing.T) {
	w := newWorld(t, inUserSpace(t), 1500, "192.0.2.0/24")
	w.use(0)
	a, b := w.attach(w.alpha, 2), w.attach(w.beta, 3)
	b.serve(t)
	l := load(t, a, b.ep.Addr4, streams)
	moved(t, l, 1<<20)
	before := w.known()
	hung := processes(t)
	qt.Assert(t, qt.HasLen(hung, 2))
	for _, pid := range hung {
		testenv.StopProcess(t, pid)
	}
	for _, pid := range hung {
		gone(t, pid)
	}
	moved(t, l, 1<<20)
	stop(t, l)
	qt.Check(t, qt.DeepEquals(w.known(), before))
	for _, to := range b.both() {
		l := load(t, a, to, datagrams)
		moved(t, l, datagrams.bytes)
		stop(t, l)
	}
}

// known is what both hosts have of each other, and tell each other.
func (w *world) known() (list []string) {
	w.t.Helper()
	for _, p := range []*place{w.alpha, w.beta} {
		port, key, err := p.m.Offer(w.t.Context())
		qt.Assert(w.t, qt.IsNil(err))
		hosts, err := p.m.Hosts(w.t.Context())
		qt.Assert(w.t, qt.IsNil(err))
		routes, err := p.m.Routes(w.t.Context())
		qt.Assert(w.t, qt.IsNil(err))
		slices.SortFunc(routes, func(a, b channel.Route) int { return a.Addr.Compare(b.Addr) })
		list = append(list, fmt.Sprintf("%d %x %v %v", port, key, hosts, routes))
	}
	return list
}

// A daemon starts, and the process that an earlier one has left does nothing any more: it is ended,
// and the way is made anew when it is asked for.
func TestProcessHangsAtStart(t *testing.T) {
	w := newWorld(t, inUserSpace(t), 1500, "192.0.2.0/24")
	w.use(0)
	a, b := w.attach(w.alpha, 2), w.attach(w.beta, 3)
	b.serve(t)
	w.alpha.close(t)
	hung := slices.DeleteFunc(processes(t), func(pid int) bool { return !w.alpha.has(pid) })
	qt.Assert(t, qt.HasLen(hung, 1))
	testenv.StopProcess(t, hung[0])
	w.alpha.open(t)
	hosts, err := w.alpha.m.Hosts(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(hosts, 0))
	gone(t, hung[0])
	qt.Assert(t, qt.IsNil(w.alpha.m.SetUnderlay(t.Context(), w.underlay(w.alpha))))
	w.use(0)
	w.route(w.beta, b.ep, channel.Open)
	l := load(t, a, b.ep.Addr4, streams)
	moved(t, l, 1<<18)
	stop(t, l)
}

// has tells whether a process is in the network namespace of the host.
func (p *place) has(pid int) bool {
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	return err == nil && link == fmt.Sprintf("net:[%d]", p.Net().Inode())
}

// gone waits for the end of a process.
func gone(t *testing.T, pid int) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for tick := time.Tick(time.Millisecond); slices.Contains(processes(t), pid); <-tick {
		if time.Now().After(deadline) {
			t.Fatalf("process %d, which hangs, is still there", pid)
		}
	}
}

// none waits until no process is left.
func none(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for tick := time.Tick(time.Millisecond); len(processes(t)) > 0; <-tick {
		if time.Now().After(deadline) {
			t.Fatalf("processes %v are left", processes(t))
		}
	}
}
