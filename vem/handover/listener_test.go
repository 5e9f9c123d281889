package handover_test

import (
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold/sockdiag"
)

func option(level, name, value int) func(fd int) {
	return func(fd int) { _ = unix.SetsockoptInt(fd, level, name, value) }
}

var (
	any4       = netip.IPv4Unspecified()
	any6       = netip.IPv6Unspecified()
	onlyIPv6   = option(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	reusePort  = option(unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	bindDevice = func(fd int) { _ = unix.BindToDevice(fd, "eth0") }
)

// serves connects to a listener of the app, and ends the connection.
func (w *world) serves(l *end, to netip.AddrPort) {
	w.t.Helper()
	p, a := w.dial(w.peer, l, to)
	over(a, p)
}

// TestListeners moves listeners of every kind, there and back, and connects to them.
func TestListeners(t *testing.T) {
	const port = 80
	at := func(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, port) }
	for name, tt := range map[string]struct {
		make  func(w *world) []*end
		serve func(w *world, woken []*end)
	}{
		"IPv4": {
			func(w *world) []*end { return []*end{w.listen(w.app[0], at(app4))} },
			func(w *world, l []*end) { w.serves(l[0], at(app4)) },
		},
		"IPv6": {
			func(w *world) []*end { return []*end{w.listen(w.app[0], at(app6))} },
			func(w *world, l []*end) { w.serves(l[0], at(app6)) },
		},
		"IPv4 and IPv6 at once": {
			func(w *world) []*end { return []*end{w.listen(w.app[0], at(any6))} },
			func(w *world, l []*end) { w.serves(l[0], at(app4)); w.serves(l[0], at(app6)) },
		},
		"IPv6 alone beside IPv4": {
			func(w *world) []*end {
				return []*end{w.listen(w.app[0], at(any6), onlyIPv6), w.listen(w.app[0], at(any4))}
			},
			func(w *world, l []*end) { w.serves(l[1], at(app4)); w.serves(l[0], at(app6)) },
		},
		"of a device": {
			func(w *world) []*end { return []*end{w.listen(w.app[0], at(any4), bindDevice)} },
			func(w *world, l []*end) { w.serves(l[0], at(app4)) },
		},
		"of a device beside another": {
			func(w *world) []*end {
				lo := func(fd int) { _ = unix.BindToDevice(fd, "lo") }
				return []*end{w.listen(w.app[0], at(any4), bindDevice), w.listen(w.app[0], at(any4), lo)}
			},
			func(w *world, l []*end) { w.serves(l[0], at(app4)) },
		},
		"several of a port": {
			func(w *world) []*end {
				return []*end{w.listen(w.app[0], at(any4), reusePort), w.listen(w.app[0], at(any4), reusePort), w.listen(w.app[0], at(any4), reusePort)}
			},
			func(w *world, l []*end) {
				got := make(map[*end]int)
				for range 60 {
					c := w.socket(w.peer, unix.AF_INET, unix.SOCK_STREAM, 0)
					qt.Assert(w.t, qt.IsNil(unix.Connect(c.fd, sockaddr(at(app4)))))
					got[w.ready(l...)]++
				}
				qt.Check(w.t, qt.HasLen(got, 3))
			},
		},
		"beside a connection that it has accepted": {
			func(w *world) []*end {
				l := w.listen(w.app[0], at(app4))
				_, a := w.dial(w.peer, l, at(app4))
				return []*end{a, l}
			},
			func(w *world, l []*end) { w.serves(l[1], at(app4)) },
		},
		"beside a connection that is over": {
			func(w *world) []*end {
				l := w.listen(w.app[0], at(app4))
				p, a := w.dial(w.peer, l, at(app4))
				over(p, a)
				a.reaches(sockdiag.Close)
				return []*end{a, l}
			},
			func(w *world, l []*end) {
				w.serves(l[1], at(app4))
				l[0].ended()
				_, err := unix.SendmsgN(l[0].fd, []byte("x"), nil, nil, unix.MSG_NOSIGNAL)
				qt.Check(w.t, qt.Equals(err, error(unix.EPIPE)))
			},
		},
		"not yet, only bound": {
			func(w *world) []*end {
				s := w.socket(w.app[0], unix.AF_INET, unix.SOCK_STREAM, 0)
				qt.Assert(w.t, qt.IsNil(unix.Bind(s.fd, sockaddr(at(app4)))))
				return []*end{s}
			},
			func(w *world, l []*end) {
				qt.Assert(w.t, qt.IsNil(unix.Listen(l[0].fd, 5)))
				w.serves(l[0], at(app4))
			},
		},
		"a client, not yet": {
			func(w *world) []*end { return []*end{w.socket(w.app[0], unix.AF_INET6, unix.SOCK_STREAM, 0)} },
			func(w *world, l []*end) {
				to := at(peer6)
				p := w.listen(w.peer, to)
				qt.Assert(w.t, qt.IsNil(unix.Connect(l[0].fd, sockaddr(to))))
				l[0].key = 0x5a
				over(p.accept(), l[0])
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			ends := tt.make(w)
			set := w.hold(ends...)
			for range 2 {
				set = w.move(set)
			}
			tt.serve(w, w.woken(set, ends...))
		})
	}
}

// ready waits until one of several listeners has something, and accepts there.
func (w *world) ready(ends ...*end) *end {
	w.t.Helper()
	p := make([]unix.PollFd, len(ends))
	for i, e := range ends {
		p[i] = unix.PollFd{Fd: int32(e.fd), Events: unix.POLLIN}
	}
	n, err := unix.Poll(p, 10000)
	qt.Assert(w.t, qt.IsNil(err))
	qt.Assert(w.t, qt.Equals(n, 1))
	for i, e := range ends {
		if p[i].Revents != 0 {
			e.accept()
			return e
		}
	}
	return nil
}

// TestBacklog finds the backlog that the app asked for.
func TestBacklog(t *testing.T) {
	w := newWorld(t)
	l := w.listen(w.app[0], netip.AddrPortFrom(app4, 80))
	qt.Assert(t, qt.IsNil(unix.Listen(l.fd, 3)))
	set := w.move(w.move(w.hold(l)))
	l = w.woken(set, l)[0]
	qt.Check(t, qt.IsTrue(l.info().Sacked > 3), qt.Commentf("it is armed while it is held"))
	qt.Assert(t, qt.IsNil(set.Disarm()))
	qt.Check(t, qt.Equals(l.info().Sacked, 3))
}
