package slowpath_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/slowpath"
)

// never is what a directory says that does not answer.
func never(ctx context.Context, _ slowpath.Query) (slowpath.Way, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// The process is killed and the device kept: what came meanwhile is delivered by the next one, in
// order, and so is what an orderly end gave back.
func TestRestart(t *testing.T) {
	const part = 500
	for name, test := range map[string]struct {
		end   func(p *slowpath.Path) error
		first int // what of the first part is delivered
	}{
		"killed": {(*slowpath.Path).Crash, 0},
		"leaves": {(*slowpath.Path).Leave, part},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			k := s.listen("udp4", ":7")
			p := s.open(s.options())
			keeper, err := p.Device()
			qt.Assert(t, qt.IsNil(err))
			defer keeper.Close()
			s.setResolve(never)
			c := s.mustDial("udp", "10.77.1.1:7")
			s.send(c, 0, part, 1000)
			eventually(t, "the first wait", func() bool { return p.Snapshot().Packets == part })
			qt.Assert(t, qt.IsNil(test.end(p)))
			qt.Check(t, qt.IsNil(p.Err()))
			s.send(c, part, part, 1000)

			s.setResolve(nil)
			o := s.options()
			o.Device = keeper
			p = s.open(o)
			want := numbers(2 * part)[part-test.first:]
			eventually(t, "all arrive", func() bool { return len(k.from(c.LocalAddr())) >= len(want) })
			qt.Check(t, qt.DeepEquals(k.from(c.LocalAddr()), want))
			qt.Check(t, qt.Equals(p.Snapshot().Overflow, 0))
		})
	}
}

// A destination that was gated is gated from the start in the next process.
func TestRestartGated(t *testing.T) {
	s := newSite(t)
	k := s.listen("udp4", ":7")
	p := s.open(s.options())
	keeper, err := p.Device()
	qt.Assert(t, qt.IsNil(err))
	defer keeper.Close()
	to := addr("10.77.1.1")
	qt.Assert(t, qt.IsNil(p.Gate(t.Context(), to)))
	c := s.mustDial("udp", "10.77.1.1:7")
	s.send(c, 0, 10, 100)
	qt.Assert(t, qt.IsNil(p.Leave()))
	o := s.options()
	o.Device, o.Gated = keeper, []netip.Addr{to}
	p = s.open(o)
	eventually(t, "all wait", func() bool { return p.Snapshot().Packets == 10 })
	qt.Check(t, qt.Equals(s.asked(), 0))
	p.Release(to)
	eventually(t, "all arrive", func() bool { return len(k.from(c.LocalAddr())) == 10 })
	qt.Check(t, qt.DeepEquals(k.from(c.LocalAddr()), numbers(10)))
}

// More than the device keeps is dropped, and counted.
func TestOverflow(t *testing.T) {
	const more = 100
	s := newSite(t)
	k := s.listen("udp4", ":7")
	p := s.open(s.options())
	keeper, err := p.Device()
	qt.Assert(t, qt.IsNil(err))
	defer keeper.Close()
	qt.Assert(t, qt.IsNil(p.Crash()))
	c := s.mustDial("udp", "10.77.1.1:7")
	s.send(c, 0, slowpath.QueueLen+more, 10)
	o := s.options()
	o.Device = keeper
	p = s.open(o)
	arrived := func() int { return len(k.from(c.LocalAddr())) }
	eventually(t, "all are read", func() bool {
		return arrived()+int(p.Snapshot().Overflow) >= slowpath.QueueLen+more && arrived() > 0
	})
	qt.Check(t, qt.DeepEquals(k.from(c.LocalAddr()), numbers(arrived())))
	// The kernel's own multicast may be among what waited.
	qt.Check(t, qt.IsTrue(arrived() > slowpath.QueueLen-10), qt.Commentf("%d", arrived()))
}

// A device that nobody kept, one that somebody keeps and does not give back, and one that is not
// as it should be.
func TestTakesOver(t *testing.T) {
	for name, leave := range map[string]func(t *testing.T, s *site, o *slowpath.Options){
		"nothing": func(*testing.T, *site, *slowpath.Options) {},
		"killed": func(t *testing.T, s *site, o *slowpath.Options) {
			t.Helper()
			qt.Assert(t, qt.IsNil(s.open(*o).Crash()))
		},
		"kept by somebody": func(t *testing.T, s *site, o *slowpath.Options) {
			t.Helper()
			p := s.open(*o)
			keeper, err := p.Device()
			qt.Assert(t, qt.IsNil(err))
			t.Cleanup(func() { keeper.Close() })
			qt.Assert(t, qt.IsNil(p.Crash()))
		},
		"kept one is gone": func(t *testing.T, s *site, o *slowpath.Options) {
			t.Helper()
			p := s.open(*o)
			keeper, err := p.Device()
			qt.Assert(t, qt.IsNil(err))
			t.Cleanup(func() { keeper.Close() })
			qt.Assert(t, qt.IsNil(p.Close()))
			o.Device = keeper
		},
		"kept is something else": func(t *testing.T, s *site, o *slowpath.Options) {
			t.Helper()
			f, err := os.Open(os.DevNull)
			qt.Assert(t, qt.IsNil(err))
			t.Cleanup(func() { f.Close() })
			qt.Assert(t, qt.IsNil(s.open(*o).Crash()))
			o.Device = f
		},
		"another network's": func(t *testing.T, s *site, o *slowpath.Options) {
			t.Helper()
			other := newSite(t)
			p := other.open(other.options())
			keeper, err := p.Device()
			qt.Assert(t, qt.IsNil(err))
			t.Cleanup(func() { keeper.Close() })
			qt.Assert(t, qt.IsNil(s.open(*o).Crash()))
			o.Device = keeper
		},
		"down": func(t *testing.T, s *site, o *slowpath.Options) {
			t.Helper()
			qt.Assert(t, qt.IsNil(s.open(*o).Crash()))
			link, err := s.nl.LinkByName("slow0")
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.IsNil(s.nl.LinkSetDown(link)))
			qt.Assert(t, qt.IsNil(s.nl.LinkSetMTU(link, 9000)))
			sysctl(t, s.fabric.Namespace(), "ipv4/conf/slow0/rp_filter", "1")
		},
		"TUN": func(t *testing.T, s *site, _ *slowpath.Options) {
			t.Helper()
			attrs := netlink.NewLinkAttrs()
			attrs.Name = "slow0"
			qt.Assert(t, qt.IsNil(s.fabric.Namespace().Do(func() error {
				return s.nl.LinkAdd(&netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TUN})
			})))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.serve("80")
			o := s.options()
			leave(t, s, &o)
			s.open(o)
			s.mustDial("tcp", "10.77.1.1:80")
			s.mustDial("tcp", "[fd77::1:1]:80")
			qt.Check(t, qt.Equals(statistic(t, s.app, "TcpExt", "TCPSynRetrans"), 0))
		})
	}
}

// Devices and routes of others are left alone.
func TestForeign(t *testing.T) {
	t.Run("device", func(t *testing.T) {
		s := newSite(t)
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "slow0"
		v := netlink.NewVeth(attrs)
		v.PeerName = "other"
		qt.Assert(t, qt.IsNil(s.nl.LinkAdd(v)))
		_, err := slowpath.Open(t.Context(), s.options())
		qt.Check(t, qt.ErrorIs(err, slowpath.ErrForeign))
	})
	t.Run("route", func(t *testing.T) {
		s := newSite(t)
		r := netlink.Route{LinkIndex: s.link, Dst: ipNet("10.77.0.0/16"), Priority: 1<<31 - 2}
		qt.Assert(t, qt.IsNil(s.nl.RouteAdd(&r)))
		_, err := slowpath.Open(t.Context(), s.options())
		qt.Check(t, qt.ErrorIs(err, slowpath.ErrForeign))
		qt.Check(t, qt.Equals(inventory(t, s)["device slow0"], 0), qt.Commentf("a failed Open leaves nothing"))
	})
}

// inventory lists devices, routes, neighbours and rules of the fabric, and what this process has
// open.
func inventory(t *testing.T, s *site) map[string]int {
	t.Helper()
	list := map[string]int{}
	links, err := s.nl.LinkList()
	qt.Assert(t, qt.IsNil(err))
	for _, l := range links {
		list["device "+l.Attrs().Name]++
	}
	routes, err := s.nl.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	qt.Assert(t, qt.IsNil(err))
	for _, r := range routes {
		if r.LinkIndex == s.link || r.Dst != nil && r.Dst.IP.IsMulticast() {
			continue // the kernel adds some of them when it gets to it
		}
		list[fmt.Sprintf("route %s %d %d %d", r.Dst, r.LinkIndex, r.Table, r.Priority)]++
	}
	neighbours, err := s.nl.NeighList(0, netlink.FAMILY_ALL)
	qt.Assert(t, qt.IsNil(err))
	for _, n := range neighbours {
		if n.LinkIndex == s.link || n.IP.IsMulticast() {
			continue
		}
		list["neighbour "+n.IP.String()]++
	}
	fds, err := os.ReadDir("/proc/self/fd")
	qt.Assert(t, qt.IsNil(err))
	for _, e := range fds {
		if link, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			kind, _, _ := strings.Cut(link, ":")
			list["open "+kind]++
		}
	}
	return list
}

// A failed SetUp leaves nothing, or what there was.
func TestSetUpFails(t *testing.T) {
	s := newSite(t)
	o := s.options()
	failed := errors.New("failed")
	o.SetUp = func(context.Context, string) error { return failed }
	has := func() bool { return inventory(t, s)["device slow0"] == 1 }
	_, err := slowpath.Open(t.Context(), o)
	qt.Check(t, qt.ErrorIs(err, failed))
	qt.Check(t, qt.IsFalse(has()))
	qt.Assert(t, qt.IsNil(s.open(s.options()).Leave()))
	_, err = slowpath.Open(t.Context(), o)
	qt.Check(t, qt.ErrorIs(err, failed))
	qt.Check(t, qt.IsTrue(has()))
	s.open(s.options())
}

// Close leaves nothing, and what has no way is unreachable again.
func TestClose(t *testing.T) {
	s := newSite(t)
	s.serve("80")
	qt.Assert(t, qt.IsNil(s.open(s.options()).Close())) // what is opened once
	before := inventory(t, s)
	for range 3 {
		p, err := slowpath.Open(t.Context(), s.options())
		qt.Assert(t, qt.IsNil(err))
		s.setResolve(never)
		c := s.mustDial("udp", "10.77.1.1:7")
		s.send(c, 0, 10, 100)
		c.Close()
		eventually(t, "they wait", func() bool { return p.Snapshot().Packets == 10 })
		qt.Assert(t, qt.IsNil(p.Close()))
		<-p.Done()
		qt.Check(t, qt.IsNil(p.Err()))
		qt.Check(t, qt.Equals(p.Snapshot().Dropped[slowpath.Closed], 10))
		qt.Check(t, qt.DeepEquals(inventory(t, s), before))
	}
	_, err := s.dial("tcp", "10.77.1.1:80")
	qt.Check(t, qt.ErrorIs(err, unix.EHOSTUNREACH))
}

// The fabric may be opened again while the slow path is, and goes away after it.
func TestFabricOpensAgain(t *testing.T) {
	s := newSite(t)
	s.serve("80")
	s.open(s.options())
	again, err := fabric.Open(t.Context(), s.config)
	qt.Assert(t, qt.IsNil(err))
	defer again.Close()
	s.mustDial("tcp", "10.77.1.1:80")
	s.mustDial("tcp", "[fd77::1:1]:80")
	qt.Check(t, qt.Equals(statistic(t, s.app, "TcpExt", "TCPSynRetrans"), 0))
}

// Somebody deletes the device of an open slow path.
func TestDeviceGone(t *testing.T) {
	s := newSite(t)
	s.serve("80")
	p := s.open(s.options())
	qt.Check(t, qt.IsNil(p.Err()))
	link, err := s.nl.LinkByName("slow0")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(s.nl.LinkDel(link)))
	<-p.Done()
	qt.Check(t, qt.ErrorIs(p.Err(), slowpath.ErrDeviceGone))
	qt.Check(t, qt.Equals(p.Snapshot().Overflow, 0))
	qt.Assert(t, qt.IsNil(p.Close()))
	s.open(s.options())
	s.mustDial("tcp", "10.77.1.1:80")
}

// A connection is gated again and again while it has much to send, in segments that the kernel
// leaves whole: every byte arrives, with a good checksum.
func TestGateOfConnection(t *testing.T) {
	const size = 32 << 20
	for _, to := range []string{"10.77.1.1", "fd77::1:1"} {
		t.Run(to, func(t *testing.T) {
			s := newSite(t)
			accepted := s.serve("80")
			p := s.open(s.options())
			c := s.mustDial("tcp", netip.AddrPortFrom(addr(to), 80).String())
			far := <-accepted
			defer far.Close()
			sent, got := sha256.New(), sha256.New()
			written := make(chan error, 1)
			go func() {
				_, err := io.CopyN(io.MultiWriter(c, sent), rand.NewChaCha8([32]byte{}), size)
				written <- errors.Join(err, c.Close())
			}()
			received := make(chan int64, 1)
			go func() {
				n, _ := io.Copy(got, far)
				received <- n
			}()
			gates := 0
			for open := true; open; gates++ {
				qt.Assert(t, qt.IsNil(p.Gate(t.Context(), addr(to))))
				s.closeWay(addr(to))
				waits := func() bool {
					snap := p.Snapshot()
					return snap.Packets > 0 || len(received) > 0
				}
				eventually(t, "a packet waits", waits)
				p.Release(addr(to))
				opened := func() bool { return s.hasWay(addr(to)) || len(received) > 0 }
				eventually(t, "the way is open", opened)
				open = len(received) == 0
			}
			qt.Check(t, qt.IsNil(<-written))
			qt.Check(t, qt.Equals(<-received, size))
			qt.Check(t, qt.DeepEquals(got.Sum(nil), sent.Sum(nil)))
			qt.Check(t, qt.Equals(statistic(t, s.far, "Tcp", "InCsumErrors"), 0))
			t.Logf("gated %d times, %d packets waited, %d segments sent again", gates, p.Snapshot().Delivered, statistic(t, s.app, "Tcp", "RetransSegs"))
		})
	}
}
