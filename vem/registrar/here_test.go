package registrar

import (
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/memory"
	"github.com/snapctl/snapctl/vem/membership"
	"github.com/snapctl/snapctl/vem/overview"
	"github.com/snapctl/snapctl/vem/overview/resolve"
)

// ask asks a host of a test who has an endpoint.
func (h *site) ask(t *testing.T, q overview.Question) (overview.Answer, error) {
	t.Helper()
	mine, err := Here(h.vem, h.opt.Self, h.Registrar)
	qt.Assert(t, qt.IsNil(err))
	return resolve.Answer(t.Context(), resolve.Host{Name: h.opt.Self, Here: mine, Cache: h.opt.Cache}, q)
}

// An endpoint is found by its address of either family and by its name: on this host, in what it
// knows of the directory, or in the directory. That nobody has it is an answer of its own.
func TestResolve(t *testing.T) {
	store := memory.New()
	a, b := newSite(t, store, "a"), newSite(t, store, "b")
	sa, err := a.begin(t.Context())
	qt.Assert(t, qt.IsNil(err))
	a.vem.put(app("web", "10.77.0.7"), app("sleeper", "10.77.0.8"))
	qt.Assert(t, qt.IsNil(a.sync(t.Context(), sa)))
	b.vem.put(app("other", "10.77.0.66"))

	found, err := a.ask(t, overview.Question{Addr: netip.MustParseAddr("10.77.0.8")})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(found.Found, 1))
	e := found.Found[0]
	qt.Check(t, qt.Equals(e.App+" "+e.Host+" "+e.State, "sleeper a held"))
	qt.Check(t, qt.Equals(e.Source, overview.Here))
	qt.Check(t, qt.IsTrue(e.Self && e.Alive && e.Epoch == 1))

	// The other host knows it as soon as its cache does; before, it asks.
	for _, q := range []overview.Question{
		{Addr: netip.MustParseAddr("10.77.0.7")}, {App: "web"}, {App: "web", Network: "default"}, {Addr: netip.MustParseAddr("fd77:736e:6170::7")},
	} {
		for {
			if _, err := b.opt.Cache.Network("default"); err == nil {
				break
			}
		}
		found, err = b.ask(t, q)
		qt.Assert(t, qt.IsNil(err), qt.Commentf("%+v", q))
		qt.Assert(t, qt.HasLen(found.Found, 1))
		e = found.Found[0]
		qt.Check(t, qt.Equals(e.App+" "+e.Host+" "+e.State, "web a running"))
		qt.Check(t, qt.Equals(e.Addr6, netip.MustParseAddr("fd77:736e:6170::7")))
		qt.Check(t, qt.IsTrue(e.Source == overview.Cache || e.Source == overview.Directory))
		qt.Check(t, qt.IsFalse(e.Self))
	}
	for {
		found, err = b.ask(t, overview.Question{Network: "default"})
		qt.Assert(t, qt.IsNil(err))
		if len(found.Found) == 3 {
			break // its cache has all
		}
	}
	qt.Check(t, qt.Equals(found.Found[2].App, "other"))
	for _, q := range []overview.Question{{Addr: netip.MustParseAddr("10.77.9.9")}, {App: "nobody"}, {App: "web", Network: "blue"}, {Addr: netip.MustParseAddr("192.0.2.1")}} {
		_, err = b.ask(t, q)
		qt.Check(t, qt.ErrorIs(err, errdefs.ErrNotFound), qt.Commentf("%+v", q))
		qt.Check(t, qt.ErrorMatches(err, "nobody has .*: not found"))
	}

	// Before the directory was reached only this host's own are known.
	mine, err := Here(b.vem, "b", nil)
	qt.Assert(t, qt.IsNil(err))
	only := resolve.Host{Name: "b", Here: mine}
	found, err = resolve.Answer(t.Context(), only, overview.Question{App: "other"})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(found.Found, 1))
	qt.Check(t, qt.ErrorIs(found.Trouble, directory.ErrUnavailable))
	_, err = resolve.Answer(t.Context(), only, overview.Question{App: "web"})
	var unknown *membership.Error
	qt.Assert(t, qt.ErrorAs(err, &unknown))
	qt.Check(t, qt.ErrorIs(err, directory.ErrUnavailable))
}
