package server

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/server/ways"
	"github.com/snapctl/snapctl/vem/overview"
	"github.com/snapctl/snapctl/vem/table"
)

// fakeWays is what is known of other hosts, as a test says.
type fakeWays struct {
	channels []overview.Channel
	answer   overview.Answer
	fail     error
	taken    string
	asked    overview.Question
	health   overview.Health
	steps    []overview.Step
	checks   []overview.Check
}

func (f *fakeWays) Trace(_ context.Context, r overview.Request, tell func(overview.Step)) bool {
	f.asked = r.To
	for _, s := range f.steps {
		tell(s)
	}
	return true
}

func (f *fakeWays) Checkup(context.Context) []overview.Check { return f.checks }

func (f *fakeWays) Health(context.Context) overview.Health { return f.health }

var _ ways.Ways = (*fakeWays)(nil)

func (f *fakeWays) Channels(context.Context) ([]overview.Channel, error) { return f.channels, nil }

func (f *fakeWays) TakeDown(_ context.Context, network, host string) ([]overview.Channel, error) {
	f.taken = network + "/" + host
	return f.channels, f.fail
}

func (f *fakeWays) Resolve(_ context.Context, q overview.Question) (overview.Answer, error) {
	f.asked = q
	return f.answer, f.fail
}

func TestChannels(t *testing.T) {
	w := begin(t)
	w.ways.channels = []overview.Channel{
		{
			Network: "default", Host: "b", Up: true, Module: "direct", Device: "eth0", Local: netip.MustParseAddr("192.0.2.7"), Remote: netip.MustParseAddr("192.0.2.8"), MTU: 1400,
			Since: time.Unix(1, 0), Last: time.Unix(2, 0), Sent: overview.Flow{Packets: 3, Bytes: 4}, Received: overview.Flow{Packets: 5, Bytes: 6},
			Endpoints: []netip.Addr{netip.MustParseAddr("10.77.64.2")},
		},
		{Network: "blue", Host: "c"},
	}
	all, err := w.Channels(t.Context(), &api.ChannelsRequest{})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(all, 2))
	c := all[0]
	qt.Check(t, qt.IsTrue(c.GetUp()))
	qt.Check(t, qt.Equals(c.GetModule()+" "+c.GetDevice()+" "+c.GetLocal()+" "+c.GetRemote(), "direct eth0 192.0.2.7 192.0.2.8"))
	qt.Check(t, qt.Equals(c.GetSince().GetSeconds()+c.GetLast().GetSeconds(), 3))
	qt.Check(t, qt.Equals(c.GetSent().GetPackets()+c.GetSent().GetBytes()+c.GetReceived().GetPackets()+c.GetReceived().GetBytes(), 18))
	qt.Check(t, qt.DeepEquals(c.GetEndpoints(), []string{"10.77.64.2"}))
	qt.Check(t, qt.IsNil(all[1].GetSince()))
	qt.Check(t, qt.Equals(all[1].GetLocal(), ""))
	for _, req := range []*api.ChannelsRequest{{Host: "b"}, {Network: "default"}} {
		all, err := w.Channels(t.Context(), req)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.HasLen(all, 1))
	}
	all, err = w.TakeChannelsDown(t.Context(), &api.ChannelsRequest{Network: "default", Host: "b"})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(all, 2))
	qt.Check(t, qt.Equals(w.ways.taken, "default/b"))
	w.ways.fail = errdefs.ErrNotFound
	_, err = w.TakeChannelsDown(t.Context(), &api.ChannelsRequest{Host: "z"})
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrNotFound))
}

func TestResolve(t *testing.T) {
	w := begin(t)
	w.ways.answer = overview.Answer{Trouble: errors.New("no quorum"), Found: []overview.Resolution{{
		Network: "default", App: "web", Addr4: netip.MustParseAddr("10.77.64.2"), Host: "b", Epoch: 7, State: "held", Source: overview.Cache, AsOf: time.Unix(1, 0), Alive: true,
	}}}
	r, err := w.Resolve(t.Context(), &api.ResolveRequest{Endpoint: "::ffff:10.77.64.2", Network: "default"})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(w.ways.asked, overview.Question{Network: "default", Addr: netip.MustParseAddr("10.77.64.2")}))
	qt.Check(t, qt.Equals(r.GetTrouble(), "no quorum"))
	qt.Assert(t, qt.HasLen(r.GetFound(), 1))
	e := r.GetFound()[0]
	qt.Check(t, qt.Equals(e.GetApp()+" "+e.GetEndpoint()+" "+e.GetHost()+" "+e.GetState()+" "+e.GetSource(), "web 10.77.64.2 b held cache"))
	qt.Check(t, qt.Equals(e.GetEpoch(), 7))
	_, err = w.Resolve(t.Context(), &api.ResolveRequest{Endpoint: "web"})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(w.ways.asked, overview.Question{App: "web"}))
}

// Rows of the translation table tell the way to another host, and that it is down.
func TestElsewhere(t *testing.T) {
	w := begin(t)
	here, there, far := netip.MustParseAddr("10.77.0.7"), netip.MustParseAddr("10.77.64.2"), netip.MustParseAddr("10.77.128.2")
	w.network.owners = map[netip.Addr]string{here: "cache"}
	w.ways.answer.Found = []overview.Resolution{
		{Network: "blue", App: "cache", Addr4: here, Host: "a", Self: true},
		{Network: "blue", App: "web", Addr4: there, Host: "b"},
		{Network: "blue", App: "log", Addr4: far, Host: "c"},
	}
	w.ways.channels = []overview.Channel{{
		Network: "blue", Host: "b", Up: true, Module: "tunnel", Device: "eth1", Local: netip.MustParseAddr("192.0.2.7"), Remote: netip.MustParseAddr("198.51.100.8"), Since: time.Unix(1, 0),
	}}
	srv := &ways.Service{Ways: &w.ways}
	known, err := srv.Known(t.Context())
	qt.Assert(t, qt.IsNil(err))
	places := known.Places("blue", w.network.owners)
	for a, want := range map[netip.Addr]table.Place{
		here: {Actual: "cache"}, there: {Actual: "web", Channel: "tunnel to b"}, far: {Actual: "log", Down: table.Cut},
	} {
		got, ok := places(a)
		qt.Check(t, qt.IsTrue(ok))
		qt.Check(t, qt.Equals(got, want))
	}
	_, ok := places(netip.MustParseAddr("192.0.2.1"))
	qt.Check(t, qt.IsFalse(ok))
	row := &api.VemRow{Network: "blue", RemoteApp: "web"}
	known.Show(row, there)
	qt.Check(t, qt.Equals(row.GetHost()+" "+row.GetRemoteHost()+" "+row.GetModule()+" "+row.GetInterface()+" "+row.GetUnderlayLocal()+" "+row.GetUnderlayRemote(), "a b tunnel eth1 192.0.2.7 198.51.100.8"))
	qt.Check(t, qt.Equals(row.GetSince().GetSeconds(), 1))
	local := &api.VemRow{Network: "blue", RemoteApp: "cache"}
	known.Show(local, here)
	qt.Check(t, qt.Equals(local.GetRemoteHost(), ""))
	w.ways.channels[0].Up = false
	known, err = srv.Known(t.Context())
	qt.Assert(t, qt.IsNil(err))
	got, _ := known.Places("blue", nil)(there)
	qt.Check(t, qt.Equals(got.Down, table.Cut))
	w.ways.fail = errors.New("the directory was never reached")
	known, err = srv.Known(t.Context())
	qt.Assert(t, qt.IsNil(err))
	_, ok = known.Places("blue", nil)(there)
	qt.Check(t, qt.IsFalse(ok))
}
