package sockdiag

import (
	"encoding/hex"
	"net"
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/vem/netns"
)

// FuzzMessages feeds the parsers with what a kernel would never send.
func FuzzMessages(f *testing.F) {
	seed := func(text string) {
		b, err := hex.DecodeString(text)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	// A unix socket with a peer, NLMSG_DONE, NLMSG_ERROR, a length that is too
	// long, an attribute that is too short.
	seed("2c0000001400020001000000000000000101010007000000000000000000000008000200090000000500060003000000")
	seed("1400000003000200010000000000000000000000")
	seed("24000000020000000100000000000000feffffff1400000014000100000000000000000000")
	seed("ffffffff1400020001000000")
	seed("240000001400020001000000000000000101010007000000000000000000000002000200")
	f.Fuzz(func(t *testing.T, b []byte) {
		c := &Conn{seq: 1}
		_, _, err := c.messages(b, func(msg []byte) {
			if s, ok := parseUnix(msg); ok {
				_ = s.Name
			}
			if s, ok := parseInet(msg); ok {
				_ = s.State.String()
			}
		})
		_ = err
	})
}

// TestInet finds this process's own sockets.
func TestInet(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	qt.Assert(t, qt.IsNil(err))
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	qt.Assert(t, qt.IsNil(err))
	defer client.Close()
	_, err = client.Write([]byte("hello"))
	qt.Assert(t, qt.IsNil(err))

	conn, err := Dial(nil)
	qt.Assert(t, qt.IsNil(err))
	list, err := conn.Inet(InetQuery{Family: unix.AF_INET, Proto: unix.IPPROTO_TCP, States: AllStates})
	qt.Assert(t, qt.IsNil(err))
	at, from := netip.MustParseAddrPort(l.Addr().String()), netip.MustParseAddrPort(client.LocalAddr().String())
	found := map[string]Inet{}
	for _, s := range list {
		switch {
		case s.Local == at && s.State == Listen:
			found["listener"] = s
		case s.Local == at && s.Remote == from:
			found["child"] = s
		case s.Local == from:
			found["client"] = s
		}
	}
	qt.Assert(t, qt.Equals(found["listener"].RecvQ, 1)) // the accept queue
	qt.Assert(t, qt.Equals(found["child"].RecvQ, 5))
	qt.Assert(t, qt.Equals(found["child"].Inode, 0)) // nobody has accepted it
	qt.Assert(t, qt.Not(qt.Equals(found["client"].Inode, 0)))
	qt.Assert(t, qt.Equals(found["client"].State, Established))

	qt.Assert(t, qt.IsNil(conn.Close()))
	qt.Assert(t, qt.IsNil(conn.Close()))
	_, err = conn.Unix()
	qt.Assert(t, qt.ErrorIs(err, unix.EBADF))
}

func TestAddrPort(t *testing.T) {
	mapped := netip.MustParseAddr("::ffff:10.77.0.7").As16()
	qt.Assert(t, qt.Equals(addrPort(unix.AF_INET6, mapped[:], 80).String(), "10.77.0.7:80"))
	v4 := append(netip.MustParseAddr("10.77.0.7").AsSlice(), make([]byte, 12)...)
	qt.Assert(t, qt.Equals(addrPort(unix.AF_INET, v4, 80).String(), "10.77.0.7:80"))
}

func BenchmarkInet(b *testing.B) {
	conn, err := Dial(nil)
	qt.Assert(b, qt.IsNil(err))
	defer conn.Close()
	for b.Loop() {
		_, err := conn.Inet(InetQuery{Family: unix.AF_INET, Proto: unix.IPPROTO_TCP, States: States(Established, CloseWait)})
		qt.Assert(b, qt.IsNil(err))
	}
}

// TestInetTo has the kernel choose connections by their remote addresses.
func TestInetTo(t *testing.T) {
	testenv.Need(t, testenv.Root)
	ns, err := netns.New()
	qt.Assert(t, qt.IsNil(err))
	defer ns.Close()
	addrs := []string{"127.0.0.1", "127.0.0.2", "::1", "127.0.0.3"}
	qt.Assert(t, qt.IsNil(ns.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return err
		}
		for _, a := range addrs {
			l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(a), 0)))
			if err != nil {
				return err
			}
			t.Cleanup(func() { l.Close() })
			c, err := net.DialTCP("tcp", nil, l.Addr().(*net.TCPAddr))
			if err != nil {
				return err
			}
			t.Cleanup(func() { c.Close() })
		}
		return nil
	})))
	c, err := Dial(ns)
	qt.Assert(t, qt.IsNil(err))
	defer c.Close()
	for _, want := range [][]string{addrs, addrs[:1], addrs[1:3], {addrs[3]}, addrs[2:]} {
		var to []netip.Prefix
		wanted := make(map[netip.Addr]bool)
		for _, a := range want {
			addr := netip.MustParseAddr(a).Unmap()
			wanted[addr] = true
			to = append(to, netip.PrefixFrom(addr, addr.BitLen()))
		}
		got := make(map[netip.Addr]bool)
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			all, err := c.Inet(InetQuery{Family: family, Proto: unix.IPPROTO_TCP, States: States(Established), To: to})
			qt.Assert(t, qt.IsNil(err))
			for _, s := range all {
				// The accepted end is to whatever address the dialled one is from.
				got[s.Remote.Addr()] = true
			}
		}
		for a := range wanted {
			qt.Check(t, qt.IsTrue(got[a]), qt.Commentf("%v of %v", a, want))
		}
		for a := range got {
			qt.Check(t, qt.IsTrue(wanted[a]), qt.Commentf("%v, not in %v", a, want))
		}
	}
}
