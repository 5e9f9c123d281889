package underlay_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/testenv/leak"
	"github.com/snapctl/snapctl/testenv/underlay"
)

func TestMain(m *testing.M) { os.Exit(leak.Main(m)) }

var (
	lan4 = netip.MustParsePrefix("192.0.2.0/24")
	lan6 = netip.MustParsePrefix("2001:db8:1::/64")
	wan4 = netip.MustParsePrefix("198.51.100.0/24")
	wan6 = netip.MustParsePrefix("2001:db8:2::/64")
)

// errFew says that something has not come yet.
var errFew = errors.New("not all is there yet")

// patience is longer than anything here takes.
const patience = 20 * time.Second

// hosts makes scratch hosts, which must be as before at the end of the test.
func hosts(t *testing.T, names ...string) []*host.Host {
	t.Helper()
	var list []*host.Host
	for _, name := range names {
		list = append(list, host.New(t, host.Config{Name: name}))
	}
	leak.Check(t, list...)
	return list
}

func network(t *testing.T, u *underlay.Underlay, cfg underlay.NetworkConfig) *underlay.Network {
	t.Helper()
	n, err := u.Network(cfg)
	qt.Assert(t, qt.IsNil(err))
	return n
}

func attach(t *testing.T, n *underlay.Network, h *host.Host, cfg underlay.PortConfig) *underlay.Port {
	t.Helper()
	p, err := n.Attach(t.Context(), h, cfg)
	qt.Assert(t, qt.IsNil(err))
	return p
}

// pair makes two hosts on one network, whose frames pass a line if hasLine.
func pair(t *testing.T, cfg underlay.NetworkConfig, hasLine bool) (h []*host.Host, a, b *underlay.Port) {
	t.Helper()
	h = hosts(t, "alpha", "beta")
	n := network(t, underlay.New(t), cfg)
	a = attach(t, n, h[0], underlay.PortConfig{Line: hasLine})
	b = attach(t, n, h[1], underlay.PortConfig{})
	return h, a, b
}

// greet connects two hosts by TCP and has the second one say hello.
func greet(t *testing.T, from, to *host.Host, at netip.Addr, wait time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	l, err := to.Listen(ctx, "tcp", netip.AddrPortFrom(at, 7000).String())
	if err != nil {
		return err
	}
	defer l.Close()
	c, err := from.DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		return err
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		return err
	}
	_, err = io.WriteString(s, "hello")
	if err = errors.Join(err, s.Close(), c.SetReadDeadline(time.Now().Add(wait))); err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if string(got) != "hello" {
		return errors.Join(err, errors.New("no greeting"))
	}
	return err
}

// reaches checks that the first host reaches the second.
func reaches(t *testing.T, from, to *host.Host, at netip.Addr) {
	t.Helper()
	qt.Assert(t, qt.IsNil(greet(t, from, to, at, patience)), qt.Commentf("%s to %s at %v", from.Name(), to.Name(), at))
}

// silent checks that nothing comes of an attempt to connect.
func silent(t *testing.T, from, to *host.Host, at netip.Addr) {
	t.Helper()
	err := greet(t, from, to, at, 200*time.Millisecond)
	timeout, ok := errors.AsType[net.Error](err)
	qt.Assert(t, qt.IsTrue(ok && timeout.Timeout()), qt.Commentf("%s to %s at %v: %v", from.Name(), to.Name(), at, err))
}

// pipe carries numbered datagrams from one host to another.
type pipe struct {
	t        *testing.T
	from, to net.Conn
	size     int
	got      []uint32 // in the order of coming
}

const pipePort = 7500

func newPipe(t *testing.T, from, to *host.Host, source, target netip.Addr) *pipe {
	t.Helper()
	p := &pipe{t: t, size: 64}
	open := func(h *host.Host, local, remote netip.Addr) net.Conn {
		var c net.Conn
		err := h.Do(func() (err error) {
			c, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, pipePort)),
				net.UDPAddrFromAddrPort(netip.AddrPortFrom(remote, pipePort)))
			return err
		})
		qt.Assert(t, qt.IsNil(err))
		t.Cleanup(func() { _ = c.Close() })
		raw, err := c.(*net.UDPConn).SyscallConn()
		qt.Assert(t, qt.IsNil(err))
		var cerr error
		err = raw.Control(func(fd uintptr) {
			cerr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
			// Never in fragments.
			if target.Is4() {
				cerr = errors.Join(cerr, unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO))
			} else {
				cerr = errors.Join(cerr, unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO))
			}
		})
		qt.Assert(t, qt.IsNil(errors.Join(err, cerr)))
		return c
	}
	p.from, p.to = open(from, source, target), open(to, target, source)
	return p
}

// send sends a datagram of each number and returns the first error.
func (p *pipe) send(first, count uint32) error {
	b := make([]byte, p.size)
	for n := first; n < first+count; n++ {
		binary.BigEndian.PutUint32(b, n)
		if _, err := p.from.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// receive takes datagrams until there are count, and fails the test if they don't come.
func (p *pipe) receive(count int) {
	p.t.Helper()
	qt.Assert(p.t, qt.IsNil(p.to.SetReadDeadline(time.Now().Add(patience))))
	b := make([]byte, 64<<10)
	for len(p.got) < count {
		n, err := p.to.Read(b)
		qt.Assert(p.t, qt.IsNil(err), qt.Commentf("%d of %d datagrams came", len(p.got), count))
		qt.Assert(p.t, qt.Equals(n, p.size))
		p.got = append(p.got, binary.BigEndian.Uint32(b))
	}
}

// rest takes what is there already.
func (p *pipe) rest() {
	p.t.Helper()
	b := make([]byte, 64<<10)
	for {
		qt.Assert(p.t, qt.IsNil(p.to.SetReadDeadline(time.Now().Add(10*time.Millisecond))))
		_, err := p.to.Read(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		qt.Assert(p.t, qt.IsNil(err))
		p.got = append(p.got, binary.BigEndian.Uint32(b))
	}
}

// all checks that exactly the first count numbers came, each once.
func (p *pipe) all(count int) {
	p.t.Helper()
	want := make([]uint32, count)
	for i := range want {
		want[i] = uint32(i)
	}
	qt.Assert(p.t, qt.DeepEquals(slices.Sorted(slices.Values(p.got)), want))
}

// until asks again until fn returns nil, and fails the test if it never does.
func until(t *testing.T, what string, fn func() error) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := fn()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// back is the other direction of a pipe.
func (p *pipe) back() *pipe { return &pipe{t: p.t, from: p.to, to: p.from, size: p.size} }

// warm sends one datagram each way, so that neighbours are known.
func (p *pipe) warm() {
	p.t.Helper()
	for _, way := range []*pipe{p, p.back()} {
		qt.Assert(p.t, qt.IsNil(way.send(0, 1)))
		way.receive(1)
	}
	p.got = nil
}
