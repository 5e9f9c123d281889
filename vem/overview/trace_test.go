package overview

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"
)

var (
	here  = netip.MustParseAddr("10.77.0.7")
	there = netip.MustParseAddr("10.77.64.2")
)

// fakeGuide knows a host with app cache, this one, and host b with app db, and the way there.
type fakeGuide struct {
	endpoints []Resolution
	trouble   error
	resolve   error
	networks  map[string][]netip.Prefix
	control   Control
	said      *Resolution // by the owner; nil: what the directory says
	ask       error
	channels  error
	echo      func(g *fakeGuide, size Size) error

	mu      sync.Mutex // guards what follows
	channel Channel
}

func newGuide() *fakeGuide {
	return &fakeGuide{
		endpoints: []Resolution{
			{Network: "default", App: "cache", Addr4: here, Host: "a", Self: true, Epoch: 1, State: "running", Alive: true, Source: Here},
			{Network: "default", App: "db", Addr4: there, Host: "b", Epoch: 2, State: "running", Alive: true, Source: Cache},
		},
		networks: map[string][]netip.Prefix{"default": {netip.MustParsePrefix("10.77.0.0/16")}},
		control:  Control{Connected: true, Address: "192.0.2.8:7077", Version: "1.2.3", RoundTrip: time.Millisecond},
		channel: Channel{
			Network: "default", Host: "b", Up: true, Module: "direct", Device: "eth0", Endpoints: []netip.Addr{there},
			Local: netip.MustParseAddr("192.0.2.7"), Remote: netip.MustParseAddr("192.0.2.8"), MTU: 1400,
		},
	}
}

func (g *fakeGuide) Networks() map[string][]netip.Prefix { return g.networks }

func (g *fakeGuide) Resolve(_ context.Context, q Question) (a Answer, err error) {
	if g.resolve != nil {
		return a, g.resolve
	}
	a.Trouble = g.trouble
	for _, e := range g.endpoints {
		if (q.App == "" || q.App == e.App) && (!q.Addr.IsValid() || q.Addr == e.Addr4) && (q.Network == "" || q.Network == e.Network) {
			a.Found = append(a.Found, e)
		}
	}
	if len(a.Found) == 0 && (q.App != "" || q.Addr.IsValid()) {
		return a, fmt.Errorf("nobody has it: %w", errdefs.ErrNotFound)
	}
	return a, nil
}

func (g *fakeGuide) Control(string) Control { return g.control }

func (g *fakeGuide) AskOwner(_ context.Context, e Resolution) (Resolution, error) {
	if g.said != nil {
		e = *g.said
	}
	return e, g.ask
}

func (g *fakeGuide) Channels(context.Context) ([]Channel, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.channel.Host == "" {
		return nil, g.channels
	}
	return []Channel{g.channel}, g.channels
}

// run follows the way, and returns a word for each step.
func (g *fakeGuide) run(t *testing.T, to Question, from string) (string, []Step, bool) {
	t.Helper()
	var steps []Step
	var text []string
	ok := Trace(t.Context(), g, Request{To: to, From: from, Echo: func(_ context.Context, app string, _ netip.Addr, size Size) (time.Duration, error) {
		qt.Check(t, qt.Equals(app, "cache"))
		if g.echo != nil {
			return time.Millisecond, g.echo(g, size)
		}
		return time.Millisecond, nil
	}}, func(s Step) {
		steps = append(steps, s)
		word := s.Name
		if s.Status != OK {
			word += ":" + string(s.Status)
			qt.Check(t, qt.IsTrue(s.Remedy != "" || s.Status == Failed), qt.Commentf("%+v", s))
		}
		text = append(text, word)
		qt.Check(t, qt.Not(qt.Equals(s.Found, "")))
	})
	return strings.Join(text, " "), steps, ok
}

const wholeWay = "network owner source host control agreement channel route packet full-size app"

func TestTrace(t *testing.T) {
	text, steps, ok := newGuide().run(t, Question{Addr: there}, "cache")
	qt.Check(t, qt.IsTrue(ok))
	qt.Check(t, qt.Equals(text, wholeWay))
	qt.Check(t, qt.StringContains(steps[6].Found, "up by direct on eth0 from 192.0.2.7 to 192.0.2.8"))

	// By name, from any app.
	text, _, ok = newGuide().run(t, Question{App: "db"}, "")
	qt.Check(t, qt.IsTrue(ok))
	qt.Check(t, qt.Equals("network "+text, wholeWay))
}

// A step that fails is the last one; a warning is not.
func TestTraceFails(t *testing.T) {
	nobody := fmt.Errorf("it has ended: %w", errdefs.ErrNotFound)
	for name, c := range map[string]struct {
		change func(*fakeGuide)
		to     Question
		from   string
		want   string
	}{
		"no such network":   {to: Question{Addr: netip.MustParseAddr("192.0.2.1")}, want: "network:failed"},
		"other network":     {to: Question{Addr: there, Network: "blue"}, want: "network:failed"},
		"nobody":            {to: Question{Addr: netip.MustParseAddr("10.77.9.9")}, want: "network owner:failed"},
		"nothing":           {change: func(g *fakeGuide) { g.endpoints = nil }, to: Question{}, want: "owner:failed"},
		"two":               {to: Question{}, want: "owner:failed"},
		"no directory":      {change: func(g *fakeGuide) { g.resolve = errors.New("no quorum") }, to: Question{Addr: there}, want: "network owner:failed"},
		"no source":         {to: Question{App: "db"}, from: "nobody", want: "owner source:failed"},
		"source elsewhere":  {to: Question{App: "cache"}, from: "db", want: "owner source:failed"},
		"source is the app": {to: Question{App: "cache"}, from: "cache", want: "owner source:failed"},
		"alone":             {change: func(g *fakeGuide) { g.endpoints = g.endpoints[1:] }, to: Question{App: "db"}, want: "owner source:failed"},
		"only the host itself": {
			change: func(g *fakeGuide) { g.endpoints[0].App = "host:a:default" }, to: Question{App: "db"}, want: "owner source:failed",
		},
		"source in another network": {
			change: func(g *fakeGuide) { g.endpoints[0].Network = "blue" }, to: Question{App: "db"}, from: "cache", want: "owner source:failed",
		},
		"unreachable": {
			change: func(g *fakeGuide) {
				g.control = Control{Err: errors.New("connection refused"), Remedy: "start it"}
				g.endpoints[1].Alive = false
				g.trouble = errors.New("no quorum")
			}, to: Question{App: "db"}, want: "owner:warning source host:warning control:failed",
		},
		"not reached yet": {change: func(g *fakeGuide) { g.control = Control{} }, to: Question{App: "db"}, want: "owner source host control:failed"},
		"owner says no":   {change: func(g *fakeGuide) { g.ask = nobody }, to: Question{App: "db"}, want: "owner source host control agreement:failed"},
		"owner is silent": {change: func(g *fakeGuide) { g.ask = errors.New("late") }, to: Question{App: "db"}, want: "owner source host control agreement:failed"},
		"moved":           {change: func(g *fakeGuide) { g.said = &Resolution{Host: "c", Epoch: 3} }, to: Question{App: "db"}, want: "owner source host control agreement:failed"},
		"no channel": {
			change: func(g *fakeGuide) {
				g.channel = Channel{}
				g.echo = func(*fakeGuide, Size) error { return errors.New("host unreachable") }
			}, to: Question{App: "db"}, want: "owner source host control agreement channel:failed",
		},
		"answered without a channel": {
			change: func(g *fakeGuide) { g.channel.Up = false }, to: Question{App: "db"}, want: "owner source host control agreement channel:failed",
		},
		"kernel": {
			change: func(g *fakeGuide) { g.channel, g.channels = Channel{}, errors.New("no map") }, to: Question{App: "db"},
			want: "owner source host control agreement channel:failed",
		},
		"lost": {
			change: func(g *fakeGuide) { g.echo = func(*fakeGuide, Size) error { return errors.New("no answer in time") } }, to: Question{App: "db"},
			want: "owner source host control agreement channel route packet:failed",
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuide()
			if c.change != nil {
				c.change(g)
			}
			text, _, ok := g.run(t, c.to, c.from)
			qt.Check(t, qt.IsFalse(ok))
			qt.Check(t, qt.Equals(text, c.want))
		})
	}
}

// What a host itself has in a network is no app that could send.
func TestTraceFromNoHost(t *testing.T) {
	g := newGuide()
	host := g.endpoints[0]
	host.App, host.Addr4 = "host:a:default", here.Next()
	g.endpoints = append([]Resolution{host}, g.endpoints...)
	text, _, ok := g.run(t, Question{App: "db"}, "")
	qt.Check(t, qt.IsTrue(ok))
	qt.Check(t, qt.Equals("network "+text, wholeWay))
}

// A channel that is down comes up with a packet; large packets that get lost are a warning, those
// that are answered are none.
func TestTraceBuilds(t *testing.T) {
	g := newGuide()
	g.channel.Up = false
	g.echo = func(g *fakeGuide, size Size) error {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.channel.Up = true
		if size == Full {
			return &TooBigError{MTU: 1380}
		}
		return nil
	}
	text, steps, ok := g.run(t, Question{App: "db"}, "cache")
	qt.Check(t, qt.IsTrue(ok))
	qt.Check(t, qt.Equals("network "+text, wholeWay))
	qt.Check(t, qt.StringContains(steps[5].Found, "was down; a packet brought it up"))
	qt.Check(t, qt.StringContains(steps[8].Found, "up to 1380 bytes"))

	g = newGuide()
	g.endpoints[1].State = "held"
	g.echo = func(_ *fakeGuide, size Size) error {
		if size == Full {
			return errors.New("no answer in time")
		}
		return nil
	}
	text, steps, ok = g.run(t, Question{App: "db"}, "cache")
	qt.Check(t, qt.IsTrue(ok))
	qt.Check(t, qt.Equals("network "+text, strings.Replace(wholeWay, "full-size", "full-size:warning", 1)))
	qt.Check(t, qt.StringContains(steps[9].Found, "hibernated"))
}

// To an app of this host there is no channel.
func TestTraceHere(t *testing.T) {
	g := newGuide()
	g.endpoints = append(g.endpoints, Resolution{Network: "default", App: "web", Addr4: netip.MustParseAddr("10.77.0.9"), Host: "a", Self: true, State: "running", Source: Here})
	text, _, ok := g.run(t, Question{App: "web"}, "cache")
	qt.Check(t, qt.IsTrue(ok))
	qt.Check(t, qt.Equals(text, "owner source packet full-size app"))
	g.echo = func(*fakeGuide, Size) error { return errors.New("no answer in time") }
	text, _, ok = g.run(t, Question{App: "web"}, "cache")
	qt.Check(t, qt.IsFalse(ok))
	qt.Check(t, qt.Equals(text, "owner source packet:failed"))

	g.networks["blue"] = g.networks["default"]
	text, _, ok = g.run(t, Question{Addr: there}, "cache")
	qt.Check(t, qt.IsFalse(ok))
	qt.Check(t, qt.Equals(text, "network owner source host control agreement channel route packet:failed"))
}
