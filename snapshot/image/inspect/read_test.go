package inspect

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/imagetest"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// find returns the first element that ok likes, and fails the test if there is
// none.
func find[T any](tb testing.TB, list []T, ok func(T) bool) T {
	tb.Helper()
	i := slices.IndexFunc(list, ok)
	qt.Assert(tb, qt.IsTrue(i >= 0), qt.Commentf("none of %d", len(list)))
	return list[i]
}

// What app.py of the dump did is what Inspect has to find.
func TestInspect(t *testing.T) {
	for _, name := range imagetest.Names(t) {
		t.Run(name, func(t *testing.T) {
			info, err := Read(t.Context(), imagetest.Dump(t, name))
			qt.Assert(t, qt.IsNil(err))
			t.Run("processes", func(t *testing.T) { checkProcesses(t, info) })
			t.Run("files", func(t *testing.T) { checkFiles(t, info) })
			t.Run("sockets", func(t *testing.T) { checkSockets(t, info, name == "sandbox") })
			t.Run("memory", func(t *testing.T) { checkMemory(t, info) })
			t.Run("namespaces", func(t *testing.T) { checkNamespaces(t, info, name == "sandbox") })
			t.Run("whole", func(t *testing.T) { checkWhole(t, info) })
		})
	}
}

func checkProcesses(t *testing.T, info *Info) {
	t.Helper()
	type want struct {
		State  ProcessState
		Parent int
		Leads  bool // its own session
	}
	got := make(map[string]want)
	for _, p := range info.Processes {
		got[p.Comm] = want{p.State, p.PPID, p.SID == p.PID && p.PGID == p.PID}
		if p.State != ProcessDead {
			qt.Check(t, qt.Equals(p.Exe, "/usr/bin/python3.11"))
			qt.Check(t, qt.Equals(p.Cwd, "/"))
			qt.Check(t, qt.Equals(p.Root, "/"))
			qt.Check(t, qt.Equals(p.Threads[0], Thread{TID: p.PID, Comm: p.Comm}))
		}
	}
	qt.Check(t, qt.CmpEquals(got, map[string]want{
		"python3": {ProcessAlive, 0, true},
		"leader":  {ProcessAlive, 1, true},
		"closer":  {ProcessAlive, 1, false},
		"zombie":  {ProcessDead, 1, false},
		"stopped": {ProcessStopped, 1, false},
	}))
	root := info.Processes[0]
	qt.Check(t, qt.Equals(root.PID, 1))
	qt.Check(t, qt.HasLen(root.Threads, 2))
	zombie := find(t, info.Processes, func(p Process) bool { return p.Comm == "zombie" })
	qt.Check(t, qt.Equals(zombie.ExitCode, 3<<8))
	leader := find(t, info.Processes, func(p Process) bool { return p.Comm == "leader" })
	qt.Check(t, qt.Equals(leader.Objects.NetNS, root.Objects.NetNS))
	qt.Check(t, qt.Not(qt.Equals(leader.Objects.Memory, root.Objects.Memory)))
}

func checkFiles(t *testing.T, info *Info) {
	t.Helper()
	removed := find(t, info.Files, func(f File) bool { return f.Removed })
	qt.Check(t, qt.Equals(removed.Name, "/tmp/removed"))
	qt.Check(t, qt.Equals(removed.PositionBytes, 25))
	qt.Assert(t, qt.IsNotNil(removed.SizeBytes))
	qt.Check(t, qt.Equals(*removed.SizeBytes, 25))
	qt.Check(t, qt.HasLen(removed.OpenAt, 4))

	output := find(t, info.Files, func(f File) bool { return f.Name == "/tmp/output" })
	qt.Check(t, qt.Equals(output.Flags, "0102001")) // O_LARGEFILE|O_APPEND|O_WRONLY
	qt.Check(t, qt.HasLen(output.OpenAt, 8))        // stdout and stderr of four

	kinds := make(map[FileKind]bool)
	for _, d := range info.Processes[0].Descriptors {
		kinds[d.Kind] = true
		file := find(t, info.Files, func(f File) bool { return f.ID == d.File })
		qt.Check(t, qt.SliceContains(file.OpenAt, image.DescriptorRef{PID: 1, FD: d.FD}))
		qt.Check(t, qt.Equals(d.Name, file.Name))
	}
	for _, kind := range []FileKind{
		FileRegular, FileInet, FileUnix, FilePipe, FileEpoll, FileEventFD, FileTimerFD, FileMemfd,
	} {
		qt.Check(t, qt.IsTrue(kinds[kind]), qt.Commentf("%s", kind))
	}
	named := find(t, info.Files, func(f File) bool { return f.Kind == FileMemfd && len(f.OpenAt) > 0 })
	qt.Check(t, qt.Equals(named.Name, "memfd:test-memfd"))
}

func checkSockets(t *testing.T, info *Info, saved bool) {
	t.Helper()
	listener := find(t, info.Sockets, func(s Socket) bool { return s.State == "LISTEN" })
	qt.Check(t, qt.CmpEquals(listener, Socket{
		NetNS: info.Processes[0].Objects.NetNS, Family: "inet", Protocol: "tcp", State: "LISTEN",
		Local:   netip.MustParseAddrPort("127.0.0.1:7001"),
		Options: SocketOptions{Backlog: 64, ReuseAddr: true},
	}, cmpopts.IgnoreFields(Socket{}, "File", "Inode", "OpenAt"),
		cmpopts.IgnoreFields(SocketOptions{}, "SendBuffer", "ReceiveBuffer"),
		cmpopts.EquateComparable(netip.AddrPort{})))
	// Two have it: one process closed it, one is dead.
	qt.Check(t, qt.HasLen(listener.OpenAt, 3))

	six := find(t, info.Sockets, func(s Socket) bool { return s.Family == "inet6" && s.Remote.Port() == 7002 })
	qt.Check(t, qt.Equals(six.Remote, netip.MustParseAddrPort("[::1]:7002")))
	qt.Check(t, qt.Equals(six.State, "ESTABLISHED"))
	udp := find(t, info.Sockets, func(s Socket) bool { return s.Protocol == "udp" && s.Local.Port() == 7003 })
	qt.Check(t, qt.IsFalse(udp.Remote.IsValid()))
	nonblock := find(t, info.Sockets, func(s Socket) bool { return s.Options.Nonblock })
	qt.Check(t, qt.Equals(nonblock.Remote.Port(), 7001))

	abstract := find(t, info.Sockets, func(s Socket) bool { return s.Path == "@snapctl-test" })
	qt.Check(t, qt.Equals(abstract.Family, "unix"))
	qt.Check(t, qt.Equals(abstract.Options.Backlog, 5))
	receiver := find(t, info.Sockets, func(s Socket) bool { return s.Family == "unix" && s.Queue != nil })
	qt.Check(t, qt.Equals(*receiver.Queue, SocketQueue{ReceivedBytes: 14, Packets: 2, FilesPassed: 2}))
	peer := find(t, info.Sockets, func(s Socket) bool { return s.Inode == receiver.PeerInode })
	qt.Check(t, qt.Equals(peer.PeerInode, receiver.Inode))

	qt.Check(t, qt.Equals(info.TCPClosed, !saved))
	var waiting []uint64
	for _, s := range info.Sockets {
		if s.Protocol == "tcp" && s.Queue != nil {
			waiting = append(waiting, s.Queue.ReceivedBytes)
		}
	}
	slices.Sort(waiting)
	if saved {
		qt.Check(t, qt.DeepEquals(waiting, []uint64{0, 0, 0, 0, 0, 0, 0, 22, 22}))
	} else {
		qt.Check(t, qt.HasLen(waiting, 0))
	}
}

func checkMemory(t *testing.T, info *Info) {
	t.Helper()
	root := info.Processes[0]
	big := find(t, root.Memory.Mappings, func(m Mapping) bool { return m.SizeBytes == 4<<20 && m.Kind == MapAnon })
	qt.Check(t, qt.Equals(big.Prot, "rw-p"))
	qt.Check(t, qt.Equals(big.StoredPages, 3))
	qt.Check(t, qt.Equals(big.StoredBytes, 12288))
	libc := find(t, root.Memory.Mappings, func(m Mapping) bool { return filepath.Base(m.File) == "libc.so.6" })
	qt.Check(t, qt.Equals(libc.Kind, MapFile))
	kinds := make(map[MappingKind]int)
	for _, m := range root.Memory.Mappings {
		kinds[m.Kind]++
		qt.Check(t, qt.Equals(m.SizeBytes, uint64(m.End-m.Start)))
		qt.Check(t, qt.IsTrue(m.StoredBytes <= m.SizeBytes))
	}
	for _, kind := range []MappingKind{MapHeap, MapStack, MapVDSO, MapVvar, MapSysV, MapMemfd, MapFileShared} {
		qt.Check(t, qt.IsTrue(kinds[kind] > 0), qt.Commentf("%s", kind))
	}
	stack := find(t, root.Memory.Mappings, func(m Mapping) bool { return m.Kind == MapStack })
	qt.Check(t, qt.DeepEquals(stack.Flags, []string{"growsdown"}))
	qt.Check(t, qt.Equals(root.Memory.StoredBytes, uint64(pagesOf(t, info, root))))
	text, err := json.Marshal(stack.Start)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(string(text), fmt.Sprintf(`"%#x"`, uint64(stack.Start))))
}

// pagesOf finds the size of a process's pages image the other way round.
func pagesOf(t *testing.T, info *Info, p Process) int64 {
	t.Helper()
	for _, file := range info.Images {
		if file.SizeBytes == p.Memory.StoredBytes && file.Type == "raw" {
			return int64(file.SizeBytes)
		}
	}
	return -1
}

func checkNamespaces(t *testing.T, info *Info, mounts bool) {
	t.Helper()
	qt.Assert(t, qt.HasLen(info.Hosts, 1))
	qt.Check(t, qt.Equals(info.Hosts[0].Name, "snap-test"))
	qt.Check(t, qt.Equals(info.Hosts[0].Namespace, info.Processes[0].Objects.UTSNS))
	qt.Check(t, qt.DeepEquals(info.Netns, []Netns{{Namespace: info.Processes[0].Objects.NetNS, External: "app-net"}}))

	qt.Assert(t, qt.HasLen(info.IPC, 1))
	ipc := info.IPC[0]
	qt.Check(t, qt.DeepEquals(ipc.SharedMemory, []SharedMemory{{IPCObject: IPCObject{Key: 0x1234, Mode: "0600"}, SizeBytes: 8192}}))
	qt.Check(t, qt.DeepEquals(ipc.Semaphores, []SemaphoreSet{{IPCObject: IPCObject{Key: 0x1235, Mode: "0600"}, Semaphores: 3}}))
	qt.Check(t, qt.DeepEquals(ipc.MessageQueues, []MessageQueue{{
		IPCObject: IPCObject{Key: 0x1236, Mode: "0600"}, Messages: 1, Bytes: 13, MaxBytes: 16384,
	}}))

	if !mounts {
		qt.Check(t, qt.HasLen(info.Mounts, 0))
		return
	}
	got := make(map[string]string)
	for _, m := range info.Mounts {
		got[m.Mountpoint] = m.FSType + " " + m.External
	}
	qt.Check(t, qt.DeepEquals(got, map[string]string{
		"/": "overlay ", "/proc": "proc ", "/tmp": "tmpfs ", "/dev/null": "devtmpfs dev-null",
	}))
}

func checkWhole(t *testing.T, info *Info) {
	t.Helper()
	qt.Check(t, qt.Equals(info.Version, 2))
	qt.Check(t, qt.IsFalse(info.Incremental))
	qt.Check(t, qt.Equals(info.Totals.Processes, 5))
	qt.Check(t, qt.Equals(info.Totals.Threads, 5))
	qt.Check(t, qt.Equals(info.Totals.Sockets, 17))
	qt.Assert(t, qt.IsNotNil(info.Dump))
	qt.Check(t, qt.Equals(info.Dump.PagesWritten*image.PageSize, processBytes(info)))

	files := find(t, info.Images, func(f ImageFile) bool { return f.Name == "files.img" })
	qt.Check(t, qt.Equals(files.Type, "files"))
	qt.Check(t, qt.Equals(files.Records, len(info.Files)))
	for _, file := range info.Images {
		raw := file.Type == "raw"
		name, err := filepath.Match("pages-*", file.Name)
		qt.Assert(t, qt.IsNil(err))
		if name || filepath.Ext(file.Name[:len(file.Name)-4]) == ".gz" {
			qt.Check(t, qt.IsTrue(raw), qt.Commentf("%s", file.Name))
		} else {
			qt.Check(t, qt.IsFalse(raw), qt.Commentf("%s", file.Name))
		}
	}
	// Nothing in the output is null where a list is meant.
	text, err := json.Marshal(info)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Not(qt.StringContains(string(text), "null,")))
}

func processBytes(info *Info) uint64 {
	var sum uint64
	for _, p := range info.Processes {
		if p.Memory != nil {
			sum += p.Memory.StoredBytes
		}
	}
	return sum
}

func TestInspectView(t *testing.T) {
	images := imagetest.Dump(t, "plain")
	v, err := image.NewView(t.Context(), images, filepath.Join(t.TempDir(), "view"))
	qt.Assert(t, qt.IsNil(err))
	want, err := Read(t.Context(), images)
	qt.Assert(t, qt.IsNil(err))
	got, err := Read(t.Context(), v.Dir())
	qt.Assert(t, qt.IsNil(err))
	want.Dump = nil // statistics are not in a view
	qt.Check(t, qt.CmpEquals(got, want, cmpopts.EquateComparable(netip.AddrPort{})))
}

func TestInspectErrors(t *testing.T) {
	_, err := Read(t.Context(), filepath.Join(t.TempDir(), "missing"))
	qt.Check(t, qt.ErrorIs(err, os.ErrNotExist))
	images := imagetest.Dump(t, "plain")
	qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(images, "pstree.img"), []byte("garbage!"), 0o600)))
	_, err = Read(t.Context(), images)
	qt.Check(t, qt.ErrorIs(err, wire.ErrMalformed))
}

func TestSockets(t *testing.T) {
	for _, name := range []string{"plain", "sandbox"} {
		images := imagetest.Dump(t, name)
		info, err := Read(t.Context(), images)
		qt.Assert(t, qt.IsNil(err))
		for i := range info.Sockets {
			info.Sockets[i].Queue, info.Sockets[i].OpenAt = nil, nil
		}
		sockets, err := Sockets(t.Context(), images)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.CmpEquals(sockets, info.Sockets, cmpopts.EquateComparable(netip.AddrPort{})))
		qt.Check(t, qt.IsTrue(len(sockets) > 3))

		qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(images, "files.img"), []byte("garbage!"), 0o600)))
		_, err = Sockets(t.Context(), images)
		qt.Check(t, qt.ErrorIs(err, wire.ErrMalformed))
		_, err = Sockets(t.Context(), t.TempDir())
		qt.Check(t, qt.ErrorIs(err, os.ErrNotExist))
	}
}

func BenchmarkInspect(b *testing.B) {
	images := imagetest.Dump(b, "sandbox")
	b.ReportAllocs()
	for b.Loop() {
		_, err := Read(b.Context(), images)
		qt.Assert(b, qt.IsNil(err))
	}
}
