package daemon

import (
	"context"
	"os"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/cgroup"
	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/holder"
)

// holding is an app that holds a socket, or what stands for one.
func holding(t *testing.T, name string, inode uint64) *App {
	t.Helper()
	a := &App{App: app.New("", app.Record{Identity: app.Identity{Name: name}}), keeping: make(chan struct{}, 1), box: sandbox.New(sandbox.Config{Name: name, Cgroups: &cgroup.Tree{}})}
	if inode > 0 {
		f, err := os.Open(os.DevNull)
		qt.Assert(t, qt.IsNil(err))
		set := hold.NewSet([]hold.Socket{{Inode: inode, Kind: hold.TCP, File: f}})
		t.Cleanup(func() { qt.Check(t, qt.IsNil(set.Close())) })
		a.setHeld(set)
	}
	return a
}

// TestRefill gives a new holder what the daemon holds: not what it has let go of,
// and also what belongs to an app that it can't read.
func TestRefill(t *testing.T) {
	f, err := os.Open(os.DevNull)
	qt.Assert(t, qt.IsNil(err))
	defer f.Close()
	gone := holding(t, "gone", 3)
	d := &Daemon{
		strays: map[string][]holder.Item{"unreadable": {{Key: "k", File: f}}},
	}
	for _, a := range []*App{holding(t, "cache", 1), holding(t, "running", 0), gone} {
		d.apps.Add(a)
	}
	gone.setHeld(nil)
	to := holder.NewMemory()
	defer to.Close()
	qt.Assert(t, qt.IsNil(d.refill(t.Context(), to)))
	kept, err := to.List(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(kept, map[string]int{"cache": 1, "unreadable": 1}))
	items, err := to.Get(t.Context(), "cache")
	qt.Assert(t, qt.IsNil(err))
	set, err := hold.FromItems(items)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(set.Sockets[0].Inode, 1))
	qt.Assert(t, qt.IsNil(set.Close()))
}

// TestRefillWaits has an app let go of its sockets at the same time: they are not
// brought back. Other apps have theirs, whatever happens to one.
func TestRefillWaits(t *testing.T) {
	busy := holding(t, "busy", 1)
	d := &Daemon{}
	d.apps.Add(busy)
	d.apps.Add(holding(t, "cache", 2))
	to := holder.NewMemory()
	defer to.Close()
	ctx, cancel := context.WithCancel(t.Context())
	err := busy.exclusively(ctx, func() error {
		cancel() // while somebody else has it
		return d.refill(ctx, to)
	})
	qt.Assert(t, qt.ErrorIs(err, context.Canceled))

	refilled := make(chan error)
	err = busy.exclusively(t.Context(), func() error {
		go func() { refilled <- d.refill(t.Context(), to) }()
		busy.setHeld(nil)
		return nil
	})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(<-refilled))
	kept, err := to.List(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(kept, map[string]int{"cache": 1}))
}

func TestLose(t *testing.T) {
	qt.Assert(t, qt.Not(qt.Equals(bootID(), "")))
	for boot, want := range map[string]string{
		bootID():            lostByEnd,
		"of an earlier day": lostByReboot,
		"":                  lostByEnd, // of a record that does not tell
	} {
		a := holding(t, "cache", 0)
		a.Amend(func(r *app.Record) { r.Boot = boot })
		qt.Assert(t, qt.IsNil(a.whatIsLost()))
		a.lose()
		qt.Assert(t, qt.Equals(a.lost, want))
		err := a.whatIsLost()
		qt.Assert(t, qt.ErrorMatches(err, "the sockets of app cache are lost: "+want+": .*"))
		qt.Assert(t, qt.Equals(hint(err), "wake it by command: snapctl wake cache"))
		a.Note(err)
		qt.Assert(t, qt.Equals(hint(a.Noted()), hint(err)))
	}
}
