package checkpoint

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/checkpoint/mapped"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/vem/netns"
	"github.com/snapctl/snapctl/vem/tcprepair"
)

// Message queues that a reboot has taken are there again, empty, with their modes; the name of
// one that was unlinked goes when it has been opened.
func TestQueuesAreMadeAgain(t *testing.T) {
	testenv.Need(t, testenv.Root)
	s := saved(t)
	qt.Assert(t, qt.IsNil(os.MkdirAll(filepath.Join(s.Box.RunDir, "ns"), 0o700)))
	queue := func(name string, unlinked bool) snapshot.External {
		return snapshot.External{Kind: snapshot.ExternalQueue, Key: name, PID: 1, FD: 3, Queue: &snapshot.Queue{
			Name: name, Unlinked: unlinked, Inode: 7, Mode: 0o666, Messages: 5, Size: 64, Flags: os.O_RDWR,
		}}
	}
	kept, gone := queue("/jobs", false), queue("/old", true)
	m := &snapshot.Manifest{}
	m.External = []snapshot.External{{Kind: snapshot.ExternalIPC}, kept, gone}
	qt.Assert(t, qt.IsNil(s.restoreQueues(m)))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(s.Box.DropIPC())) })
	qt.Assert(t, qt.IsNil(s.restoreQueues(m)), qt.Commentf("they are there"))

	f, err := s.openQueue(kept.Queue)
	qt.Assert(t, qt.IsNil(err))
	info, err := f.Stat()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(info.Mode().Perm(), 0o666), qt.Commentf("whatever the umask is"))
	qt.Assert(t, qt.IsNil(f.Close()))

	inode := func() uint64 {
		f, err := s.openQueue(gone.Queue)
		qt.Assert(t, qt.IsNil(err))
		t.Cleanup(func() { f.Close() }) // or its number could be used again
		var st unix.Stat_t
		qt.Assert(t, qt.IsNil(unix.Fstat(int(f.Fd()), &st)))
		return st.Ino
	}
	first := inode()
	qt.Assert(t, qt.Equals(inode(), first))
	qt.Assert(t, qt.IsNil(s.unlinkQueues([]snapshot.External{gone})))
	qt.Assert(t, qt.IsNil(s.unlinkQueues([]snapshot.External{gone})), qt.Commentf("it may be opened twice"))
	qt.Assert(t, qt.Not(qt.Equals(inode(), first)))
}

// What the app has made in /dev is there again in a fresh one.
func TestDevIsCopied(t *testing.T) {
	from, to, at := saved(t), saved(t), snapshot.Dir(t.TempDir())
	for _, s := range []*Subject{from, to} {
		qt.Assert(t, qt.IsNil(os.MkdirAll(s.Box.Shm(), 0o755)))
	}
	qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(from.Box.Shm(), "shared"), []byte("memory"), 0o600)))
	qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(from.Box.Dev(), "own"), []byte("file"), 0o600)))
	qt.Assert(t, qt.IsNil(from.saveDev(t.Context(), at)))
	qt.Assert(t, qt.IsNil(to.LoadDev(t.Context(), at)))
	for path, want := range map[string]string{filepath.Join(to.Box.Shm(), "shared"): "memory", filepath.Join(to.Box.Dev(), "own"): "file"} {
		b, err := os.ReadFile(path)
		qt.Check(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(string(b), want))
	}
}

func TestPlace(t *testing.T) {
	s := saved(t, specs.Mount{Destination: "/data", Source: "/srv"})
	ns, err := netns.Current()
	qt.Assert(t, qt.IsNil(err))
	defer ns.Close()
	place, err := s.place(ns)
	qt.Assert(t, qt.IsNil(err))
	for _, f := range place.Stdio {
		defer f.Close()
	}
	qt.Check(t, qt.IsFalse(place.IPC))
	qt.Check(t, qt.Equals(place.Root, s.Box.Root()))
	qt.Check(t, qt.Equals(place.Binds["/data"], "/srv"))
	qt.Check(t, qt.Equals(place.Work, s.work()))
}

// What was reset and what was kept is told of what was saved; what can't be told is no reason
// to fail.
func TestOutcomesOfASnapshot(t *testing.T) {
	tools := &Tools{Log: slog.New(slog.DiscardHandler)}
	dir := snapshot.Dir(t.TempDir())
	a, b := netip.MustParseAddrPort("[::ffff:10.77.0.7]:80"), netip.MustParseAddrPort("10.77.0.7:4000")
	inside := tcprepair.Saved{Connections: []tcprepair.Connection{{Ends: []tcprepair.State{
		{Inode: 1, Family: unix.AF_INET6, Local: a, Remote: netip.AddrPortFrom(b.Addr(), b.Port())}, {Inode: 2, Family: unix.AF_INET, Local: b, Remote: netip.AddrPortFrom(a.Addr().Unmap(), a.Port())},
	}}}}
	qt.Assert(t, qt.IsNil(os.WriteFile(dir.Connections(), tcprepair.Encode(inside), 0o600)))
	m := &snapshot.Manifest{App: "cache"}
	m.Connections = 1
	out := tools.Restored(t.Context(), dir, m)
	qt.Assert(t, qt.DeepEquals(out, []Outcome{{Socket: "tcp 10.77.0.7:80 <-> 10.77.0.7:4000", Reason: "both of its ends are in the app", Kept: true}}))
	m.Connections = 2 // the file is not what the manifest says
	qt.Assert(t, qt.HasLen(tools.Restored(t.Context(), dir, m), 0))
	qt.Assert(t, qt.HasLen(tools.Reset(t.Context(), dir, nil, nil, ""), 0))
}

func TestMemoryFileIsGone(t *testing.T) {
	s, tools := saved(t), tools(t)
	found, err := mapped.Find(tools.Memory, s.Memory, s.cgroup().PIDs)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(found, 0))
	s.Memory = []memory.File{{ID: "ab"}}
	_, err = mapped.Find(tools.Memory, s.Memory, s.cgroup().PIDs)
	qt.Assert(t, qt.ErrorIs(err, os.ErrNotExist))
	qt.Assert(t, qt.ErrorMatches(err, "find memory file ab: .*"))
}

func TestNetStateOfASubject(t *testing.T) {
	s := saved(t)
	s.Note = func(string, string) {}
	state := s.NetState()
	qt.Assert(t, qt.Equals(state.NetPath, s.Box.NetPath()))
	qt.Assert(t, qt.Equals(state.Repair, filepath.Join(WorkDir(s.Box), "repair.json")))
	qt.Assert(t, qt.IsNil(state.EndRepair(t.Context())))
}
