package server

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/clone"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/vem/wake"
)

// bare is a server whose engine has no app and no room.
func bare() *Server { return &Server{rooms: Rooms{Apps: &app.Registry[*engine.App]{}}} }

func TestRecordOfARun(t *testing.T) {
	rec, err := bare().newRecord(&api.RunRequest{
		Args: []string{"/usr/bin/redis_server", "--save", ""}, Endpoint: "10.77.0.7", User: "33:44", Workdir: "/srv/../tmp/",
		Env: []string{"HOME=/srv"}, Binds: []*api.Bind{{Source: "/data", Destination: "/data/", ReadOnly: true}},
		Limits:  &api.Limits{MemoryBytes: 1 << 20, Cpus: 1.5, Pids: 9},
		Publish: []*api.Publication{{HostPort: 80, Port: 8080}, {HostPort: 80, Port: 8080, Protocol: "udp"}},
		Wake:    &api.WakePolicy{Mode: api.WakeMode_WAKE_MODE_ON_CONNECT, Ignore: []string{"192.0.2.1", "::ffff:198.51.100.0/120"}, SilentAfter: durationpb.New(0), Elsewhere: "host-b"},
	})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(rec.Name, "redis-server")) // a name may have no underscore
	qt.Check(t, qt.Equals(rec.Addr4, netip.MustParseAddr("10.77.0.7")))
	p := rec.Spec.Process
	qt.Check(t, qt.Equals(p.Cwd, "/tmp"))
	qt.Check(t, qt.Equals(p.User.UID, uint32(33)))
	qt.Check(t, qt.Equals(p.User.GID, uint32(44)))
	qt.Check(t, qt.SliceContains(p.Env, "HOME=/srv"))
	qt.Check(t, qt.Not(qt.SliceContains(p.Env, "HOME=/root")))
	qt.Check(t, qt.Equals(rec.Spec.Mounts[0].Destination, "/data"))
	qt.Check(t, qt.SliceContains(rec.Spec.Mounts[0].Options, "ro"))
	qt.Check(t, qt.DeepEquals(showLimits(rec.Spec.Linux.Resources).GetCpus(), 1.5))
	qt.Check(t, qt.HasLen(rec.Publish, 2))
	qt.Check(t, qt.Equals(rec.Wake.Mode, wake.OnConnect))
	qt.Check(t, qt.Equals(fmt.Sprint(rec.Wake.Ignore), "[192.0.2.1/32 198.51.100.0/24]"))
	qt.Check(t, qt.IsTrue(rec.Wake.SilentAfter < 0))
	qt.Check(t, qt.Equals(rec.WakeElsewhere, "host-b"))
	shown := showWake(rec.Wake, rec.WakeElsewhere)
	qt.Check(t, qt.Equals(shown.GetMode(), api.WakeMode_WAKE_MODE_ON_CONNECT))
	qt.Check(t, qt.Equals(shown.GetElsewhere(), "host-b"))
}

func TestRunsThatAreRefused(t *testing.T) {
	for want, req := range map[string]*api.RunRequest{
		".*no program to run":                            {},
		".*name \"\\.\\.\".*":                            {Name: ".."},
		".*endpoint \"fd00::1\": want an IPv4 address.*": {Endpoint: "fd00::1"},
		".*elsewhere: name \"a b\".*":                    {Wake: &api.WakePolicy{Elsewhere: "a b"}},
		".*ignore \"nobody\": want an address or a.*":    {Wake: &api.WakePolicy{Ignore: []string{"nobody"}}},
		".*want ports 1 to 65535 of tcp or udp":          {Publish: []*api.Publication{{HostPort: 65536, Port: 1}}},
		".*publish 80:80/sctp: want .*":                  {Publish: []*api.Publication{{HostPort: 80, Port: 80, Protocol: "sctp"}}},
		".*publish at ::1: want an IPv4 address.*":       {Publish: []*api.Publication{{HostPort: 80, Port: 80, HostAddress: "::1"}}},
		".*publish host port 80/tcp twice":               {Publish: []*api.Publication{{HostPort: 80, Port: 1}, {HostPort: 80, Port: 2, HostAddress: "192.0.2.1"}}},
		".*root directory \"srv\": not an absolute path": {Rootfs: "srv"},
		".*working directory \"srv\": not an absolute.*": {Workdir: "srv"},
		".*environment \"X\": want KEY=VALUE":            {Env: []string{"X"}},
		".*bind data to /data: both must be absolute.*":  {Binds: []*api.Bind{{Source: "data", Destination: "/data"}}},
		".*bind /data to /: both must be absolute.*":     {Binds: []*api.Bind{{Source: "/data", Destination: "/"}}},
		".*user \"33:x\": want NAME, UID or UID:GID":     {User: "33:x"},
		".*user \"no one here\": no such user; want .*":  {User: "no one here"},
		".*user \"root:0\": no such user; want NAME, .*": {User: "root:0"},
	} {
		if want != ".*no program to run" {
			req.Args = []string{"true"}
		}
		_, err := bare().newRecord(req)
		qt.Check(t, qt.ErrorMatches(err, want))
		qt.Check(t, qt.ErrorIs(err, errdefs.ErrInvalidArgument), qt.Commentf("%v", err))
	}
}

// TestPolicyOfARequest proves that what a request does not say stays as it was saved.
func TestPolicyOfARequest(t *testing.T) {
	saved := app.Record{Policy: app.Policy{WakeElsewhere: "any", HibernateAfter: time.Minute, RestoreMemory: restore.Copy, AcceptChanged: true, Wake: wake.Policy{Timers: true}}}
	rec := saved
	p, err := newPolicy(&api.CloneRequest{}, nil)
	qt.Assert(t, qt.IsNil(err))
	p.Change(&rec)
	qt.Check(t, qt.DeepEquals(rec.Policy, saved.Policy))

	no := false
	p, err = newPolicy(&api.CloneRequest{
		Wake: &api.WakePolicy{Mode: api.WakeMode_WAKE_MODE_NEVER}, HibernateAfter: durationpb.New(0), RestoreMemory: api.RestoreMemory_RESTORE_MEMORY_MAPPED,
	}, &no)
	qt.Assert(t, qt.IsNil(err))
	p.Change(&rec)
	qt.Check(t, qt.DeepEquals(rec.Policy, app.Policy{Wake: wake.Policy{Mode: wake.Never}, RestoreMemory: restore.Map}))

	_, err = newPolicy(&api.CloneRequest{HibernateAfter: durationpb.New(-time.Second)}, nil)
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrInvalidArgument))
}

func TestCountsOfClones(t *testing.T) {
	two := []netip.Addr{netip.MustParseAddr("10.77.0.7"), netip.MustParseAddr("10.77.0.8")}
	for _, test := range []struct {
		req       *api.CloneRequest
		endpoints []netip.Addr
		count     int // 0: refused
	}{
		{&api.CloneRequest{}, nil, 1},
		{&api.CloneRequest{Count: 5}, nil, 5},
		{&api.CloneRequest{Names: []string{"a", "b", "c"}}, nil, 3},
		{&api.CloneRequest{}, two, 2},
		{&api.CloneRequest{Names: []string{"a", "b", "c"}}, two, 0},
		{&api.CloneRequest{Count: 2, Names: []string{"a"}}, nil, 0},
		{&api.CloneRequest{Count: -1}, nil, 0},
	} {
		r := clone.Request{Endpoints: test.endpoints}
		err := checkCounts(test.req, &r)
		qt.Check(t, qt.Equals(err == nil, test.count > 0), qt.Commentf("%v: %v", test.req, err))
		if err == nil {
			qt.Check(t, qt.Equals(r.Count, test.count))
		}
	}
}
