package table

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/vem/hold/sockdiag"
	"github.com/snapctl/snapctl/vem/netns"
)

func addr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func TestTranslate(t *testing.T) {
	none := netip.MustParseAddrPort("0.0.0.0:0")
	tcp := func(state sockdiag.State, local, remote netip.AddrPort, inode uint32) sockdiag.Inet {
		return sockdiag.Inet{Proto: unix.IPPROTO_TCP, State: state, Local: local, Remote: remote, Inode: inode}
	}
	places := func(a netip.Addr) (Place, bool) {
		switch a.String() {
		case "10.77.0.7":
			return Place{Actual: "here"}, true
		case "10.77.0.8":
			return Place{Actual: "there (192.0.2.8)", Channel: "vxlan"}, true
		case "10.77.0.9":
			return Place{Actual: "far (192.0.2.9)", Channel: "vxlan", Down: Cut}, true
		default:
			return Place{}, false
		}
	}
	own, far := addr("10.77.0.7:80"), addr("10.77.0.9:1000")
	near, foreign := addr("10.77.0.8:1000"), addr("203.0.113.1:443")
	tests := map[string]struct {
		socket sockdiag.Inet
		held   map[uint64]bool
		want   Row
	}{
		"listener":      {tcp(sockdiag.Listen, own, none, 1), nil, Row{State: "LISTEN", Status: Up, Local: own, Remote: none, ActualLocal: "here", Inode: 1}},
		"held listener": {tcp(sockdiag.Listen, own, none, 1), map[uint64]bool{1: true}, Row{State: "LISTEN", Status: Held, Local: own, Remote: none, ActualLocal: "here", Inode: 1}},
		"connection": {
			tcp(sockdiag.Established, own, near, 2),
			map[uint64]bool{1: true},
			Row{State: "ESTABLISHED", Status: Up, Local: own, Remote: near, ActualLocal: "here", ActualRemote: "there (192.0.2.8)", Channel: "vxlan", Inode: 2},
		},
		"cut connection": {
			tcp(sockdiag.Established, own, far, 2), nil,
			Row{State: "ESTABLISHED", Status: Down, Local: own, Remote: far, ActualLocal: "here", ActualRemote: "far (192.0.2.9)", Channel: "vxlan", Inode: 2},
		},
		"held and cut": {
			tcp(sockdiag.Established, own, far, 2),
			map[uint64]bool{2: true},
			Row{State: "ESTABLISHED", Status: Held, Local: own, Remote: far, ActualLocal: "here", ActualRemote: "far (192.0.2.9)", Channel: "vxlan", Inode: 2},
		},
		"to the outside": {
			tcp(sockdiag.Established, own, foreign, 2), nil,
			Row{State: "ESTABLISHED", Status: Up, Local: own, Remote: foreign, ActualLocal: "here", Inode: 2},
		},
		"time wait": {
			tcp(sockdiag.TimeWait, own, near, 0),
			map[uint64]bool{0: true},
			Row{State: "TIME_WAIT", Status: Up, Local: own, Remote: near, ActualLocal: "here", ActualRemote: "there (192.0.2.8)", Channel: "vxlan"},
		},
		"FIN is no byte": {
			sockdiag.Inet{Proto: unix.IPPROTO_TCP, State: sockdiag.CloseWait, Local: own, Remote: near, Inode: 2, RecvQ: 11, SendQ: 3},
			nil,
			Row{
				State: "CLOSE_WAIT", Status: Up, Local: own, Remote: near, ActualLocal: "here", ActualRemote: "there (192.0.2.8)", Channel: "vxlan",
				Inode: 2, RecvQ: 10, SendQ: 3,
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			test.want.Proto = "tcp"
			got := translate([]sockdiag.Inet{test.socket}, Options{Held: test.held, Places: places})
			qt.Assert(t, qt.DeepEquals(got[0].strings(), test.want.strings()))
		})
	}

	t.Run("waits at a held listener", func(t *testing.T) {
		got := translate([]sockdiag.Inet{
			tcp(sockdiag.Established, own, near, 0), tcp(sockdiag.Listen, addr("0.0.0.0:80"), none, 1),
			tcp(sockdiag.Established, addr("10.77.0.7:81"), near, 0),
		}, Options{Held: map[uint64]bool{1: true}})
		var statuses []Status
		for _, r := range got {
			statuses = append(statuses, r.Status)
		}
		qt.Assert(t, qt.DeepEquals(statuses, []Status{Held, Held, Up}))
	})
}

// strings makes rows comparable for cmp.
func (r Row) strings() map[string]any {
	return map[string]any{
		"proto": r.Proto, "state": r.State, "status": r.Status, "local": r.Local.String(), "remote": r.Remote.String(),
		"actual local": r.ActualLocal, "actual remote": r.ActualRemote, "channel": r.Channel,
		"inode": r.Inode, "recv": r.RecvQ, "send": r.SendQ,
	}
}

// TestRows looks at real sockets.
func TestRows(t *testing.T) {
	testenv.Need(t, testenv.Root)
	ns, err := netns.New()
	qt.Assert(t, qt.IsNil(err))
	defer ns.Close()
	inode := func(f interface{ File() (*os.File, error) }) uint64 {
		file, err := f.File()
		qt.Assert(t, qt.IsNil(err))
		defer file.Close()
		var st unix.Stat_t
		qt.Assert(t, qt.IsNil(unix.Fstat(int(file.Fd()), &st)))
		return st.Ino
	}
	var l *net.TCPListener
	var client *net.TCPConn
	var udp *net.UDPConn
	qt.Assert(t, qt.IsNil(ns.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return err
		}
		if err := os.WriteFile("/proc/sys/net/mptcp/enabled", []byte("0"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if l, err = net.ListenTCP("tcp6", &net.TCPAddr{IP: net.IPv6loopback}); err != nil {
			return err
		}
		if udp, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
			return err
		}
		client, err = net.DialTCP("tcp6", nil, net.TCPAddrFromAddrPort(addr(l.Addr().String())))
		return err
	})))
	defer l.Close()
	defer client.Close()
	defer udp.Close()
	_, err = client.Write([]byte("hello"))
	qt.Assert(t, qt.IsNil(err))
	server, err := l.AcceptTCP()
	qt.Assert(t, qt.IsNil(err))
	defer server.Close()

	rows, err := Rows(t.Context(), ns, Options{Held: map[uint64]bool{inode(server): true}})
	qt.Assert(t, qt.IsNil(err))
	la, ca := addr(l.Addr().String()), addr(client.LocalAddr().String())
	want := []Row{
		{Proto: "tcp", State: "LISTEN", Status: Up, Local: la, Remote: addr("[::]:0"), Inode: inode(l), SendQ: 4096},
		{Proto: "tcp", State: "ESTABLISHED", Status: Held, Local: la, Remote: ca, Inode: inode(server), RecvQ: 5, Received: 5},
		{Proto: "tcp", State: "ESTABLISHED", Status: Up, Local: ca, Remote: la, Inode: inode(client), Sent: 6},
		{Proto: "udp", State: "CLOSE", Status: Up, Local: addr(udp.LocalAddr().String()), Remote: addr("0.0.0.0:0"), Inode: inode(udp)},
	}
	if ca.Compare(la) < 0 {
		want[1], want[2] = want[2], want[1]
	}
	qt.Assert(t, qt.CmpEquals(rows, want, cmpopts.EquateComparable(netip.AddrPort{})))
}
