package tcprepair_test

import (
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/tcprepair"
)

// over ends a connection in both directions, in either order, and closes its second end.
// The first one has n bytes that nobody has read.
func over(p pair, n int, firstEnds bool) {
	if firstEnds {
		p[0].finish()
		p[1].ended()
	}
	p[1].write(n)
	p[1].close()
	p[0].wait(unix.POLLRDHUP)
	if !firstEnds {
		p[0].finish()
	}
	p[0].inState(7) // TCP_CLOSE
}

// port is the end's own one.
func (e *end) port() int {
	e.t.Helper()
	name, err := unix.Getsockname(e.fd)
	qt.Assert(e.t, qt.IsNil(err))
	if six, ok := name.(*unix.SockaddrInet6); ok {
		return six.Port
	}
	return name.(*unix.SockaddrInet4).Port
}

func saveClosed(p pair) (tcprepair.Connection, bool, error) {
	return tcprepair.SaveClosed(tcprepair.End{FD: p[0].fd, Inode: 1}, func(a netip.Addr) bool { return a.IsLoopback() || a == own })
}

// TestUnreadOfOver keeps what was not read of a connection that is over.
func TestUnreadOfOver(t *testing.T) {
	for name, addr := range map[string]netip.Addr{
		"loopback": local, "own address": own, "IPv6": netip.IPv6Loopback(), "IPv4 in IPv6": netip.MustParseAddr("::ffff:10.99.0.1"),
	} {
		for _, n := range []int{1, 5000, 40_000} {
			for _, firstEnds := range []bool{true, false} {
				t.Run(name, func(t *testing.T) {
					p := newWorld(t).pair(addr)
					over(p, n, firstEnds)
					saved, ok, err := saveClosed(p)
					qt.Assert(t, qt.IsNil(err))
					qt.Assert(t, qt.IsTrue(ok))
					copied := newWorld(t).restore(saved, p)
					again, ok, err := saveClosed(copied)
					qt.Assert(t, qt.IsNil(err))
					qt.Assert(t, qt.IsTrue(ok))
					twice := newWorld(t).restore(again, copied)
					for _, e := range []*end{p[0], copied[0], twice[0]} {
						e.inState(7)
						qt.Check(t, qt.Equals(e.port(), p[0].port()))
						e.receive(n)
						e.ended()
						_, err := unix.SendmsgN(e.fd, []byte("x"), nil, nil, unix.MSG_NOSIGNAL)
						qt.Check(t, qt.ErrorIs(err, unix.EPIPE))
					}
				})
			}
		}
	}
}

// TestNothingOfOver has nothing to keep of what is read, or open, or no connection.
func TestNothingOfOver(t *testing.T) {
	w := newWorld(t)
	read := w.pair(local)
	over(read, 10, true)
	read[0].receive(10)
	open := w.pair(local)
	open[1].write(10)
	open[0].wait(unix.POLLIN)
	udp, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	qt.Assert(t, qt.IsNil(err))
	for _, e := range []*end{read[0], open[0], w.end(udp, 0)} {
		_, ok, err := saveClosed(pair{e})
		qt.Check(t, qt.IsNil(err))
		qt.Check(t, qt.IsFalse(ok))
	}
}

// TestOverUnsupported refuses what a copy can't have.
func TestOverUnsupported(t *testing.T) {
	var refused *tcprepair.UnsupportedError
	p := newWorld(t).pair(local)
	over(p, 10, true)
	_, _, err := tcprepair.SaveClosed(tcprepair.End{FD: p[0].fd}, func(netip.Addr) bool { return false })
	qt.Assert(t, qt.ErrorAs(err, &refused))
	qt.Check(t, qt.ErrorMatches(err, `.*its other end was not in the app, and it has 10 bytes that were not read`))

	p = newWorld(t).pair(local)
	p[1].write(10)
	p[0].wait(unix.POLLIN)
	qt.Assert(t, qt.IsNil(unix.SetsockoptLinger(p[1].fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})))
	p[1].close()
	p[0].inState(7)
	_, _, err = saveClosed(p)
	qt.Assert(t, qt.ErrorAs(err, &refused))
	qt.Check(t, qt.ErrorMatches(err, `.*it was reset, and the program has neither read that nor the 10 bytes before`))
}
