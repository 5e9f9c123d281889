package drain

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/move"
	"github.com/snapctl/snapctl/vem/control/message"
	"github.com/snapctl/snapctl/vem/membership"
)

// world is an installation of which host "here" is drained.
type world struct {
	*Drainer
	t       *testing.T
	hosts   []membership.Host
	rooms   map[string]int64
	refuse  func(name, to string) error
	arrives func(name string) // is called while an app moves

	mu     sync.Mutex
	apps   []App
	moved  []string // "app to host"
	moving int      // at this moment
	most   int      // that moved at the same time
}

func newWorld(t *testing.T, apps ...App) *world {
	t.Helper()
	w := &world{t: t, apps: apps, rooms: map[string]int64{"a": 4 << 30, "b": 8 << 30}}
	w.hosts = []membership.Host{{Name: "a", Health: membership.Up}, {Name: "b", Health: membership.Up}, {Name: "gone", Health: membership.Removed}, {Name: "here", Self: true, Health: membership.Up}}
	w.Drainer = New(Options{Apps: w, Hosts: w, Available: w.available, Run: func(f func(context.Context)) { go f(context.WithoutCancel(t.Context())) }, Log: slog.New(slog.DiscardHandler)})
	return w
}

func (w *world) Self() string                                    { return "here" }
func (w *world) List(context.Context) ([]membership.Host, error) { return w.hosts, nil }

func (w *world) SetCordoned(_ context.Context, host string, cordoned bool) (*membership.Host, error) {
	h := &w.hosts[slices.IndexFunc(w.hosts, func(h membership.Host) bool { return h.Name == host })]
	h.Cordoned = cordoned
	return h, nil
}

func (w *world) available(_ context.Context, host string) (int64, error) {
	bytes, ok := w.rooms[host]
	if !ok {
		return 0, errors.New("no answer")
	}
	return bytes, nil
}

func (w *world) Names() (list []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.apps {
		list = append(list, a.Name)
	}
	return list
}

func (w *world) Await(ctx context.Context, name string) (App, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.apps {
		if a.Name == name {
			return a, ctx.Err()
		}
	}
	return App{}, fmt.Errorf("app %s: %w", name, errdefs.ErrNotFound)
}

func (w *world) Move(ctx context.Context, name string, req move.Request, told func(string)) (*move.Report, error) {
	w.mu.Lock()
	w.moving++
	w.most = max(w.most, w.moving)
	w.mu.Unlock()
	told("send")
	req.Told(move.Carried{Done: 1, Total: 2})
	if w.arrives != nil {
		w.arrives(name)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.moving--
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if w.refuse != nil {
		if err := w.refuse(name, req.To); err != nil {
			return nil, &move.Error{App: name, To: req.To, Err: err}
		}
	}
	w.moved = append(w.moved, name+" to "+req.To)
	if !req.DryRun {
		w.apps = slices.DeleteFunc(w.apps, func(a App) bool { return a.Name == name })
	}
	return &move.Report{App: name, To: req.To}, nil
}

func apps(names ...string) (list []App) {
	for _, n := range names {
		list = append(list, App{Name: n, Status: app.Running, Bytes: 1 << 30})
	}
	return list
}

// drain drains the host, and returns what became of each app, as "app: host", or "app: why it stays".
func (w *world) drain(ctx context.Context, req Request) (*Report, []string) {
	w.t.Helper()
	r, err := w.Drain(ctx, req)
	qt.Assert(w.t, qt.IsNil(err))
	list := make([]string, 0, len(r.Apps))
	for _, o := range r.Apps {
		text := o.To
		if o.Err != nil {
			text = o.Err.Error()
		}
		list = append(list, o.App+": "+text)
	}
	return r, list
}

// Each app goes to the host with the most room, after what is on its way there, and no more move at once than is
// allowed.
func TestDrain(t *testing.T) {
	w := newWorld(t, apps("1", "2", "3", "4", "5")...)
	var told []Event
	r, list := w.drain(t.Context(), Request{Told: func(e Event) { told = append(told, e) }})
	qt.Check(t, qt.DeepEquals(list, []string{"1: b", "2: b", "3: b", "4: b", "5: b"})) // nothing is said to be less there
	qt.Check(t, qt.IsTrue(w.hosts[3].Cordoned))
	qt.Check(t, qt.IsTrue(w.most <= DefaultParallel))
	qt.Check(t, qt.IsFalse(r.Stopped))
	ended := 0
	for _, e := range told {
		if e.Ended != nil {
			ended++
		}
	}
	qt.Check(t, qt.Equals(ended, 5))
	qt.Check(t, qt.Equals(len(told), 15)) // a step, so many bytes, the end

	// There is nothing left to do.
	_, list = w.drain(t.Context(), Request{})
	qt.Check(t, qt.HasLen(list, 0))
}

// An app that is refused goes to the next host; one that nobody takes stays, and so does one that can't move at all.
func TestRefusals(t *testing.T) {
	w := newWorld(t, append(apps("1", "2", "3", "4"), App{Name: "5", Status: app.Running, Bytes: 6 << 30}, App{Name: "6", Status: app.Running, Bytes: 9 << 30})...)
	refused := &message.RefusedError{By: "b", Why: "no"}
	broken := errors.New("it can't be hibernated")
	w.refuse = func(name, to string) error {
		switch {
		case name == "1" && to == "b", name == "2", name == "5" && to == "b":
			return refused
		case name == "3":
			return broken
		}
		return nil
	}
	_, list := w.drain(t.Context(), Request{Parallel: 1})
	qt.Check(t, qt.DeepEquals(list, []string{
		"1: a",
		"2: " + (&move.Error{App: "2", To: "b", Err: refused}).Error() + "\n" + (&move.Error{App: "2", To: "a", Err: refused}).Error(),
		"3: " + (&move.Error{App: "3", To: "b", Err: broken}).Error(),
		"4: b",
		"5: " + (&move.Error{App: "5", To: "b", Err: refused}).Error(),
		"6: no host takes it: host a: the app uses 9216 MiB of memory, and it has 4096 MiB; host b: the app uses 9216 MiB of memory, and it has 8192 MiB",
	}))
	qt.Check(t, qt.DeepEquals(w.Names(), []string{"2", "3", "5", "6"}))
}

// Hosts that are cordoned, silent, or do not answer get nothing, and neither do those that were not named.
func TestTargets(t *testing.T) {
	w := newWorld(t, apps("1")...)
	w.hosts = append(w.hosts, membership.Host{Name: "c", Health: membership.Silent}, membership.Host{Name: "d", Health: membership.Up, Roles: membership.Roles{Cordoned: true}}, membership.Host{Name: "e", Health: membership.Up})
	delete(w.rooms, "b")
	_, list := w.drain(t.Context(), Request{To: []string{"b", "c", "d", "e"}, DryRun: true})
	qt.Check(t, qt.DeepEquals(list, []string{"1: no host takes it: host b: no answer; host c: it is silent; host d: it is cordoned; host e: no answer"}))
	qt.Check(t, qt.IsFalse(w.hosts[3].Cordoned))
	_, list = w.drain(t.Context(), Request{DryRun: true})
	qt.Check(t, qt.DeepEquals(list, []string{"1: a"}))
	qt.Check(t, qt.DeepEquals(w.Names(), []string{"1"}))

	for name, test := range map[string]struct {
		req  Request
		want error
	}{
		"unknown": {Request{To: []string{"x"}}, errdefs.ErrNotFound},
		"removed": {Request{To: []string{"gone"}}, errdefs.ErrNotFound},
		"itself":  {Request{To: []string{"here"}}, errdefs.ErrInvalidArgument},
	} {
		_, err := w.Drain(t.Context(), test.req)
		qt.Check(t, qt.ErrorIs(err, test.want), qt.Commentf("%s", name))
	}
	var failed *membership.Error
	_, err := w.Drain(t.Context(), Request{Host: "a"})
	qt.Assert(t, qt.ErrorAs(err, &failed))
	qt.Check(t, qt.ErrorMatches(errors.New(failed.Remedy), "run it there: snapctl host drain.*"))
	w.hosts = w.hosts[2:4]
	_, err = w.Drain(t.Context(), Request{})
	qt.Check(t, qt.ErrorAs(err, &failed))
	qt.Check(t, qt.IsFalse(w.hosts[1].Cordoned))
}

// Of two apps that move at the same time the second one finds what is on its way to a host.
func TestRoomIsTakenByWhatComes(t *testing.T) {
	targets := []target{{host: "a", free: 5}, {host: "b", free: 6}, {host: "c", why: "it is silent"}}
	for _, test := range []struct {
		bytes  int64
		coming map[string]int64
		tried  map[string]bool
		want   string
	}{
		{1, nil, nil, "b"},
		{1, map[string]int64{"b": 2}, nil, "a"},
		{5, map[string]int64{"a": 1, "b": 1}, nil, "b"},
		{6, map[string]int64{"b": 1}, nil, ""},
		{1, nil, map[string]bool{"b": true}, "a"},
		{1, nil, map[string]bool{"a": true, "b": true}, ""},
	} {
		got, _ := choose(targets, test.bytes, test.coming, test.tried)
		qt.Check(t, qt.Equals(got, test.want))
	}
	qt.Check(t, qt.Equals(targets[0].free, 5)) // for the next one
}

// When a drain is ended the apps that move get there, and no more begin. One that comes meanwhile is told of.
func TestStop(t *testing.T) {
	w := newWorld(t, apps("1", "2", "3")...)
	ctx, stop := context.WithCancel(t.Context())
	w.arrives = func(string) {
		w.mu.Lock()
		w.apps = append(w.apps, apps("new")...)
		w.mu.Unlock()
		_, err := w.Drain(t.Context(), Request{})
		qt.Check(t, qt.ErrorMatches(err, "this host is being drained"))
		stop()
	}
	r, list := w.drain(ctx, Request{Parallel: 1})
	why := ": " + ErrStopped.Error()
	qt.Check(t, qt.DeepEquals(list, []string{"1: b", "2" + why, "3" + why, "new" + why}))
	qt.Check(t, qt.IsTrue(r.Stopped))
	w.arrives = nil
	r, list = w.drain(t.Context(), Request{Parallel: 1})
	qt.Check(t, qt.DeepEquals(list, []string{"2: b", "3: b", "new: b"}))
	qt.Check(t, qt.IsFalse(r.Stopped))
}

// Apps that come while the others move go too, and those that somebody removes are nobody's concern.
func TestAppsComeAndGo(t *testing.T) {
	w := newWorld(t, apps("1", "2")...)
	once := sync.OnceFunc(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.apps = slices.DeleteFunc(append(w.apps, apps("new")...), func(a App) bool { return a.Name == "2" })
	})
	w.arrives = func(string) { once() }
	_, list := w.drain(t.Context(), Request{Parallel: 1})
	qt.Check(t, qt.DeepEquals(list, []string{"1: b", "new: b"}))
}
