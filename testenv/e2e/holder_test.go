package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/host"
)

// holderPID is the process that keeps the sockets, as its users find it.
func (w *World) holderPID() int {
	w.t.Helper()
	var v struct {
		Daemon struct {
			HolderPID int `json:"holder_pid"`
		} `json:"daemon"`
	}
	qt.Assert(w.t, qt.IsNil(json.Unmarshal([]byte(w.OK("version", "-o", "json")), &v)))
	return v.Daemon.HolderPID
}

// killHolder kills the holder and waits until it is gone, and not until there is
// another one.
func (w *World) killHolder() {
	w.t.Helper()
	pid := w.holderPID()
	qt.Assert(w.t, qt.IsTrue(pid > 1))
	w.kill(pid)
}

func (w *World) kill(pid int) {
	w.t.Helper()
	qt.Assert(w.t, qt.IsNil(syscall.Kill(pid, syscall.SIGKILL)))
	w.Until(fmt.Sprintf("process %d has ended", pid), func() error {
		if state := procFile(pid, "stat"); state != "" && !strings.Contains(state, ") Z ") {
			return fmt.Errorf("it is there: %s", state)
		}
		return nil
	})
}

// holderKeeps waits until a holder keeps so much, as doctor says it.
func (w *World) holderKeeps(what string) {
	w.t.Helper()
	w.Until("a holder keeps "+what, func() error {
		checks, err := w.API.Doctor(w.t.Context())
		if err != nil {
			return err
		}
		for _, c := range checks {
			if c.GetName() == "holder" && strings.HasSuffix(c.GetFound(), " "+what) {
				return nil
			}
		}
		return fmt.Errorf("%v", checks)
	})
}

// TestHolderOutlivesDaemons ends daemons as systemd does with KillMode=process,
// and as a crash does: it is the same holder all the time.
func TestHolderOutlivesDaemons(t *testing.T) {
	w := New(t, "redis-server")
	w.Run(redisRequest("cache", "10.77.0.7"))
	client := w.redis("10.77.0.7")
	holder := w.holderPID()
	for i, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL, syscall.SIGTERM} {
		qt.Assert(t, qt.Equals(client.do("INCR n"), fmt.Sprintf(":%d", i+1)))
		w.Running("cache")
		w.Hibernate("cache")
		qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), sig, host.Daemon{})))
		w.Dial()
		qt.Assert(t, qt.Equals(w.holderPID(), holder))
	}
	qt.Assert(t, qt.Equals(client.do("INCR n"), ":4"))
	w.Running("cache")
}

// TestHolderIsKilled kills the holder of a hibernated app, and then the daemon,
// which has given all to another holder meanwhile.
func TestHolderIsKilled(t *testing.T) {
	w := New(t, "redis-server")
	w.Run(redisRequest("cache", "10.77.0.7"))
	clients := []*redis{w.redis("10.77.0.7"), w.redis("10.77.0.7"), w.redis("10.77.0.7")}
	for i, c := range clients {
		qt.Assert(t, qt.Equals(c.do("INCR n"), fmt.Sprintf(":%d", i+1)))
	}
	clients[1].send("BLPOP queue 0")
	qt.Assert(t, qt.Equals(clients[0].do("SET a 1"), "+OK"))
	held := w.Hibernate("cache").GetApp().GetHeldSockets()
	qt.Assert(t, qt.IsTrue(held >= 4), qt.Commentf("%d", held))

	// The second one is ended by a daemon whose child it is not.
	for range 2 {
		old := w.holderPID()
		w.killHolder()
		w.holderKeeps(fmt.Sprintf("%d descriptors of 1 apps", held))
		qt.Assert(t, qt.Not(qt.Equals(w.holderPID(), old)))
		qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), syscall.SIGKILL, host.Daemon{})))
		w.Dial()
		a := w.Show("cache")
		qt.Assert(t, qt.Equals(a.GetStatus(), api.Status_STATUS_HELD))
		qt.Assert(t, qt.Equals(a.GetHeldSockets(), held))
		qt.Assert(t, qt.Equals(a.GetError(), ""))
	}

	qt.Assert(t, qt.Equals(clients[2].do("INCR n"), ":4")) // wakes it
	qt.Assert(t, qt.Equals(clients[0].do("RPUSH queue job"), ":1"))
	for _, want := range []string{"*2", "$5", "queue", "$3", "job"} {
		qt.Assert(t, qt.Equals(clients[1].line(), want))
	}
	w.Running("cache")
	w.holderKeeps("0 descriptors of 0 apps")
}

// TestHolderIsKilledBeforeEachOperation has hibernations and wakes find no holder:
// they wait for another one, and lose nothing.
func TestHolderIsKilledBeforeEachOperation(t *testing.T) {
	w := New(t, "redis-server")
	w.Run(redisRequest("cache", "10.77.0.7"))
	old := w.redis("10.77.0.7")
	for round := range 3 {
		w.killHolder()
		w.Hibernate("cache")
		fresh := w.redis("10.77.0.7") // not accepted before the wake
		w.killHolder()
		if round == 1 {
			w.Wake("cache")
		}
		qt.Assert(t, qt.Equals(old.do("INCR n"), fmt.Sprintf(":%d", 2*round+1)))
		qt.Assert(t, qt.Equals(fresh.do("INCR n"), fmt.Sprintf(":%d", 2*round+2)))
		w.Running("cache")
	}
	w.holderKeeps("0 descriptors of 0 apps")
}

// TestHolderAndDaemonAreKilled loses what was held: the next daemon says so, and
// the app is woken from its images.
func TestHolderAndDaemonAreKilled(t *testing.T) {
	w := New(t, "redis-server")
	w.Run(redisRequest("cache", "10.77.0.7"))
	client := w.redis("10.77.0.7")
	qt.Assert(t, qt.Equals(client.do("INCR n"), ":1"))
	w.Hibernate("cache")
	holder := w.holderPID()
	qt.Assert(t, qt.IsNil(w.KillDaemon(t.Context(), syscall.SIGKILL)))
	w.kill(holder)
	for range 2 { // a daemon that was told by an earlier one says the same
		qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), syscall.SIGKILL, host.Daemon{})))
		w.Dial()
		a := w.Show("cache")
		qt.Assert(t, qt.Equals(a.GetStatus(), api.Status_STATUS_HELD))
		qt.Assert(t, qt.Equals(a.GetHeldSockets(), int32(0)))
		qt.Assert(t, qt.Equals(a.GetError(), "the sockets of app cache are lost: snapctld and its holder both ended meanwhile: "+
			"no traffic wakes it, and when it is woken its connections are reset"))
		qt.Assert(t, qt.Equals(a.GetHint(), "wake it by command: snapctl wake cache"))
		qt.Assert(t, qt.StringContains(w.DaemonLog(), "the sockets of app cache are lost"))
	}
	_, err := client.in.ReadString('\n')
	qt.Assert(t, qt.IsNotNil(err)) // its connection has ended

	r := w.CLI("wake", "cache")
	qt.Assert(t, qt.Equals(r.Code, 6))
	qt.Assert(t, qt.StringContains(r.Stdout, "\n  1 socket reset: snapctld and its holder both ended meanwhile\n    tcp 10.77.0.7:6379 <- "+client.conn.LocalAddr().String()+"\n"))
	qt.Assert(t, qt.Equals(w.redis("10.77.0.7").do("INCR n"), ":2"))
	qt.Assert(t, qt.Equals(w.Show("cache").GetError(), ""))
	qt.Assert(t, qt.HasLen(w.Hibernate("cache").GetSockets(), 0))
	qt.Assert(t, qt.HasLen(w.Wake("cache").GetSockets(), 0))
	qt.Assert(t, qt.Equals(w.redis("10.77.0.7").do("INCR n"), ":3"))
}
