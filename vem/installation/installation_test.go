package installation

import (
	"context"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/address"
	"github.com/snapctl/snapctl/vem/overview"
)

// noNetworks is a VEM without a kernel, which has one endpoint.
type noNetworks struct{ Networks }

func (noNetworks) Present() []Endpoint {
	return []Endpoint{{Network: "default", App: "web", Addr4: netip.MustParseAddr("10.77.0.7")}}
}

func (noNetworks) Holding() map[string]bool { return nil }

func (noNetworks) Space(string) (address.Space, error) {
	return address.Space{Prefix4: netip.MustParsePrefix("10.77.0.0/16"), Prefix6: netip.MustParsePrefix("fd77:736e:6170::/64")}, nil
}

// A host that is in no installation opens nothing, and says so.
func TestAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "installation")
	i, err := Open(t.Context(), Options{
		Dir: dir, Exe: "/nowhere/snapctl-directory", Version: "1.2.3", Boot: "boot", Local: noNetworks{},
		Run: func(func(context.Context)) {}, Log: slog.New(slog.DiscardHandler),
	})
	qt.Assert(t, qt.IsNil(err))
	list, err := i.List(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(list, 0))
	_, err = i.Invite(t.Context(), time.Hour)
	qt.Check(t, qt.ErrorMatches(err, ".*no installation.*"))
	i.Changed()
	qt.Check(t, qt.HasLen(i.hostNames(), 0))
	qt.Check(t, qt.IsNil(i.renewer()))
	_, err = os.Lstat(dir)
	qt.Check(t, qt.ErrorIs(err, fs.ErrNotExist))
	qt.Assert(t, qt.IsNil(i.Close()))
}

// A host that is in no installation knows its own endpoints, and has no channels.
func TestWaysAlone(t *testing.T) {
	i, err := Open(t.Context(), Options{
		Dir: filepath.Join(t.TempDir(), "installation"), Exe: "/nowhere/snapctl-directory", Version: "1.2.3", Boot: "boot", Local: noNetworks{},
		Run: func(func(context.Context)) {}, Log: slog.New(slog.DiscardHandler),
	})
	qt.Assert(t, qt.IsNil(err))
	found, err := i.Resolve(t.Context(), overview.Question{App: "web"})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(found.Found, 1))
	qt.Check(t, qt.Equals(found.Found[0].Host, ""))
	qt.Check(t, qt.IsNil(found.Trouble))
	all, err := i.Channels(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(all, 0))
	_, err = i.TakeDown(t.Context(), "", "b")
	qt.Check(t, qt.ErrorMatches(err, "this host is in no installation"))
	qt.Check(t, qt.HasLen(i.Health(t.Context()).Hosts, 0))
	qt.Check(t, qt.HasLen(i.Checkup(t.Context()), 0))
	g := guide{i}
	qt.Check(t, qt.HasLen(g.Networks()["default"], 2))
	qt.Check(t, qt.ErrorMatches(g.Control("b").Err, "this host is in no installation"))
	_, err = g.AskOwner(t.Context(), found.Found[0])
	qt.Check(t, qt.ErrorMatches(err, "this host is in no installation"))
	steps := 0
	qt.Check(t, qt.IsFalse(i.Trace(t.Context(), overview.Request{To: overview.Question{App: "web"}}, func(overview.Step) { steps++ })))
	qt.Check(t, qt.Equals(steps, 2)) // there is no other app to send from
}
