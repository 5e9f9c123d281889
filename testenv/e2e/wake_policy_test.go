package e2e

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/runtime/api"
)

const (
	actorEndpoint = "10.77.0.30"
	actorPort     = actorEndpoint + ":7000"
)

// wakeReason proves that traffic woke the app exactly once, and why.
func (w *World) wakeReason(app, reason string) {
	w.t.Helper()
	w.Running(app)
	var reasons []string
	for line := range strings.Lines(w.DaemonLog()) {
		if strings.Contains(line, "traffic wakes app") && strings.Contains(line, "app="+app+" ") {
			_, text, _ := strings.Cut(line, "reason=")
			reasons = append(reasons, strings.TrimSpace(text))
		}
	}
	qt.Assert(w.t, qt.DeepEquals(reasons, []string{reason}))
}

// TestWakePolicies tries each policy of waking on traffic. Each app has its own
// name, for the log to tell its wakes.
func TestWakePolicies(t *testing.T) {
	w := New(t)
	tests := map[string]struct {
		policy *api.WakePolicy
		try    func(w *World, app string, old *caller)
	}{
		"data-not-probe": {&api.WakePolicy{SilentAfter: durationpb.New(0)}, func(w *World, app string, old *caller) {
			for range 3 {
				w.caller(actorEndpoint).close()
			}
			w.caller(actorEndpoint) // stays, silent
			w.Asleep(app)
			fresh := w.caller(actorEndpoint)
			qt.Assert(w.t, qt.Equals(fresh.ask("echo hello"), "hello"))
			w.wakeReason(app, "data")
			qt.Assert(w.t, qt.Equals(old.ask("echo old"), "old"))
		}},
		"silent": {nil, func(w *World, app string, old *caller) {
			w.caller(actorEndpoint).close()
			w.Asleep(app)
			fresh := w.caller(actorEndpoint) // stays, and waits for the app to speak
			w.wakeReason(app, "silent")
			qt.Assert(w.t, qt.Equals(fresh.ask("echo hello"), "hello"))
			qt.Assert(w.t, qt.Equals(old.ask("echo old"), "old"))
		}},
		"silent-ignored": {&api.WakePolicy{Ignore: []string{"::ffff:10.77.0.1"}, SilentAfter: durationpb.New(time.Millisecond)}, func(w *World, app string, old *caller) {
			w.caller(actorEndpoint)
			w.Asleep(app)
			w.Wake(app)
			qt.Assert(w.t, qt.Equals(old.ask("echo old"), "old"))
		}},
		"data-not-close": {nil, func(w *World, app string, old *caller) {
			old.close()
			w.Asleep(app)
			qt.Assert(w.t, qt.Equals(w.caller(actorEndpoint).ask("echo hello"), "hello"))
			w.wakeReason(app, "data")
		}},
		"data-on-old-connection": {nil, func(w *World, app string, old *caller) {
			qt.Assert(w.t, qt.Equals(old.ask("echo hello"), "hello"))
			w.wakeReason(app, "data")
		}},
		"min-bytes": {&api.WakePolicy{MinBytes: 20}, func(w *World, app string, old *caller) {
			old.send("echo 1")
			fresh := w.caller(actorEndpoint)
			fresh.send("echo 2")
			w.Asleep(app)
			fresh.send("echo 34567890123456789")
			qt.Assert(w.t, qt.Equals(fresh.answer(), "2"))
			qt.Assert(w.t, qt.Equals(fresh.answer(), "34567890123456789"))
			qt.Assert(w.t, qt.Equals(old.answer(), "1"))
			w.wakeReason(app, "data")
		}},
		"ignore": {&api.WakePolicy{Ignore: []string{"10.77.0.1/32"}}, func(w *World, app string, old *caller) {
			fresh := w.caller(actorEndpoint)
			fresh.send("echo fresh")
			old.send("echo old")
			answer := w.datagram(actorPort, "x")
			w.Asleep(app)
			// Another app is not ignored.
			w.actor(&api.RunRequest{Name: "other", Endpoint: "10.77.0.31"})
			other := w.caller("10.77.0.31")
			qt.Assert(w.t, qt.Equals(other.ask("dial tcp %s echo other", actorPort), "other"))
			w.wakeReason(app, "data")
			qt.Assert(w.t, qt.Equals(fresh.answer(), "fresh"))
			qt.Assert(w.t, qt.Equals(old.answer(), "old"))
			qt.Assert(w.t, qt.Equals(echoed(w.t, answer), "echo x"))
		}},
		"connect": {&api.WakePolicy{Mode: api.WakeMode_WAKE_MODE_ON_CONNECT}, func(w *World, app string, _ *caller) {
			fresh := w.caller(actorEndpoint)
			w.wakeReason(app, "connect")
			qt.Assert(w.t, qt.Equals(fresh.ask("echo hello"), "hello"))
		}},
		"connect-close": {&api.WakePolicy{Mode: api.WakeMode_WAKE_MODE_ON_CONNECT}, func(w *World, app string, old *caller) {
			old.close()
			w.wakeReason(app, "closed")
		}},
		"never": {&api.WakePolicy{Mode: api.WakeMode_WAKE_MODE_NEVER}, func(w *World, app string, old *caller) {
			fresh := w.caller(actorEndpoint)
			fresh.send("echo fresh")
			old.send("echo old")
			answer := w.datagram(actorPort, "x")
			w.Asleep(app)
			w.Wake(app)
			qt.Assert(w.t, qt.Equals(fresh.answer(), "fresh"))
			qt.Assert(w.t, qt.Equals(old.answer(), "old"))
			qt.Assert(w.t, qt.Equals(echoed(w.t, answer), "echo x"))
		}},
		"datagram": {nil, func(w *World, app string, _ *caller) {
			answer := w.datagram(actorPort, "hello")
			qt.Assert(w.t, qt.Equals(echoed(w.t, answer), "echo hello"))
			w.wakeReason(app, "datagram")
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			w.actor(&api.RunRequest{Name: name, Endpoint: actorEndpoint, Wake: test.policy})
			old := w.caller(actorEndpoint)
			qt.Assert(t, qt.Equals(old.ask("echo before"), "before"))
			w.Hibernate(name)
			test.try(w, name, old)
		})
	}
}

// TestWakeIPv6 talks to the IPv6 address of an app, which was made beside its
// IPv4 one.
func TestWakeIPv6(t *testing.T) {
	w := New(t)
	endpoint := w.actor(&api.RunRequest{
		Name: "six", Endpoint: actorEndpoint, Wake: &api.WakePolicy{SilentAfter: durationpb.New(0)},
	}).GetEndpoint6()
	old := w.caller(endpoint)
	qt.Assert(t, qt.Equals(old.ask("echo before"), "before"))

	w.Hibernate("six")
	fresh := w.caller(endpoint)
	w.caller(endpoint).close()
	w.Asleep("six")
	qt.Assert(t, qt.Equals(fresh.ask("echo fresh"), "fresh"))
	w.wakeReason("six", "data")
	qt.Assert(t, qt.Equals(old.ask("echo old"), "old"))
	host, _, err := net.SplitHostPort(old.conn.LocalAddr().String())
	qt.Assert(t, qt.IsNil(err))
	seen, _, err := net.SplitHostPort(old.ask("peer"))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(seen, host))

	w.Hibernate("six")
	answer := w.datagram(net.JoinHostPort(endpoint, "7000"), "six")
	qt.Assert(t, qt.Equals(echoed(t, answer), "echo six"))
}

// TestHeldPeers has many peers come and go while the app is held.
func TestHeldPeers(t *testing.T) {
	w := New(t)
	w.actor(&api.RunRequest{Name: "held", Endpoint: actorEndpoint, Wake: &api.WakePolicy{Mode: api.WakeMode_WAKE_MODE_NEVER}})
	closes, resets, half, stays := w.caller(actorEndpoint), w.caller(actorEndpoint), w.caller(actorEndpoint), w.caller(actorEndpoint)
	for _, c := range []*caller{closes, resets, half, stays} {
		qt.Assert(t, qt.Equals(c.ask("echo before"), "before"))
	}
	w.Hibernate("held")
	closes.send("say last words")
	closes.close()
	qt.Assert(t, qt.IsNil(resets.conn.(*net.TCPConn).SetLinger(0)))
	resets.close()
	half.send("echo half")
	qt.Assert(t, qt.IsNil(half.conn.(*net.TCPConn).CloseWrite()))
	var fresh []*caller
	for i := range 60 {
		c := w.caller(actorEndpoint)
		c.send("echo fresh %d", i)
		fresh = append(fresh, c)
	}
	answers := make([]net.Conn, 20)
	for i := range answers {
		answers[i] = w.datagram(actorPort, fmt.Sprint("datagram ", i))
	}
	w.Asleep("held")

	w.Wake("held")
	for i, c := range fresh {
		qt.Assert(t, qt.Equals(c.answer(), fmt.Sprint("fresh ", i)))
	}
	for i, conn := range answers {
		qt.Assert(t, qt.Equals(echoed(t, conn), fmt.Sprint("echo datagram ", i)))
	}
	qt.Assert(t, qt.Equals(half.answer(), "half"))
	qt.Assert(t, qt.Equals(stays.ask("echo stays"), "stays"))
	w.Until("ends of connections reach the app", func() error {
		resp, err := w.API.VemTable(t.Context(), &api.VemTableRequest{App: "held"})
		qt.Assert(t, qt.IsNil(err))
		open := 0
		for _, r := range resp {
			if r.GetState() != "LISTEN" && r.GetProtocol() == "tcp" && r.GetInode() != 0 {
				open++
			}
		}
		if want := len(fresh) + 1; open != want { // those that stay
			return fmt.Errorf("%d connections are open, want %d", open, want)
		}
		return nil
	})
	log, err := w.Snapctl(t.Context(), "logs", "held")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.StringContains(log.Stdout, "last words"))
}
