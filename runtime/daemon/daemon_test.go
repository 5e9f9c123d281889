package daemon

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/catalog"
	"github.com/snapctl/snapctl/runtime/cgroup"
	"github.com/snapctl/snapctl/runtime/client"
	"github.com/snapctl/snapctl/runtime/clone"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/line"
	"github.com/snapctl/snapctl/runtime/metrics"
	"github.com/snapctl/snapctl/runtime/sleeper"
	"github.com/snapctl/snapctl/runtime/storage"
	"github.com/snapctl/snapctl/runtime/task"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/vem"
	"github.com/snapctl/snapctl/vem/address"
	"github.com/snapctl/snapctl/vem/installation"
)

// furnished is a daemon with an engine, without any room that needs the host.
func furnished(t *testing.T, log *slog.Logger) *Daemon {
	t.Helper()
	d := &Daemon{opt: Options{StateDir: t.TempDir(), RunDir: t.TempDir(), Log: log}, log: log, tasks: task.NewTasks(t.Context()), engine: &engine.Engine{}, hosts: &installation.Installation{}}
	d.lines = line.NewSwitchboard()
	d.openEvents()
	d.rooms.Storage, d.rooms.Cgroups = &storage.Storage{}, &cgroup.Tree{}
	templates, err := catalog.Open(t.Context(), catalog.Options{Dir: filepath.Join(d.opt.StateDir, "templates"), Log: log})
	qt.Assert(t, qt.IsNil(err))
	d.clones = &clone.Clones{Rooms: clone.Rooms{Catalog: templates}}
	d.front = d.newFront()
	return d
}

// TestOneDaemonPerStateDirectory proves that a second daemon does nothing to the state directory
// of the first one.
func TestOneDaemonPerStateDirectory(t *testing.T) {
	state := t.TempDir()
	lock, err := lockDir(state)
	qt.Assert(t, qt.IsNil(err))
	opt := Options{StateDir: state, RunDir: filepath.Join(t.TempDir(), "run"), Log: slog.New(slog.DiscardHandler)}
	_, err = Open(t.Context(), opt)
	qt.Assert(t, qt.ErrorIs(err, errLocked))
	qt.Check(t, qt.ErrorMatches(err, "lock .*: another snapctld uses this state directory"))
	entries, err := os.ReadDir(state)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(entries, 1)) // the lock

	qt.Assert(t, qt.IsNil(lock.Close()))
	again, err := lockDir(state)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsNil(again.Close()))
	_, err = lockDir(filepath.Join(state, "missing"))
	qt.Check(t, qt.ErrorIs(err, fs.ErrNotExist))
}

// TestServe proves that requests are answered on a socket that root alone may open, whatever an
// earlier daemon has left there, and until the context ends.
func TestServe(t *testing.T) {
	d := furnished(t, slog.New(slog.DiscardHandler))
	path := filepath.Join(d.opt.RunDir, SocketName)
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	qt.Assert(t, qt.IsNil(err))
	stale.SetUnlinkOnClose(false)
	qt.Assert(t, qt.IsNil(stale.Close()))

	d.engine.Apps.Add(&engine.App{App: app.New(t.TempDir(), t.TempDir(), app.Record{Identity: app.Identity{Name: "ready"}, Origin: app.Origin{Pool: "web"}})})
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- d.Serve(ctx, func() { close(ready) }) }()
	<-ready
	info, err := os.Stat(path)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(info.Mode().Perm(), 0o600))
	c, err := client.Dial(t.Context(), path)
	qt.Assert(t, qt.IsNil(err))
	all, err := c.List(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(all, 0))
	qt.Check(t, qt.IsNil(c.Close()))
	cancel()
	qt.Check(t, qt.IsNil(<-done))
	_, err = client.Dial(t.Context(), path)
	qt.Check(t, qt.ErrorIs(err, client.ErrNotRunning))

	d.opt.RunDir = filepath.Join(d.opt.RunDir, "missing")
	qt.Check(t, qt.ErrorIs(d.Serve(t.Context(), nil), fs.ErrNotExist))
}

// TestSpacesOfNetworks proves that a network keeps its addresses, and that one whose file can't
// be read is not taken for a new one.
func TestSpacesOfNetworks(t *testing.T) {
	var s vem.Spaces = spaces(filepath.Join(t.TempDir(), "networks"))
	count := func() int {
		n, err := s.Count()
		qt.Assert(t, qt.IsNil(err))
		return n
	}
	_, err := s.Load("blue")
	qt.Check(t, qt.ErrorIs(err, fs.ErrNotExist)) // it is a new one
	qt.Check(t, qt.Equals(count(), 0))
	want := address.Space{Prefix4: netip.MustParsePrefix("10.77.0.0/16"), Prefix6: netip.MustParsePrefix("fd77::/64")}
	qt.Assert(t, qt.IsNil(s.Save("blue", want)))
	got, err := s.Load("blue")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(got, want))
	qt.Check(t, qt.Equals(count(), 1))

	_, err = s.Load("../blue")
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrInvalidArgument))
	qt.Assert(t, qt.IsNil(os.WriteFile(s.(spaces).file("blue"), []byte("{"), 0o600)))
	_, err = s.Load("blue")
	qt.Check(t, qt.ErrorMatches(err, "read network blue: .*"))
	qt.Check(t, qt.IsFalse(errors.Is(err, fs.ErrNotExist)))
}

// TestLogOfOperations proves what an administrator finds in the log, and at which level.
func TestLogOfOperations(t *testing.T) {
	var b bytes.Buffer
	d := &Daemon{log: slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	no := errors.New("no room")
	for _, test := range []struct {
		e    event.Event
		want string
	}{
		{event.Event{Type: event.Ended, Kind: event.Wake, About: event.About{App: "cache"}}, `level=INFO msg="operation finished" operation=wake app=cache took=`},
		{event.Event{Type: event.Ended, Kind: event.Wake, About: event.About{App: "cache"}, Err: no}, `level=ERROR msg="operation failed" operation=wake app=cache took=0s error="no room"`},
		{event.Event{Type: event.Ended, Kind: event.Hibernate, About: event.About{App: "cache", Reason: sleeper.ByIdleness}, Err: no}, `level=DEBUG msg="operation failed"`},
		{event.Event{Type: event.Ended, Kind: event.Hibernate, About: event.About{App: "cache", Reason: sleeper.ByIdleness}}, `level=INFO msg="operation finished" operation=hibernate app=cache reason=idle`},
		{event.Event{Type: event.Ended, Kind: event.FillPool, About: event.About{Template: "web"}, Err: no}, `level=DEBUG msg="operation failed" operation=fill-pool template=web`},
		{event.Event{Type: event.Exited, About: event.About{App: "cache", Reason: "exit code 1"}}, `level=INFO msg="app ended" app=cache exit="exit code 1"`},
		{event.Event{Type: event.Missed, Missed: 7}, `level=WARN msg="too much happened to be logged" missed=7`},
	} {
		b.Reset()
		d.logEvent(t.Context(), &test.e)
		qt.Check(t, qt.StringContains(b.String(), test.want))
	}

	// What an operation says in its last moment is logged before the log is ended.
	d = furnished(t, slog.New(slog.NewTextHandler(&b, nil)))
	ctx, cancel := context.WithCancel(t.Context())
	stop := d.logEvents(ctx)
	cancel()
	d.rooms.Events.Begin(event.Stop, event.About{App: "last"}).End(nil)
	stop()
	qt.Check(t, qt.Equals(strings.Count(b.String(), "operation=stop app=last"), 1))
}

// TestStateForMetrics proves that what apps share is counted once as stored, and for each as used.
func TestStateForMetrics(t *testing.T) {
	d := furnished(t, slog.New(slog.DiscardHandler))
	for name, rec := range map[string]app.Record{
		"one":   {State: app.State{Status: app.Running}, Files: app.Files{Memory: []memory.File{{ID: "m", SizeBytes: 10}}, Layers: []layer.Ref{{ID: "l", SizeBytes: 5}}}},
		"two":   {State: app.State{Status: app.Held}, Files: app.Files{Memory: []memory.File{{ID: "m", SizeBytes: 10}, {ID: "n", SizeBytes: 1}}}},
		"ready": {State: app.State{Status: app.Pooled}, Origin: app.Origin{Pool: "web"}},
	} {
		rec.Name = name
		d.engine.Apps.Add(&engine.App{App: app.New(t.TempDir(), t.TempDir(), rec), Endpoint: &vem.Endpoint{}})
	}
	s := d.state()
	qt.Check(t, qt.DeepEquals(s.Apps, map[string]int{"running": 1, "held": 1, "pooled": 1}))
	qt.Check(t, qt.Equals(s.Memory, metrics.Shared{UsedBytes: 21, StoredBytes: 11}))
	qt.Check(t, qt.Equals(s.Files, metrics.Shared{UsedBytes: 5, StoredBytes: 5}))
	qt.Check(t, qt.HasLen(s.Pools, 0)) // no template has one
}
