package wireguard_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

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
