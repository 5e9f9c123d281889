package member_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/cluster"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/etcd"
	"github.com/snapctl/snapctl/vem/directory/member"
)

// plain makes a member of one host that is reached by a unix socket, without TLS.
func plain(c *member.Config) {
	c.ListenClient = []string{"unix://" + c.Dir + ".sock"}
	c.ListenPeer[0] = "http" + strings.TrimPrefix(c.ListenPeer[0], "https")
	c.ClientTLS, c.PeerTLS = nil, nil
}

// alone returns an installation with one host, whose member was not started.
func alone(t *testing.T, change func(c *member.Config)) (*cluster.Installation, *cluster.Host) {
	t.Helper()
	in := cluster.Prepare(t)
	h := in.Add(t, 1, func(c *member.Config) {
		plain(c)
		if change != nil {
			change(c)
		}
	})
	h.Open(t, in)
	return in, h
}

func store(t *testing.T, h *cluster.Host, in *cluster.Installation) *etcd.Store {
	t.Helper()
	opt := etcd.Options{Endpoints: h.Config.ListenClient, Prefix: "test", Log: in.Log}
	if h.Config.ClientTLS != nil {
		opt.TLS = in.TLS(t)
	}
	s, err := etcd.Open(cluster.Ctx(t), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { qt.Check(t, qt.IsNil(s.Close())) })
	return s
}

func put(t *testing.T, s *etcd.Store, key, value string) int64 {
	t.Helper()
	revision, err := s.Commit(cluster.Ctx(t), directory.Txn{Puts: []directory.Put{{Key: key, Value: []byte(value)}}})
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

func get(t *testing.T, s *etcd.Store, key string) directory.Entry {
	t.Helper()
	e, err := s.Get(cluster.Ctx(t), key)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func pid(t *testing.T, h *cluster.Host) int {
	t.Helper()
	st, err := h.Status(cluster.Ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	return st.PID
}

// The process outlives the daemon, the next one goes on with it, and it is started again when it
// ends.
func TestMemberOutlivesItsDaemon(t *testing.T) {
	in, h := alone(t, nil)
	ctx := cluster.Ctx(t)
	qt.Assert(t, qt.Equals(pid(t, h), 0))
	qt.Assert(t, qt.IsNil(h.Start(ctx)))
	qt.Assert(t, qt.IsNil(h.Start(ctx)))
	first := pid(t, h)
	qt.Assert(t, qt.Not(qt.Equals(first, 0)))
	put(t, store(t, h, in), "a", "1")
	qt.Assert(t, qt.IsNil(h.Close()))

	h.Open(t, in)
	qt.Check(t, qt.Equals(pid(t, h), first))
	qt.Assert(t, qt.IsNil(h.Start(ctx)))
	qt.Check(t, qt.Equals(pid(t, h), first))

	h.Signal(t, unix.SIGKILL)
	cluster.Until(t, "another process serves", func() bool {
		st, err := h.Status(ctx)
		return err == nil && st.Healthy() && st.PID != first
	})
	qt.Check(t, qt.Equals(string(get(t, store(t, h, in), "a").Value), "1"))

	st, err := h.Status(ctx)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(st.Health.Leader, st.Health.ID))
	qt.Check(t, qt.HasLen(st.Members, 1))
	qt.Check(t, qt.IsTrue(st.Members[0].Answers && st.Members[0].Leads))
	qt.Check(t, qt.Equals(st.Members[0].Name, "host1"))
	qt.Check(t, qt.IsFalse(st.Full || st.Corrupt))
	qt.Check(t, qt.Equals(st.Quota, int64(member.DefaultQuotaBytes)))
	t.Logf("%+v; on disk %d KiB", st, diskUse(t, h.Config.Dir)>>10)

	qt.Assert(t, qt.IsNil(h.Stop(ctx)))
	qt.Check(t, qt.Equals(pid(t, h), 0))
	qt.Assert(t, qt.IsNil(h.Stop(ctx)))
}

func diskUse(t *testing.T, dir string) int64 {
	t.Helper()
	var sum int64
	err := filepath.Walk(dir, func(path string, _ os.FileInfo, err error) error {
		var st unix.Stat_t
		if err == nil && unix.Lstat(path, &st) == nil {
			sum += st.Blocks * 512
		}
		return nil
	})
	qt.Assert(t, qt.IsNil(err))
	return sum
}

// Each way in which a member can't start is told apart, and is over when its cause is.
// scribble writes garbage over a part of a file.
// A full disk ends the process. It says so, and goes on when there is room, with all that it had.
// fill writes a file until there is no room.
// A restored directory has what the backup had, and its revisions are above all there ever were.
// A restore that was broken off at any point leaves the old data or the new, and never lets an
// empty directory take their place.
// A directory grows from one member to three, loses one for ever, and gets another.
func TestOneMemberBecomesThree(t *testing.T) {
	in := cluster.New(t, 1, nil)
	ctx := cluster.Ctx(t)
	first := in.Hosts[0]
	s := store(t, first, in)
	put(t, s, "a", "1")
	join := func(n int) *cluster.Host {
		h := in.Add(t, n, nil)
		for range 2 {
			peers, err := first.Cluster().Add(ctx, h.Config.Name, h.Config.ListenPeer)
			qt.Assert(t, qt.IsNil(err))
			h.Config.Cluster, h.Config.Join = peers, true
			put(t, s, "a", h.Config.Name) //nolint:contextcheck // a member that is to come stops nothing; the test's context
		}
		h.Open(t, in) //nolint:contextcheck // what it cleans up with is not ctx
		qt.Assert(t, qt.IsNil(h.Start(ctx)))
		for range 2 {
			qt.Assert(t, qt.IsNil(first.Cluster().Promote(ctx, h.Config.Name)))
		}
		return h
	}
	second, third := join(2), join(3)
	st, err := first.Status(ctx)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(st.Members, 3))
	for _, p := range st.Members {
		qt.Check(t, qt.IsTrue(p.Answers && !p.Learner), qt.Commentf("%+v", p))
	}

	// The third one dies for ever.
	dead, err := third.Status(ctx)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(third.Stop(ctx)))
	put(t, s, "a", "two are enough")
	qt.Check(t, qt.ErrorIs(first.Cluster().Remove(ctx, memberID(t, second)), member.ErrQuorum))
	qt.Check(t, qt.ErrorIs(first.Defragment(ctx), member.ErrQuorum))
	for range 2 {
		qt.Assert(t, qt.IsNil(first.Cluster().Remove(ctx, dead.Health.ID)))
	}
	fourth := join(4)
	qt.Check(t, qt.Equals(string(get(t, store(t, fourth, in), "a").Value), "host4"))
	// It comes back, and is not let in.
	err = third.Start(ctx)
	var end *member.EndError
	qt.Assert(t, qt.ErrorAs(err, &end))
	qt.Check(t, qt.Equals(end.Reason, member.ReasonRemoved))
}

func memberID(t *testing.T, h *cluster.Host) uint64 {
	t.Helper()
	st, err := h.Status(cluster.Ctx(t))
	if err != nil || !st.Answers {
		t.Fatalf("status of %s: %v, %v", h.Config.Name, err, st.Err)
	}
	return st.Health.ID
}

// A new program is taken up one member after another, and a bad one is not.
func TestUpgrade(t *testing.T) {
	in := cluster.New(t, 3, nil)
	ctx := cluster.Ctx(t)
	s := store(t, in.Hosts[0], in)
	put(t, s, "a", "1")
	newer := filepath.Join(filepath.Dir(in.Exe), "newer")
	content, err := os.ReadFile(in.Exe)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(os.WriteFile(newer, content, 0o755)))
	for _, h := range in.Hosts {
		before := pid(t, h)
		for range 2 { // the second time there is nothing to do
			qt.Assert(t, qt.IsNil(h.Upgrade(ctx, newer)))
			after := pid(t, h)
			qt.Check(t, qt.Not(qt.Equals(after, before)))
			exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", after))
			qt.Check(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(exe, newer))
			before = 0
		}
		qt.Check(t, qt.IsNil(h.Defragment(ctx)))
	}
	h := in.Hosts[0]
	before := pid(t, h)
	bad := filepath.Join(filepath.Dir(in.Exe), "bad")
	qt.Assert(t, qt.IsNil(os.WriteFile(bad, []byte("#!/bin/sh\nexit 1\n"), 0o755)))
	qt.Check(t, qt.IsNotNil(h.Upgrade(ctx, bad)))
	qt.Check(t, qt.Equals(pid(t, h), before))
	// One that looks well and does not serve.
	qt.Assert(t, qt.IsNil(os.WriteFile(bad, []byte("#!/bin/sh\n[ $1 = version ] || exit 1\n"), 0o755)))
	qt.Check(t, qt.IsNotNil(h.Upgrade(ctx, bad)))
	qt.Check(t, qt.Equals(string(get(t, s, "a").Value), "1"))
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid(t, h)))
	qt.Check(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(exe, newer))

	// Not while another member is away.
	qt.Assert(t, qt.IsNil(in.Hosts[1].Stop(ctx)))
	qt.Check(t, qt.ErrorIs(h.Upgrade(ctx, in.Exe), member.ErrQuorum))
}

// Two processes never have one folder.
func TestOneProcessForAFolder(t *testing.T) {
	in, h := alone(t, nil)
	ctx := cluster.Ctx(t)
	qt.Assert(t, qt.IsNil(h.Start(ctx)))
	first := pid(t, h)
	out, err := exec.CommandContext(ctx, in.Exe, "serve", filepath.Join(h.Config.Dir, "config.json")).CombinedOutput()
	qt.Check(t, qt.IsNotNil(err))
	qt.Check(t, qt.StringContains(string(out), member.ErrRunning.Error()))
	qt.Check(t, qt.Equals(pid(t, h), first))
	out, err = exec.CommandContext(ctx, in.Exe, "version").CombinedOutput()
	qt.Check(t, qt.IsNil(err))
	qt.Check(t, qt.StringContains(string(out), "etcd 3.7.3"))
	for _, args := range [][]string{{}, {"serve"}, {"restore", "x"}, {"--wrong"}} {
		err := exec.CommandContext(ctx, in.Exe, args...).Run()
		var exit *exec.ExitError
		qt.Assert(t, qt.ErrorAs(err, &exit))
		qt.Check(t, qt.Equals(exit.ExitCode(), 2), qt.Commentf("%q", args))
	}
}
