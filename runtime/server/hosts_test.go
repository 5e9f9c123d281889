package server

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
	"github.com/snapctl/snapctl/vem/directory/conflict"
	"github.com/snapctl/snapctl/vem/gateway"
	"github.com/snapctl/snapctl/vem/membership"
	"github.com/snapctl/snapctl/vem/mesh"
	"github.com/snapctl/snapctl/vem/overview"
	"github.com/snapctl/snapctl/vem/ownership"
	"github.com/snapctl/snapctl/vem/probe"
)

// fakeHosts is an installation that remembers what it was asked.
type fakeHosts struct {
	all     []membership.Host
	fail    error
	init    membership.InitRequest
	join    membership.JoinRequest
	ttl     time.Duration
	removed string
	channel string
	forced  bool
	ways    map[string][]mesh.Way
	taken   ownership.Taken
	from    string
	gateway gateway.Settings

	addresses []membership.Address
}

var _ Hosts = (*fakeHosts)(nil)

func (f *fakeHosts) Init(_ context.Context, req membership.InitRequest) (*membership.Host, error) {
	f.init = req
	return f.first()
}

func (f *fakeHosts) Join(_ context.Context, req membership.JoinRequest) (*membership.Host, error) {
	f.join = req
	return f.first()
}

func (f *fakeHosts) first() (*membership.Host, error) {
	if f.fail != nil {
		return nil, f.fail
	}
	return &f.all[0], nil
}

func (f *fakeHosts) Invite(_ context.Context, ttl time.Duration) (*membership.Invitation, error) {
	f.ttl = ttl
	return &membership.Invitation{Token: "token", Addresses: []netip.AddrPort{netip.MustParseAddrPort("[2001:db8::7]:7077")}, ExpiresAt: time.Unix(1, 0)}, f.fail
}

func (f *fakeHosts) List(context.Context) ([]membership.Host, error) { return f.all, f.fail }

func (f *fakeHosts) SetChannel(_ context.Context, _, kind string) (*membership.Host, error) {
	f.channel = kind
	return f.first()
}

func (f *fakeHosts) SetAddresses(_ context.Context, list []membership.Address) (*membership.Host, []string, error) {
	f.addresses = list
	h, err := f.first()
	return h, []string{"a note"}, err
}

func (f *fakeHosts) SetCordoned(_ context.Context, host string, cordoned bool) (*membership.Host, error) {
	h, err := f.first()
	if err == nil {
		h.Cordoned = cordoned && host == h.Name
	}
	return h, err
}

func (f *fakeHosts) Ways(host string) []mesh.Way { return f.ways[host] }

func (f *fakeHosts) Remove(_ context.Context, name string, force bool) error {
	f.removed, f.forced = name, force
	return f.fail
}

func (f *fakeHosts) Takeover(_ context.Context, _, from string) (ownership.Taken, error) {
	f.from = from
	return f.taken, f.fail
}

func (f *fakeHosts) Leave(_ context.Context, force bool) error {
	f.forced = force
	return f.fail
}

func (f *fakeHosts) SetGateway(ctx context.Context, s gateway.Settings) (*gateway.View, error) {
	f.gateway = s
	return f.Gateway(ctx)
}

func (f *fakeHosts) Gateway(context.Context) (*gateway.View, error) {
	if f.fail != nil {
		return nil, f.fail
	}
	a := netip.MustParseAddr("10.77.0.66")
	return &gateway.View{
		Host: "a", Settings: f.gateway,
		Networks: []gateway.Network{{Name: "default", Prefix4: netip.MustParsePrefix("10.77.0.0/16"), Addr4: a}},
		Ports:    []gateway.Status{{Published: gateway.Published{Port: gateway.Port{Proto: "tcp", HostPort: 8080, Port: 80}, Network: "default", Addr: a, App: "web", Host: "b"}, Why: "taken"}},
		Others:   []gateway.Other{{Host: "b", Advertise: f.gateway.Advertise, Alive: true}},
		Notes:    []string{"by c not"},
	}, nil
}

func TestGateway(t *testing.T) {
	w := begin(t)
	g, err := w.SetGateway(t.Context(), &api.SetGatewayRequest{On: true, Advertise: []string{"203.0.113.0/24"}})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(g.GetOn()))
	qt.Check(t, qt.DeepEquals(g.GetAdvertise(), []string{"203.0.113.0/24"}))
	qt.Check(t, qt.Equals(g.GetNetworks()[0].GetAddress4(), "10.77.0.66"))
	qt.Check(t, qt.Equals(g.GetNetworks()[0].GetPrefix6(), ""))
	qt.Check(t, qt.Equals(g.GetPorts()[0].GetReason(), "taken"))
	qt.Check(t, qt.IsTrue(g.GetOthers()[0].GetAlive()))
	qt.Check(t, qt.DeepEquals(g.GetNotes(), []string{"by c not"}))
	g, err = w.ShowGateway(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(g.GetHost(), "a"))
	for _, req := range []*api.SetGatewayRequest{{On: true, Advertise: []string{"192.0.2.7"}}, {Advertise: []string{"203.0.113.0/24"}}} {
		_, err := w.SetGateway(t.Context(), req)
		qt.Check(t, qt.ErrorIs(err, errdefs.ErrInvalidArgument))
	}
	w.hosts.fail = &membership.Error{Text: "alone"}
	_, err = w.ShowGateway(t.Context())
	qt.Check(t, qt.ErrorMatches(err, ".*alone.*"))
}

func TestHosts(t *testing.T) {
	w := begin(t)
	w.hosts.all = []membership.Host{
		{
			Name: "a", Self: true, Health: membership.Up, Port: 7077, Version: "1.2.3", Roles: membership.Roles{Directory: true}, Endpoints: 3, Key: "0f", Installation: "7a",
			Addresses: []membership.Address{{Addr: netip.MustParseAddr("192.0.2.7"), Device: "eth1", Priority: 10}},
			JoinedAt:  time.Unix(1, 0), Certificate: time.Unix(2, 0),
		},
		{Name: "b", Health: membership.Silent},
	}
	place := []*api.HostAddress{{Address: "192.0.2.7", Device: "eth1", Priority: 10}}
	want := membership.Place{Name: "a", Addresses: w.hosts.all[0].Addresses, Port: 7078}
	h, err := w.InitHost(t.Context(), &api.InitHostRequest{Name: "a", Addresses: place, Port: 7078, Directory: []string{"https://etcd:2379"}})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(w.hosts.init.Directory, []string{"https://etcd:2379"}))
	qt.Check(t, qt.Equals(w.hosts.init.Port, want.Port))
	qt.Check(t, qt.Equals(w.hosts.init.Addresses[0], want.Addresses[0]))
	qt.Check(t, qt.Equals(h.GetName(), "a"))
	qt.Check(t, qt.IsTrue(h.GetSelf() && h.GetDirectory()))
	qt.Check(t, qt.Equals(h.GetHealth(), api.HostHealth_HOST_HEALTH_UP))
	qt.Check(t, qt.Equals(h.GetAddresses()[0].GetDevice(), "eth1"))
	qt.Check(t, qt.Equals(h.GetJoinedAt().GetSeconds(), 1))
	qt.Check(t, qt.Equals(h.GetCertificateUntil().GetSeconds(), 2))

	joined, err := w.JoinHost(t.Context(), &api.JoinHostRequest{
		Name: "a", Addresses: place, At: "192.0.2.8:7077", Token: "token", OnConflict: api.OnConflict_ON_CONFLICT_KEEP_PRIVATE,
	})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(joined.GetHost().GetInstallation(), "7a"))
	qt.Check(t, qt.Equals(w.hosts.join.OnConflict, membership.KeepPrivate))
	qt.Check(t, qt.Equals(w.hosts.join.At+" "+w.hosts.join.Token, "192.0.2.8:7077 token"))

	w.ways.health = overview.Health{Hosts: map[string]overview.HostHealth{"b": {Since: time.Unix(3, 0), Control: overview.Control{
		Connected: true, Address: "192.0.2.8:7077", Since: time.Unix(4, 0), Version: "1.2.4", Skew: -time.Second, RoundTrip: time.Millisecond,
	}}}}
	w.hosts.all[0].Channel, w.hosts.all[0].ChannelKinds = "vxlan", []string{"direct", "tunnel", "vxlan"}
	h, err = w.SetHost(t.Context(), &api.SetHostRequest{Channel: "vxlan"})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(w.hosts.channel, "vxlan"))
	qt.Check(t, qt.Equals(h.GetChannel(), "vxlan"))
	qt.Check(t, qt.DeepEquals(h.GetChannelKinds(), []string{"direct", "tunnel", "vxlan"}))
	at := &api.HostAddress{Address: "192.0.2.7", Device: "eth1", Priority: 3}
	h, err = w.SetHost(t.Context(), &api.SetHostRequest{Addresses: []*api.HostAddress{at}})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(h.GetNotes(), []string{"a note"}))
	qt.Check(t, qt.Equals(len(w.hosts.addresses), 1))
	qt.Check(t, qt.Equals(w.hosts.addresses[0], membership.Address{Addr: netip.MustParseAddr("192.0.2.7"), Device: "eth1", Priority: 3}))
	_, err = w.SetHost(t.Context(), &api.SetHostRequest{FindAddresses: true})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(w.hosts.addresses, 0))
	for _, wrong := range []*api.SetHostRequest{
		{},
		{Channel: "vxlan", FindAddresses: true},
		{Channel: "vxlan", Addresses: []*api.HostAddress{at}},
		{FindAddresses: true, Addresses: []*api.HostAddress{at}},
		{Addresses: []*api.HostAddress{{Address: "nowhere"}}},
	} {
		_, err = w.SetHost(t.Context(), wrong)
		qt.Check(t, qt.ErrorIs(err, errdefs.ErrInvalidArgument))
	}

	all, err := w.ListHosts(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(all, 2))
	qt.Check(t, qt.IsNil(all[0].GetControl()))
	qt.Check(t, qt.Equals(all[1].GetSince().GetSeconds(), 3))
	qt.Check(t, qt.Equals(all[1].GetVersion(), "1.2.4"))
	c := all[1].GetControl()
	qt.Check(t, qt.IsTrue(c.GetConnected()))
	qt.Check(t, qt.Equals(c.GetAddress(), "192.0.2.8:7077"))
	qt.Check(t, qt.Equals(c.GetSkew().AsDuration()+c.GetRoundTrip().AsDuration(), time.Millisecond-time.Second))
	w.ways.health = overview.Health{Trouble: errors.New("no quorum"), Hosts: map[string]overview.HostHealth{"b": {Control: overview.Control{Err: errors.New("gone"), Remedy: "come back"}}}}
	outdated, err := w.ListHostsWithTrouble(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(outdated.GetTrouble(), "no quorum"))
	c = outdated.GetHosts()[1].GetControl()
	qt.Check(t, qt.Equals(c.GetError()+" "+c.GetRemedy(), "gone come back"))
	qt.Check(t, qt.IsNil(c.GetSkew()))
	qt.Check(t, qt.Equals(all[1].GetHealth(), api.HostHealth_HOST_HEALTH_SILENT))
	qt.Check(t, qt.IsNil(all[1].GetJoinedAt()))
	h, err = w.ShowHost(t.Context(), "")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(h.GetName(), "a"))
	qt.Check(t, qt.HasLen(h.GetWays(), 0))
	pair := probe.Pair{Local: netip.MustParseAddr("192.0.2.7"), Remote: netip.MustParseAddrPort("192.0.2.8:7077")}
	w.hosts.ways = map[string][]mesh.Way{"b": {
		{Way: probe.Way{Pair: pair, State: probe.Lossy, RoundTrip: time.Millisecond, Loss: 0.5, MTU: 1450}, Device: "eth1", Used: true},
		{Way: probe.Way{Pair: pair, State: probe.Down, Loss: 1}},
	}}
	h, err = w.ShowHost(t.Context(), "b")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(h.GetName(), "b"))
	qt.Assert(t, qt.HasLen(h.GetWays(), 2))
	way := h.GetWays()[0]
	qt.Check(t, qt.Equals(way.GetAddress()+"%"+way.GetDevice()+" "+way.GetRemote(), "192.0.2.7%eth1 192.0.2.8"))
	qt.Check(t, qt.Equals(way.GetState(), api.WayState_WAY_STATE_LOSSY))
	qt.Check(t, qt.Equals(way.GetRoundTrip().AsDuration(), time.Millisecond))
	qt.Check(t, qt.Equals(way.GetLoss(), 0.5))
	qt.Check(t, qt.Equals(way.GetMtu(), 1450))
	qt.Check(t, qt.IsTrue(way.GetUsed()))
	qt.Check(t, qt.Equals(h.GetWays()[1].GetState(), api.WayState_WAY_STATE_DOWN))
	qt.Check(t, qt.IsNil(h.GetWays()[1].GetRoundTrip()))
	_, err = w.ShowHost(t.Context(), "c")
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrNotFound))

	for ttl, want := range map[*durationpb.Duration]time.Duration{nil: time.Hour, durationpb.New(time.Minute): time.Minute} {
		i, err := w.InviteHost(t.Context(), &api.InviteHostRequest{Ttl: ttl})
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(w.hosts.ttl, want))
		qt.Check(t, qt.DeepEquals(i.GetAddresses(), []string{"[2001:db8::7]:7077"}))
		qt.Check(t, qt.Equals(i.GetToken(), "token"))
	}
	for _, cordoned := range []bool{true, false} {
		h, err := w.CordonHost(t.Context(), &api.CordonHostRequest{Host: w.hosts.all[0].Name, Cordoned: cordoned})
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(h.GetCordoned(), cordoned))
	}
	qt.Assert(t, qt.IsNil(w.RemoveHost(t.Context(), &api.RemoveHostRequest{Name: "b", Force: true})))
	qt.Check(t, qt.Equals(w.hosts.removed, "b"))
	qt.Check(t, qt.IsTrue(w.hosts.forced))
}

// What keeps a host from coming to an installation is told with what to do about it.
func TestHostsFail(t *testing.T) {
	w := begin(t)
	w.hosts.fail = &membership.Error{Text: "this host is in an installation already", Remedy: "leave it first"}
	_, err := w.InitHost(t.Context(), &api.InitHostRequest{})
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrFailedPrecondition))
	qt.Check(t, qt.ErrorMatches(err, "this host is in an installation already"))
	qt.Check(t, qt.DeepEquals(client.Hints(err), []string{"leave it first"}))
	_, err = w.ListHosts(t.Context())
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrFailedPrecondition))
	_, err = w.ShowHost(t.Context(), "")
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrFailedPrecondition))
	w.hosts.fail = nil
	_, err = w.ShowHost(t.Context(), "")
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrNotFound))
	qt.Check(t, qt.ErrorMatches(err, "this host is in no installation: .*"))
	for _, req := range []*api.InitHostRequest{{Port: 1 << 16}, {Addresses: []*api.HostAddress{{Address: "eth0"}}}} {
		_, err := w.InitHost(t.Context(), req)
		qt.Check(t, qt.ErrorIs(err, errdefs.ErrInvalidArgument))
		_, err = w.JoinHost(t.Context(), &api.JoinHostRequest{Port: req.GetPort(), Addresses: req.GetAddresses()})
		qt.Check(t, qt.ErrorIs(err, errdefs.ErrInvalidArgument))
	}
	_, err = w.InviteHost(t.Context(), &api.InviteHostRequest{Ttl: durationpb.New(-time.Second)})
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrInvalidArgument))
}

// Whoever takes an app over learns of which snapshots it can be restored.
func TestTakeover(t *testing.T) {
	w := begin(t)
	w.hosts.taken = ownership.Taken{App: "cache", Network: "default", Addr: netip.MustParseAddr("10.77.0.7"), Epoch: 2, From: "b", By: "a"}
	got, err := w.Takeover(t.Context(), &api.TakeoverRequest{App: "cache", From: "b"})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(w.hosts.from, "b"))
	qt.Check(t, qt.Equals(got.GetEndpoint(), "10.77.0.7"))
	qt.Check(t, qt.Equals(got.GetBy(), "a"))
	qt.Check(t, qt.HasLen(got.GetSnapshots(), 0))
	for _, bad := range []*api.TakeoverRequest{{App: "cache"}, {From: "b"}, {App: "../x", From: "b"}} {
		_, err = w.Takeover(t.Context(), bad)
		qt.Check(t, qt.ErrorIs(err, errdefs.ErrInvalidArgument))
	}
	w.hosts.fail = &membership.Error{Text: "take app cache over from host b: host b is alive", Remedy: "power it off"}
	_, err = w.Takeover(t.Context(), &api.TakeoverRequest{App: "cache", From: "b"})
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrFailedPrecondition))
	qt.Check(t, qt.DeepEquals(client.Hints(err), []string{"power it off"}))
}

// A host that can't join as it is is told why, and what to do about each thing.
func TestConflictsOfAJoin(t *testing.T) {
	w := begin(t)
	w.hosts.fail = fmt.Errorf("join: %w", &conflict.Error{List: []conflict.Conflict{
		{Kind: conflict.HostName, Mine: "a", There: "a", Text: "another host is called a"},
		{Kind: conflict.Overlap, Mine: "blue", There: "lab", Network: "blue", Text: "they overlap"},
		{Kind: conflict.AppName, Mine: "cache", There: "cache", Network: "default", Text: "there is an app cache"},
		{Kind: conflict.Underlay, Mine: "192.0.2.9", There: "blue", Network: "blue", Text: "it is in the prefix"},
	}})
	r, err := w.JoinHost(t.Context(), &api.JoinHostRequest{At: "192.0.2.8:7077", Token: "token"})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsNil(r.GetHost()))
	var remedies []string
	for _, c := range r.GetConflicts() {
		remedies = append(remedies, c.GetKind()+": "+c.GetRemedy())
	}
	qt.Check(t, qt.DeepEquals(remedies, []string{
		"host-name: --name gives this host another name",
		"overlap: --on-conflict keep-private keeps network blue for this host alone",
		"app-name: snapctl snapshot cache --stop, and snapctl rm cache; when this host has joined, snapctl restore SNAPSHOT --as OTHER; or --on-conflict keep-private keeps network default for this host alone",
		"underlay: --on-conflict keep-private keeps network blue for this host alone",
	}))
}
