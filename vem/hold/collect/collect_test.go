package collect_test

import (
	"net/netip"
	"os"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/sockets"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/collect"
	"github.com/snapctl/snapctl/vem/hold/proc"
	"github.com/snapctl/snapctl/vem/hold/vet"
)

func TestCollect(t *testing.T) {
	w := sockets.New(t)
	l4 := w.Listen(sockets.App4, 7)
	client := w.Dial(sockets.App4, w.Local(l4))
	conn := w.Accept(l4)
	l6 := w.Listen(netip.IPv6Unspecified(), 9)
	mapped := w.Dial(sockets.App4, netip.AddrPortFrom(sockets.App4, w.Local(l6).Port()))
	mappedConn := w.Accept(l6)
	udp := w.Bound(sockets.App4, unix.SOCK_DGRAM, 0)
	connected := w.Bound(sockets.App6, unix.SOCK_DGRAM, 0)
	qt.Assert(t, qt.IsNil(unix.Connect(int(connected.Fd()), sockets.Sockaddr(netip.AddrPortFrom(sockets.App6, 53)))))
	fresh := w.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	raw := w.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_TCP)
	finished := w.Dial(sockets.App4, w.Local(l4))
	finishedAddr := w.Local(finished)
	halfClosed := w.Accept(l4)
	sockets.Close(t, finished)
	sockets.Poll(t, halfClosed, unix.POLLIN)

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
		sockets.Inode(t, l4):         {hold.TCPListen, unix.AF_INET, "LISTEN", w.Local(l4), none, 7, []int{3}},
		sockets.Inode(t, conn):       {hold.TCP, unix.AF_INET, "ESTABLISHED", w.Local(l4), w.Local(client), 0, []int{4, 12}},
		sockets.Inode(t, l6):         {hold.TCPListen, unix.AF_INET6, "LISTEN", w.Local(l6), none, 9, []int{5}},
		sockets.Inode(t, mappedConn): {hold.TCP, unix.AF_INET6, "ESTABLISHED", w.Local(mappedConn), w.Local(mapped), 0, []int{6}},
		sockets.Inode(t, udp):        {hold.UDP, unix.AF_INET, "CLOSE", w.Local(udp), none, 0, []int{7}},
		sockets.Inode(t, connected):  {hold.UDP, unix.AF_INET6, "ESTABLISHED", w.Local(connected), netip.AddrPortFrom(sockets.App6, 53), 0, []int{8}},
		sockets.Inode(t, fresh):      {hold.TCP, unix.AF_INET, "CLOSE", netip.MustParseAddrPort("0.0.0.0:0"), none, 0, []int{9}},
		sockets.Inode(t, raw):        {hold.Raw, unix.AF_INET, "CLOSE", netip.MustParseAddrPort("0.0.0.0:6"), none, 0, []int{10}},
		sockets.Inode(t, halfClosed): {hold.TCP, unix.AF_INET, "CLOSE_WAIT", w.Local(l4), finishedAddr, 0, []int{11}},
	}
	again, err := unix.FcntlInt(conn.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	qt.Assert(t, qt.IsNil(err))
	a := w.Run(l4, conn, l6, mappedConn, udp, connected, fresh, raw, halfClosed, os.NewFile(uintptr(again), "again"))
	set := collected(w, a, collect.Options{})
	got := map[uint64]row{}
	for _, s := range set.Sockets {
		r := row{Kind: s.Kind, Family: s.Family, State: s.State, Local: s.Local, Remote: s.Remote, Backlog: s.Backlog}
		for _, o := range s.Owners {
			qt.Assert(t, qt.Equals(o.PID, a.PID))
			r.FDs = append(r.FDs, o.FD)
		}
		got[s.Inode] = r
		qt.Assert(t, qt.Equals(sockets.Inode(t, s.File), s.Inode))
	}
	qt.Assert(t, qt.CmpEquals(got, want, byValue()))
}

// byValue lets cmp look at addresses.
func byValue() cmp.Option { return cmpopts.EquateComparable(netip.AddrPort{}) }

// TestCollectGone asks for a process that is not there.
func TestCollectGone(t *testing.T) {
	w := sockets.New(t)
	a := w.Run(w.Listen(sockets.App4, 1))
	a.Kill(t)
	before := sockets.OpenFDs(t)
	_, err := collect.App(t.Context(), []int{a.PID}, collect.Options{NS: w.NS})
	qt.Assert(t, qt.ErrorIs(err, proc.ErrGone))
	_, err = collect.App(t.Context(), []int{w.Run(w.Listen(sockets.App4, 1)).PID, a.PID}, collect.Options{NS: w.NS})
	qt.Assert(t, qt.ErrorIs(err, proc.ErrGone))
	qt.Assert(t, qt.Equals(sockets.OpenFDs(t), before))
	qt.Assert(t, qt.HasLen(vet.Preflight(t.Context(), []int{a.PID}), 0))
}
