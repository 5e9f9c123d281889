package upkeep

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/cluster"
	"github.com/snapctl/snapctl/vem/control"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/member"
	"github.com/snapctl/snapctl/vem/membership"
)

// site is a host of a test's installation, with a loopback address of its own.
type site struct {
	*Upkeep

	t      *testing.T
	dir    string
	place  membership.Place
	member *membership.Membership
	by     *site // who lets it in
}

// sites makes hosts that are in no installation yet.
func sites(t *testing.T, names ...string) (all []*site) {
	t.Helper()
	in := cluster.Prepare(t)
	net := byte(1 + rand.N(250))
	for n, name := range names {
		dir := filepath.Join(filepath.Dir(in.Exe), name)
		s := &site{t: t, dir: dir, place: membership.Place{
			Name: name, Port: 7077, Addresses: []membership.Address{{Addr: netip.AddrFrom4([4]byte{127, net, byte(os.Getpid()), byte(n + 1)})}},
		}}
		s.Upkeep = New(Options{
			Dir: filepath.Join(dir, "directory"), Exe: in.Exe, Version: "2.0", Protocols: [2]int{1, 1},
			Place: func() membership.Place { return s.place }, Membership: func() *membership.Membership { return s.member },
			Hosts: s.hosts, Peers: func() *control.Peers { return new(control.Peers) }, Log: in.Log,
		})
		var err error
		s.member, err = membership.Open(t.Context(), membership.Options{
			Dir: dir, Self: directory.Host{Release: "1.0", Protocols: [2]int{1, 1}}, Port: 7077, Directories: s.Upkeep, Gate: s,
			Leaving: s.Leaving, Left: s.Wipe, Refused: s.Refused, Removed: func(string) {}, Log: slog.New(slog.DiscardHandler),
		})
		qt.Assert(t, qt.IsNil(err))
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
			defer cancel()
			qt.Check(t, qt.IsNil(s.dismiss(ctx)))
			qt.Check(t, qt.IsNil(s.member.Close()))
			qt.Check(t, qt.IsNil(s.Close()))
		})
		all = append(all, s)
	}
	return all
}

// hosts is what the host knows of all: what the directory says now.
func (s *site) hosts() []directory.Host {
	d, err := s.member.Directory(s.t.Context())
	if err != nil {
		return nil
	}
	list, _ := d.Hosts(s.t.Context())
	return list
}

// Join implements [membership.Gate].
func (s *site) Join(ctx context.Context, a membership.Application) (membership.Welcome, error) {
	return s.by.member.Admit(ctx, netip.MustParseAddr("127.0.0.1"), a.Request)
}

// Renew implements [membership.Gate].
func (s *site) Renew(context.Context, []byte) ([]byte, error) { return nil, errors.New("not now") }

// join has it join by another host, and gives it the CA.
func (s *site) join(by *site) {
	s.t.Helper()
	s.by = by
	i, err := by.member.Invite(s.t.Context(), time.Hour)
	qt.Assert(s.t, qt.IsNil(err))
	_, err = s.member.Join(s.t.Context(), membership.JoinRequest{Place: s.place, At: "here", Token: i.Token})
	qt.Assert(s.t, qt.IsNil(err))
	ca, err := by.member.ShareCA(s.t.Context(), s.place.Name)
	qt.Assert(s.t, qt.IsNil(err))
	qt.Assert(s.t, qt.IsNil(s.member.AdoptCA(s.t.Context(), ca)))
}

// members are the hosts that answer as members, as this one sees them.
func (s *site) members() (names []string) {
	s.t.Helper()
	o, err := s.Status(s.t.Context())
	qt.Assert(s.t, qt.IsNil(err))
	qt.Check(s.t, qt.IsFalse(o.Own))
	for _, m := range o.Members {
		if m.Answers {
			names = append(names, m.Name)
		}
	}
	return names
}

// Two hosts run the directory; it is saved, and goes back to what was saved; one of them is removed.
func TestUpkeep(t *testing.T) {
	all := sites(t, "a", "b")
	a, b := all[0], all[1]
	ctx := cluster.Ctx(t)
	var failed *membership.Error
	_, err := a.Status(ctx)
	qt.Assert(t, qt.ErrorAs(err, &failed))
	h, err := a.member.Init(ctx, membership.InitRequest{Place: a.place})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(h.Directory && h.CA))
	b.join(a)
	_, err = a.Serve(ctx, membership.InitRequest{})
	qt.Check(t, qt.ErrorMatches(err, "host a of installation .* runs a member of the directory, and has the CA already"))
	_, err = b.Serve(ctx, membership.InitRequest{Place: membership.Place{Name: "c"}})
	qt.Check(t, qt.ErrorMatches(err, "this host is host b .*"))
	_, err = b.Serve(ctx, membership.InitRequest{Directory: []string{"https://etcd:2379"}})
	qt.Check(t, qt.ErrorMatches(err, ".*which has its directory"))
	err = b.Restore(ctx, "/nowhere", false)
	qt.Check(t, qt.ErrorMatches(err, "this host runs no member of the directory"))
	err = a.member.Remove(ctx, "a", true)
	qt.Check(t, qt.IsNotNil(err))

	h, err = b.Serve(ctx, membership.InitRequest{})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(h.Directory && h.CA))
	qt.Check(t, qt.HasLen(a.members(), 2))
	for _, s := range all {
		s.Moved(ctx)
		qt.Check(t, qt.HasLen(s.member.DirectoryURLs(), 2))
		qt.Check(t, qt.IsFalse(s.Refused(ctx)))
	}
	qt.Assert(t, qt.IsNil(b.Defragment(ctx, "a")))
	qt.Assert(t, qt.ErrorAs(b.Defragment(ctx, "c"), &failed))

	file := filepath.Join(t.TempDir(), "backup")
	saved, err := b.BackUp(ctx, file)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(saved.Bytes > 0))
	_, err = b.BackUp(ctx, file)
	qt.Check(t, qt.ErrorIs(err, os.ErrExist))

	err = a.Restore(ctx, file, false)
	qt.Assert(t, qt.ErrorMatches(err, "the directory runs on other hosts: b"))
	qt.Assert(t, qt.IsNil(a.Restore(ctx, file, true)))
	qt.Check(t, qt.DeepEquals(a.members(), []string{"a"}))
	b.moved(a.member.DirectoryURLs()[:1]) // as its watch of the directory says
	own := find(b.hosts(), "b")
	qt.Assert(t, qt.IsNotNil(own))
	qt.Assert(t, qt.IsTrue(b.Displaced(own)))
	b.Announce(ctx)
	qt.Check(t, qt.IsFalse(b.Displaced(find(b.hosts(), "b"))))
	qt.Check(t, qt.Equals(find(b.hosts(), "b").Release, "2.0"))

	// It runs one again, and is taken out.
	b.Moved(ctx)
	_, err = b.Serve(ctx, membership.InitRequest{})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(a.members(), 2))
	a.Moved(ctx)
	qt.Assert(t, qt.IsNil(a.member.Remove(ctx, "b", false)))
	qt.Check(t, qt.DeepEquals(a.members(), []string{"a"}))
	cluster.Until(t, "b is refused", func() bool { return b.Refused(ctx) })
}

// The next daemon goes on with the member, and has it run the program that is installed now.
func TestResume(t *testing.T) {
	a := sites(t, "a")[0]
	ctx := cluster.Ctx(t)
	a.Resume(ctx, nil) // there is none
	_, err := a.member.Init(ctx, membership.InitRequest{Place: a.place})
	qt.Assert(t, qt.IsNil(err))
	before, err := a.Status(ctx)
	qt.Assert(t, qt.IsNil(err))

	copied := a.opt.Exe + "-2"
	b, err := os.ReadFile(a.opt.Exe)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(os.WriteFile(copied, b, 0o700)))
	a.opt.Exe = copied
	qt.Assert(t, qt.IsNil(a.Close()))
	a.Upkeep.member = nil
	a.Resume(ctx, a.member.Identity())
	after, err := a.Status(ctx)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(after.Process != 0 && after.Process != before.Process))
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", after.Process))
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(exe, copied))

	// The last host ends the directory with the installation.
	qt.Assert(t, qt.IsNil(a.member.Leave(ctx, false)))
	_, err = os.Stat(a.opt.Dir)
	qt.Check(t, qt.ErrorIs(err, os.ErrNotExist))
}

// A member that does not end when it is told to is killed, also if nobody waits for so long.
func TestRetireMember(t *testing.T) {
	a := sites(t, "a")[0]
	ctx := cluster.Ctx(t)
	_, err := a.member.Init(ctx, membership.InitRequest{Place: a.place})
	qt.Assert(t, qt.IsNil(err))
	c, err := member.ReadConfig(member.ConfigPath(a.opt.Dir))
	qt.Assert(t, qt.IsNil(err))
	shown, err := a.Status(ctx)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(unix.Kill(shown.Process, unix.SIGSTOP)))
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	qt.Assert(t, qt.IsNil(a.retireMember(short)))
	_, err = member.ReadConfig(member.ConfigPath(a.opt.Dir))
	qt.Assert(t, qt.ErrorIs(err, fs.ErrNotExist))
	qt.Assert(t, qt.IsNil(member.End(ctx, c))) // there is none
}

func TestMemberURLs(t *testing.T) {
	at := []netip.Addr{netip.MustParseAddr("2001:db8::7"), netip.MustParseAddr("fe80::7"), netip.MustParseAddr("192.0.2.7")}
	qt.Check(t, qt.DeepEquals(memberURLs(at, 7078), []string{"https://[2001:db8::7]:7078", "https://192.0.2.7:7078"}))
}

// What an operator's own cluster needs, its own tools do.
func TestOwnCluster(t *testing.T) {
	hosts := []directory.Host{{Name: "a"}, {Name: "b", Member: []string{"https://192.0.2.8:7078"}, Removed: true}}
	qt.Check(t, qt.HasLen(urlsOf(hosts), 0))
	u := New(Options{Dir: t.TempDir(), Hosts: func() []directory.Host { return hosts }})
	qt.Check(t, qt.IsFalse(u.embeds()))
	qt.Check(t, qt.IsFalse(u.Displaced(&hosts[0])))
	hosts[1].Removed = false
	qt.Check(t, qt.IsTrue(u.embeds()))
}
