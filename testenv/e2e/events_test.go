package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/host"
)

// metricsPath is where the daemon serves metrics, as the host knows it.
const metricsPath = "/run/snapctl/metrics.sock"

// restartWithMetrics ends the daemon by a signal, and starts one that serves metrics.
func (w *World) restartWithMetrics(sig unix.Signal) {
	w.t.Helper()
	qt.Assert(w.t, qt.IsNil(w.RestartDaemon(w.t.Context(), sig, host.Daemon{Args: []string{"--metrics", "unix:" + metricsPath}})))
	w.Dial()
}

// metrics reads the daemon's metrics, which are there when the daemon answers.
func (w *World) metrics() string {
	w.t.Helper()
	c := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", w.Outside(metricsPath))
		},
	}}
	resp, err := c.Get("http://snapctld/metrics")
	qt.Assert(w.t, qt.IsNil(err))
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	qt.Assert(w.t, qt.IsNil(err))
	return string(b)
}

// shows fails unless there is each of these lines.
func (w *World) shows(metrics string, lines ...string) {
	w.t.Helper()
	for _, l := range lines {
		qt.Check(w.t, qt.StringContains("\n"+metrics, "\n"+l+"\n"))
	}
}

// happening is what a test reads of an event.
type happening struct {
	Number    uint64
	Type      string
	Operation string
	Reason    string
	Ended     struct {
		Complete bool
		TookUS   int64            `json:"took_us"`
		FrozenUS int64            `json:"frozen_us"`
		StepsUS  map[string]int64 `json:"steps_us"`
	}
}

// follow begins `snapctl events --follow`, and returns what reads its next event, and what
// interrupts it.
func (w *World) follow(args ...string) (next func() happening, interrupt func()) {
	w.t.Helper()
	path, err := w.Install(w.t.Context(), "snapctl")
	qt.Assert(w.t, qt.IsNil(err))
	cmd := w.Command(w.t.Context(), path, append([]string{"events", "--follow", "--output", "json"}, args...)...)
	out, err := cmd.StdoutPipe()
	qt.Assert(w.t, qt.IsNil(err))
	cmd.Stderr = os.Stderr
	qt.Assert(w.t, qt.IsNil(cmd.Start()))
	d := json.NewDecoder(out)
	next = func() (h happening) {
		w.t.Helper()
		qt.Assert(w.t, qt.IsNil(d.Decode(&h)))
		return h
	}
	return next, func() {
		qt.Check(w.t, qt.IsNil(cmd.Process.Signal(unix.SIGINT)))
		left, err := io.ReadAll(io.MultiReader(d.Buffered(), out))
		qt.Check(w.t, qt.IsNil(err))
		qt.Check(w.t, qt.Equals(strings.TrimSpace(string(left)), ""), qt.Commentf("events that should not be"))
		qt.Check(w.t, qt.IsNil(cmd.Wait()))
	}
}

// TestEvents has an app run, hibernate, be woken by traffic and removed. Who follows is told
// each of that once and in order, who comes late as well, and the metrics count it.
func TestEvents(t *testing.T) {
	w := New(t)
	w.restartWithMetrics(unix.SIGTERM)
	info, err := os.Lstat(w.Outside(metricsPath))
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(info.Mode(), fs.ModeSocket|0o600))

	next, interrupt := w.follow("--filter", "app=cache")
	w.actor(&api.RunRequest{Name: "cache", Endpoint: actorEndpoint})
	c := w.caller(actorEndpoint)
	qt.Assert(t, qt.Equals(c.ask("echo here"), "here"))
	r := w.Hibernate("cache")
	w.shows(w.metrics(),
		`snapctl_apps{status="held"} 1`, `snapctl_operations_total{operation="hibernate",outcome="ok"} 1`,
		`snapctl_freeze_duration_seconds_count{operation="hibernate"} 1`, fmt.Sprintf("snapctl_held_sockets %d", r.GetApp().GetHeldSockets()))
	qt.Check(t, qt.IsTrue(r.GetApp().GetHeldSockets() > 0))
	qt.Assert(t, qt.Equals(c.ask("echo woken"), "woken"))
	w.Running("cache")

	type said struct{ Type, Operation, Reason string }
	expect := func(want ...said) (last happening) {
		t.Helper()
		for _, s := range want {
			number := last.Number
			last = next()
			qt.Assert(t, qt.Equals(said{last.Type, last.Operation, last.Reason}, s))
			qt.Assert(t, qt.IsTrue(last.Number > number))
		}
		return last
	}
	expect(said{"begun", "run", ""}, said{"ended", "run", ""}, said{"begun", "hibernate", ""})
	ended := expect(said{"ended", "hibernate", ""})
	qt.Check(t, qt.IsTrue(ended.Ended.Complete))
	qt.Check(t, qt.Equals(ended.Ended.TookUS, r.GetTotalUs()))
	qt.Check(t, qt.Equals(ended.Ended.FrozenUS, r.GetFrozenUs()))
	qt.Check(t, qt.DeepEquals(ended.Ended.StepsUS, r.GetStepsUs()))
	expect(said{"begun", "wake", "data"}, said{"woken", "", "data"}, said{"ended", "wake", "data"})
	w.shows(w.metrics(),
		`snapctl_apps{status="running"} 1`, `snapctl_wakes_total{reason="data"} 1`, `snapctl_held_sockets 0`,
		`snapctl_operations_total{operation="wake",outcome="ok"} 1`)

	// It is refused, which is told too.
	err = w.API.Remove(t.Context(), &api.RemoveRequest{Name: "cache"})
	qt.Assert(t, qt.IsNotNil(err))
	expect(said{"begun", "remove", ""})
	qt.Check(t, qt.IsFalse(expect(said{"ended", "remove", ""}).Ended.Complete))
	qt.Assert(t, qt.IsNil(w.API.Remove(t.Context(), &api.RemoveRequest{Name: "cache", Force: true})))
	expect(said{"begun", "remove", ""}, said{"removed", "", ""}, said{"ended", "remove", ""})
	interrupt()

	late, err := w.Snapctl(t.Context(), "events", "--output", "json", "--filter", "type=woken")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(strings.Count(late.Stdout, "\n"), 1))
	qt.Check(t, qt.StringContains(late.Stdout, `"app":"cache","reason":"data"`))

	// The socket of a daemon that was killed is no obstacle; one that ends takes it along.
	w.restartWithMetrics(unix.SIGKILL)
	w.shows(w.metrics(), `snapctl_operations_total{operation="wake",outcome="ok"} 0`)
	qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), unix.SIGTERM, host.Daemon{})))
	w.Dial()
	_, err = os.Lstat(w.Outside(metricsPath))
	qt.Check(t, qt.IsTrue(errors.Is(err, fs.ErrNotExist)))
}
