package hold_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"github.com/go-quicktest/qt"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/holder"
)

func TestCollect(t *testing.T) {
	w := newWorld(t)
	l4 := w.listen(app4, 7)
	client := w.dial(app4, w.local(l4))
	conn := w.accept(l4)
	l6 := w.listen(netip.IPv6Unspecified(), 9)
	mapped := w.dial(app4, netip.AddrPortFrom(app4, w.local(l6).Port()))
	mappedConn := w.accept(l6)
	udp := w.bound(app4, unix.SOCK_DGRAM, 0)
	connected := w.bound(app6, unix.SOCK_DGRAM, 0)
	qt.Assert(t, qt.IsNil(unix.Connect(int(connected.Fd()), sockaddr(netip.AddrPortFrom(app6, 53)))))
	fresh := w.socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	raw := w.socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_TCP)
	finished := w.dial(app4, w.local(l4))
	finishedAddr := w.local(finished)
	halfClosed := w.accept(l4)
	closeNow(t, finished)
	poll(t, halfClosed, unix.POLLIN)

	type row struct {
		Kind          hold.Kind
		Family        int
		State         string
		Local, Remote netip.AddrPort
		Backlog       int
		FDs           []int
	}
	none := netip.AddrPort{}
	want := map[uint64]row{
		inode(t, l4):         {hold.TCPListen, unix.AF_INET, "LISTEN", w.local(l4), none, 7, []int{3}},
		inode(t, conn):       {hold.TCP, unix.AF_INET, "ESTABLISHED", w.local(l4), w.local(client), 0, []int{4, 12}},
		inode(t, l6):         {hold.TCPListen, unix.AF_INET6, "LISTEN", w.local(l6), none, 9, []int{5}},
		inode(t, mappedConn): {hold.TCP, unix.AF_INET6, "ESTABLISHED", w.local(mappedConn), w.local(mapped), 0, []int{6}},
		inode(t, udp):        {hold.UDP, unix.AF_INET, "CLOSE", w.local(udp), none, 0, []int{7}},
		inode(t, connected):  {hold.UDP, unix.AF_INET6, "ESTABLISHED", w.local(connected), netip.AddrPortFrom(app6, 53), 0, []int{8}},
		inode(t, fresh):      {hold.TCP, unix.AF_INET, "CLOSE", netip.MustParseAddrPort("0.0.0.0:0"), none, 0, []int{9}},
		inode(t, raw):        {hold.Raw, unix.AF_INET, "CLOSE", netip.MustParseAddrPort("0.0.0.0:6"), none, 0, []int{10}},
		inode(t, halfClosed): {hold.TCP, unix.AF_INET, "CLOSE_WAIT", w.local(l4), finishedAddr, 0, []int{11}},
	}
	again, err := unix.FcntlInt(conn.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	qt.Assert(t, qt.IsNil(err))
	a := w.run(l4, conn, l6, mappedConn, udp, connected, fresh, raw, halfClosed, os.NewFile(uintptr(again), "again"))
	set := w.collect(a, hold.Options{})
	got := map[uint64]row{}
	for _, s := range set.Sockets {
		r := row{Kind: s.Kind, Family: s.Family, State: s.State, Local: s.Local, Remote: s.Remote, Backlog: s.Backlog}
		for _, o := range s.Owners {
			qt.Assert(t, qt.Equals(o.PID, a.pid))
			r.FDs = append(r.FDs, o.FD)
		}
		got[s.Inode] = r
		qt.Assert(t, qt.Equals(inode(t, s.File), s.Inode))
	}
	qt.Assert(t, qt.CmpEquals(got, want, byValue()))
}

// byValue lets cmp look at addresses.
func byValue() cmp.Option { return cmpopts.EquateComparable(netip.AddrPort{}) }

func inode(tb testing.TB, f *os.File) uint64 {
	tb.Helper()
	var st unix.Stat_t
	qt.Assert(tb, qt.IsNil(unix.Fstat(int(f.Fd()), &st)))
	return st.Ino
}

// openFDs counts this process's descriptors of sockets.
func openFDs(tb testing.TB) int {
	tb.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	qt.Assert(tb, qt.IsNil(err))
	n := 0
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && to[:min(len(to), 7)] == "socket:" {
			n++
		}
	}
	return n
}

// TestCollectGone asks for a process that is not there.
func TestCollectGone(t *testing.T) {
	w := newWorld(t)
	a := w.run(w.listen(app4, 1))
	a.kill(t)
	before := openFDs(t)
	_, err := hold.Collect(t.Context(), []int{a.pid}, hold.Options{NS: w.ns})
	qt.Assert(t, qt.ErrorIs(err, hold.ErrGone))
	_, err = hold.Collect(t.Context(), []int{w.run(w.listen(app4, 1)).pid, a.pid}, hold.Options{NS: w.ns})
	qt.Assert(t, qt.ErrorIs(err, hold.ErrGone))
	qt.Assert(t, qt.Equals(openFDs(t), before))
	qt.Assert(t, qt.HasLen(hold.Preflight(t.Context(), []int{a.pid}), 0))
}

// TestSurvive kills an app and hands its sockets to another one, by way of a
// holder; the peers notice nothing.
func TestSurvive(t *testing.T) {
	w := newWorld(t)
	l := w.listen(app4, 5)
	to := w.local(l)
	client := w.dial(app4, to)
	server := w.accept(l)
	w.write(server, "unread")
	store := holder.NewMemory()
	defer store.Close()

	a := w.run(l, server)
	set := w.collect(a, hold.Options{})
	items, err := set.Items()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(store.Put(t.Context(), "app", items)))
	a.kill(t)
	qt.Assert(t, qt.IsNil(set.Close()))
	qt.Assert(t, qt.IsNil(set.Close()))

	w.write(client, "hello")
	late := w.dial(app4, to)

	items, err = store.Get(t.Context(), "app")
	qt.Assert(t, qt.IsNil(err))
	again, err := hold.FromItems(items)
	qt.Assert(t, qt.IsNil(err))
	defer again.Close()
	for i := range again.Sockets {
		got, before := again.Sockets[i], set.Sockets[i]
		got.File, before.File = nil, nil
		qt.Assert(t, qt.CmpEquals(got, before, byValue()))
		flags, err := unix.FcntlInt(again.Sockets[i].File.Fd(), unix.F_GETFL, 0)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.Equals(flags&unix.O_NONBLOCK, unix.O_NONBLOCK)) // still the app's
		if again.Sockets[i].Kind == hold.TCP {
			buf := make([]byte, 10)
			poll(t, again.Sockets[i].File, unix.POLLIN)
			n, err := unix.Read(int(again.Sockets[i].File.Fd()), buf)
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.Equals(string(buf[:n]), "hello"))
		} else {
			qt.Assert(t, qt.Equals(w.local(w.accept(again.Sockets[i].File)), to))
		}
	}
	closeNow(t, late)
}

func TestSocketJSON(t *testing.T) {
	s := hold.Socket{Inode: 255, Kind: hold.TCPListen, Family: 2, Type: 1, Proto: 6, State: "LISTEN", Local: netip.MustParseAddrPort("10.77.0.7:80"), Backlog: 5, Owners: []hold.Owner{{PID: 1, FD: 2}}}
	b, err := json.Marshal(s)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(string(b), `{"inode":255,"kind":"tcp_listen","family":2,"type":1,"proto":6,"state":"LISTEN",`+
		`"local":"10.77.0.7:80","remote":"","backlog":5,"owners":[{"pid":1,"fd":2}]}`))
	var back hold.Socket
	qt.Assert(t, qt.IsNil(json.Unmarshal(b, &back)))
	qt.Assert(t, qt.CmpEquals(back, s, byValue()))
	qt.Assert(t, qt.Equals(s.Key(), "ff.socket"))
	qt.Assert(t, qt.ErrorIs(json.Unmarshal([]byte(`{"kind":"x"}`), &back), hold.ErrKind))
}

// refusals are things that cannot be hibernated, each as one descriptor.
func refusals() map[string]struct {
	open    func(t *testing.T, w *world) *os.File
	what    string
	onlyNow bool // Preflight does not see it
} {
	device := func(path string) func(t *testing.T, w *world) *os.File {
		return func(t *testing.T, _ *world) *os.File {
			t.Helper()
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Skipf("no such device here: %v", err)
			}
			return f
		}
	}
	socket := func(family, kind, proto int) func(t *testing.T, w *world) *os.File {
		return func(t *testing.T, w *world) *os.File {
			t.Helper()
			if fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, proto); err != nil {
				t.Skipf("no such socket here: %v", err)
			} else {
				qt.Assert(t, qt.IsNil(unix.Close(fd)))
			}
			return w.socket(family, kind, proto)
		}
	}
	return map[string]struct {
		open    func(t *testing.T, w *world) *os.File
		what    string
		onlyNow bool
	}{
		"MPTCP listener": {open: func(t *testing.T, w *world) *os.File {
			t.Helper()
			f := w.bound(app4, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)
			qt.Assert(t, qt.IsNil(unix.Listen(int(f.Fd()), 5)))
			return f
		}, what: "MPTCP socket"},
		"io_uring": {open: func(t *testing.T, _ *world) *os.File {
			t.Helper()
			var params [120]byte // struct io_uring_params
			fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&params)), 0)
			if errno != 0 {
				t.Skipf("no io_uring here: %v", errno)
			}
			return os.NewFile(fd, "io_uring")
		}, what: "io_uring"},
		"userfaultfd": {open: func(t *testing.T, _ *world) *os.File {
			t.Helper()
			fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK, 0, 0)
			if errno != 0 {
				t.Skipf("no userfaultfd here: %v", errno)
			}
			return os.NewFile(fd, "userfaultfd")
		}, what: "userfaultfd"},
		"TUN":   {open: device("/dev/net/tun"), what: "TUN/TAP device /dev/net/tun"},
		"FUSE":  {open: device("/dev/fuse"), what: "FUSE connection /dev/fuse"},
		"loop":  {open: device("/dev/loop-control"), what: "device /dev/loop-control (10:237)"},
		"vsock": {open: socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0), what: "vsock socket"},
		"XDP":   {open: socket(unix.AF_XDP, unix.SOCK_RAW, 0), what: "AF_XDP socket"},
		"corked UDP": {open: func(t *testing.T, w *world) *os.File {
			t.Helper()
			f := w.bound(app4, unix.SOCK_DGRAM, 0)
			qt.Assert(t, qt.IsNil(unix.SetsockoptInt(int(f.Fd()), unix.IPPROTO_UDP, unix.UDP_CORK, 1)))
			return f
		}, what: "corked UDP socket", onlyNow: true},
		"O_PATH socket file": {open: func(t *testing.T, w *world) *os.File {
			t.Helper()
			name := filepath.Join(t.TempDir(), "s")
			s := w.socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
			qt.Assert(t, qt.IsNil(unix.Bind(int(s.Fd()), &unix.SockaddrUnix{Name: name})))
			fd, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
			qt.Assert(t, qt.IsNil(err))
			return os.NewFile(uintptr(fd), name)
		}, what: "O_PATH descriptor of a unix socket file"},
		"netlink with messages": {open: func(t *testing.T, w *world) *os.File {
			t.Helper()
			f := w.socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
			// RTM_GETLINK dump: the answer waits to be read.
			req := []byte{20, 0, 0, 0, unix.RTM_GETLINK, 0, 1, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
			qt.Assert(t, qt.IsNil(unix.Sendto(int(f.Fd()), req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})))
			return f
		}, what: "netlink socket with messages that wait to be read", onlyNow: true},
		"unread fanotify": {open: func(t *testing.T, _ *world) *os.File {
			t.Helper()
			fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY)
			qt.Assert(t, qt.IsNil(err))
			dir := t.TempDir()
			qt.Assert(t, qt.IsNil(unix.FanotifyMark(fd, unix.FAN_MARK_ADD, unix.FAN_OPEN|unix.FAN_EVENT_ON_CHILD, unix.AT_FDCWD, dir)))
			qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(dir, "x"), nil, 0o600)))
			return os.NewFile(uintptr(fd), "fanotify")
		}, what: "fanotify group with events that wait to be read"},
		"pidfd of another process": {open: func(t *testing.T, _ *world) *os.File {
			t.Helper()
			fd, err := unix.PidfdOpen(os.Getpid(), 0)
			qt.Assert(t, qt.IsNil(err))
			return os.NewFile(uintptr(fd), "pidfd")
		}, what: "pidfd of a process outside of the app"},
	}
}

func TestRefuse(t *testing.T) {
	for name, test := range refusals() {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			harmless := w.listen(app4, 1)
			a := w.run(harmless, test.open(t, w))
			var want hold.UnsupportedError
			before := openFDs(t)
			set, err := hold.Collect(t.Context(), []int{a.pid}, hold.Options{NS: w.ns})
			if name == "pidfd of another process" { // CRIU's own check; only Preflight takes the time
				qt.Assert(t, qt.IsNil(err))
				qt.Assert(t, qt.IsNil(set.Close()))
			} else {
				qt.Assert(t, qt.ErrorIs(err, hold.ErrUnsupported))
				var got *hold.UnsupportedError
				qt.Assert(t, qt.ErrorAs(err, &got))
				want = hold.UnsupportedError{PID: a.pid, FD: 4, What: test.what, Remedy: got.Remedy}
				qt.Assert(t, qt.DeepEquals(*got, want))
				qt.Assert(t, qt.Not(qt.Equals(got.Remedy, "")))
				qt.Assert(t, qt.ErrorMatches(err, fmt.Sprintf(`process %d has an unsupported .* open as descriptor 4: .+`, a.pid)))
			}
			qt.Assert(t, qt.Equals(openFDs(t), before))

			findings := hold.Preflight(t.Context(), []int{a.pid})
			if test.onlyNow {
				qt.Assert(t, qt.IsNil(hold.Errors(findings)))
				return
			}
			var got *hold.UnsupportedError
			qt.Assert(t, qt.ErrorAs(hold.Errors(findings), &got))
			qt.Assert(t, qt.Equals(got.PID, a.pid))
			qt.Assert(t, qt.Equals(got.FD, 4))
			qt.Assert(t, qt.Equals(got.What, test.what))
		})
	}
}

// TestPreflightHarmless looks at a process with all kinds of things that can be
// held or saved.
func TestPreflightHarmless(t *testing.T) {
	w := newWorld(t)
	var files []*os.File
	add := func(fd int, err error) {
		t.Helper()
		qt.Assert(t, qt.IsNil(err))
		files = append(files, os.NewFile(uintptr(fd), "file"))
	}
	add(unix.Eventfd(0, unix.EFD_CLOEXEC))
	add(unix.EpollCreate1(unix.EPOLL_CLOEXEC))
	add(unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC))
	add(unix.Signalfd(-1, &unix.Sigset_t{}, unix.SFD_CLOEXEC))
	add(unix.InotifyInit1(unix.IN_CLOEXEC))
	add(unix.MemfdCreate("x", unix.MFD_CLOEXEC))
	for _, name := range []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/urandom", "/", "/proc/self/ns/net"} {
		add(unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0))
	}
	files = append(files,
		w.listen(app4, 1), w.bound(app6, unix.SOCK_DGRAM, 0), w.socket(unix.AF_UNIX, unix.SOCK_STREAM, 0),
		w.socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE), w.socket(unix.AF_INET, unix.SOCK_RAW, 1))
	a := w.run(files...)
	qt.Assert(t, qt.HasLen(hold.Preflight(t.Context(), []int{a.pid}), 0))
	set := w.collect(a, hold.Options{})
	qt.Assert(t, qt.HasLen(set.Sockets, 3))

	t.Run("packet socket", func(t *testing.T) {
		a := w.run(w.socket(unix.AF_PACKET, unix.SOCK_RAW, 0))
		findings := hold.Preflight(t.Context(), []int{a.pid})
		qt.Assert(t, qt.HasLen(findings, 1))
		qt.Assert(t, qt.Equals(findings[0].Severity, hold.Warning))
		qt.Assert(t, qt.ErrorMatches(findings[0].Err, `process \d+ has .*packet socket open as descriptor 3: .*`))
		qt.Assert(t, qt.IsNil(hold.Errors(findings)))
		qt.Assert(t, qt.HasLen(w.collect(a, hold.Options{}).Sockets, 0))
	})
	t.Run("io_uring that is only mapped", func(t *testing.T) {
		a := w.runAs("uring", refusals()["io_uring"].open(t, w))
		err := hold.Errors(hold.Preflight(t.Context(), []int{a.pid}))
		qt.Assert(t, qt.ErrorMatches(err, `process \d+ uses an unsupported io_uring: .*`))
	})
	t.Run("file outside", func(t *testing.T) {
		fd, err := unix.OpenTree(unix.AT_FDCWD, os.Args[0], unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		qt.Assert(t, qt.IsNil(err))
		a := w.run(os.NewFile(uintptr(fd), "tree"))
		findings := hold.Preflight(t.Context(), []int{a.pid})
		qt.Assert(t, qt.HasLen(findings, 1))
		qt.Assert(t, qt.Equals(findings[0].Severity, hold.Warning))
	})
	t.Run("device outside", func(t *testing.T) {
		fd, err := unix.OpenTree(unix.AT_FDCWD, "/dev/null", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		qt.Assert(t, qt.IsNil(err))
		a := w.run(os.NewFile(uintptr(fd), "tree"))
		err = hold.Errors(hold.Preflight(t.Context(), []int{a.pid}))
		qt.Assert(t, qt.ErrorMatches(err, `process \d+ has an unsupported device ".*", on a mount that no process of the app sees, open as descriptor 3: .*unshare.*`))
	})
}

// thousands makes an app with n connections, whose clients are ours.
func thousands(tb testing.TB, w *world, n int) (*app, []*os.File) {
	tb.Helper()
	var rl unix.Rlimit
	qt.Assert(tb, qt.IsNil(unix.Getrlimit(unix.RLIMIT_NOFILE, &rl)))
	testenv.Need(tb, func(context.Context) error {
		if rl.Cur < uint64(3*n+200) {
			return fmt.Errorf("RLIMIT_NOFILE is %d, want %d", rl.Cur, 3*n+200)
		}
		return nil
	})
	l := w.listen(app4, 100)
	to := w.local(l)
	files, clients := []*os.File{l}, make([]*os.File, n)
	for i := range n {
		clients[i] = w.dial(app4, to)
		files = append(files, w.accept(l))
	}
	return w.run(files...), clients
}

func TestThousands(t *testing.T) {
	w := newWorld(t)
	const n = 5000
	a, clients := thousands(t, w, n)
	start := time.Now()
	qt.Assert(t, qt.HasLen(hold.Preflight(t.Context(), []int{a.pid}), 0))
	checked := time.Since(start)
	start = time.Now()
	set := w.collect(a, hold.Options{})
	collected := time.Since(start)
	a.kill(t)
	qt.Assert(t, qt.HasLen(set.Sockets, n+1))
	qt.Assert(t, qt.IsNil(set.Arm()))
	start = time.Now()
	watcher := w.watch(set, hold.WakePolicy{})
	armed := time.Since(start)
	asleep(t, watcher)
	start = time.Now()
	w.write(clients[n/2], "hello")
	e := awake(t, watcher, hold.Data)
	t.Logf("%d sockets: checked in %v, collected in %v, watched in %v, woken after %v", n, checked, collected, armed, time.Since(start))
	qt.Assert(t, qt.Equals(e.Remote, w.local(clients[n/2])))
}

// BenchmarkCollect reports what collecting costs while the app is frozen.
func BenchmarkCollect(b *testing.B) {
	for _, n := range []int{10, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			w := newWorld(b)
			a, _ := thousands(b, w, n)
			b.ResetTimer()
			var cpu time.Duration
			for b.Loop() {
				before := cpuTime(b)
				set, err := hold.Collect(b.Context(), []int{a.pid}, hold.Options{NS: w.ns})
				cpu += cpuTime(b) - before
				qt.Assert(b, qt.IsNil(err))
				b.StopTimer()
				qt.Assert(b, qt.IsNil(set.Close()))
				b.StartTimer()
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "us/socket")
			b.ReportMetric(float64(cpu.Microseconds())/float64(b.N*n), "cpu-us/socket")
		})
	}
}

// cpuTime is what this process has used, which other load on the machine changes
// less than the time on the clock.
func cpuTime(tb testing.TB) time.Duration {
	tb.Helper()
	var r unix.Rusage
	qt.Assert(tb, qt.IsNil(unix.Getrusage(unix.RUSAGE_SELF, &r)))
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkPreflight reports what looking ahead costs, on the running app.
func BenchmarkPreflight(b *testing.B) {
	w := newWorld(b)
	a, _ := thousands(b, w, 1000)
	b.ResetTimer()
	for b.Loop() {
		qt.Assert(b, qt.HasLen(hold.Preflight(b.Context(), []int{a.pid}), 0))
	}
}
