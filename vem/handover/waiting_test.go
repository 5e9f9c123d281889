package handover_test

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/vem/handover"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/sockdiag"
	"github.com/snapctl/snapctl/vem/netns"
)

// visit connects a new socket of the peer with a listener, which does not accept.
func (w *world) visit(to netip.AddrPort) *end {
	w.t.Helper()
	p := w.socket(w.peer, family(to.Addr()), unix.SOCK_STREAM, 0)
	qt.Assert(w.t, qt.IsNil(unix.Connect(p.fd, sockaddr(to))))
	return p
}

// clients are what those may have done whose connection waits to be accepted.
func clients() map[string]struct{ before, after func(a, p *end) } {
	type steps = struct{ before, after func(a, p *end) }
	return map[string]steps{
		"says nothing":  {func(*end, *end) {}, over},
		"has written":   {func(_, p *end) { p.write(5000) }, over},
		"waits to send": {func(_, p *end) { p.fill() }, over},
		"has closed": {
			func(_, p *end) { p.write(3000); p.finish(); p.reaches(sockdiag.FinWait2) },
			func(a, p *end) { a.receive(p); a.ended(); pour(a, p); a.finish(); p.ended() },
		},
	}
}

// TestWaiting moves a listener at which clients wait to be accepted, there and back.
func TestWaiting(t *testing.T) {
	testenv.Need(t, testenv.Kernel(6, 9))
	for name, tt := range map[string]struct {
		bound, to netip.Addr
		set       func(fd int)
	}{
		"IPv4":              {app4, app4, func(int) {}},
		"IPv6":              {app6, app6, func(int) {}},
		"IPv4 at IPv6":      {any6, app4, func(int) {}},
		"of a device":       {any4, app4, bindDevice},
		"of a port of many": {any4, app4, reusePort},
		"that defers":       {any4, app4, option(unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 1)},
		"with other options": {any4, app4, func(fd int) {
			option(unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)(fd)
			option(unix.SOL_SOCKET, unix.SO_RCVBUF, 20000)(fd)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			port := uint16(8000)
			for state, s := range clients() {
				if name == "that defers" && state == "says nothing" {
					continue // the kernel keeps it to itself
				}
				t.Run(state, func(t *testing.T) {
					w.t = t
					port++
					to := netip.AddrPortFrom(tt.to, port)
					l := w.listen(w.app[w.at], netip.AddrPortFrom(tt.bound, port), tt.set)
					p := w.visit(to)
					s.before(nil, p)
					l.wait(unix.POLLIN)
					nodelay, err := unix.GetsockoptInt(l.fd, unix.IPPROTO_TCP, unix.TCP_NODELAY)
					qt.Assert(t, qt.IsNil(err))
					set := w.hold(l)
					for range 2 {
						set = w.move(set)
					}
					l = w.woken(set, l)[0]
					a := l.accept()
					now, err := unix.GetsockoptInt(a.fd, unix.IPPROTO_TCP, unix.TCP_NODELAY)
					qt.Assert(t, qt.IsNil(err))
					qt.Check(t, qt.Equals(now, nodelay))
					s.after(a, p)
					w.serves(l, to)
					qt.Assert(t, qt.IsNil(set.Close()))
				})
			}
		})
	}
}

// TestManyWait moves a listener at which more clients wait than the app asked for, and has them
// accepted in their order, also where the kernel takes no SYN cookies.
func TestManyWait(t *testing.T) {
	testenv.Need(t, testenv.Kernel(6, 9))
	w := newWorld(t)
	to := netip.AddrPortFrom(app4, 80)
	l := w.listen(w.app[0], to)
	qt.Assert(t, qt.IsNil(unix.Listen(l.fd, 1)))
	for _, ns := range w.app {
		w.do(ns, func() error { return netns.WriteSysctl("ipv4/tcp_syncookies", "0") })
		defer w.do(ns, func() error {
			qt.Check(t, qt.IsTrue(netns.HasSysctl("ipv4/tcp_syncookies", "0")))
			return nil
		})
	}
	set := w.hold(l)
	var list []*end
	for i := range 50 {
		p := w.visit(to)
		p.write(i)
		list = append(list, p)
	}
	for range 2 {
		set = w.move(set)
	}
	l = w.woken(set, l)[0]
	for _, p := range list {
		a := l.accept()
		peer, err := unix.Getpeername(a.fd)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(addrPort(peer), p.local()))
		over(a, p)
	}
}

// TestWaitingGoOn has those wait again whose departure is called off.
func TestWaitingGoOn(t *testing.T) {
	testenv.Need(t, testenv.Kernel(6, 9))
	for how, back := range map[string]func(*testing.T, *world, *handover.Leaving, []byte, *handover.Saved, *hold.Set){
		"by the same": func(t *testing.T, _ *world, l *handover.Leaving, _ []byte, _ *handover.Saved, _ *hold.Set) {
			t.Helper()
			qt.Assert(t, qt.IsNil(l.GoOn()))
			qt.Assert(t, qt.IsNil(l.GoOn()))
		},
		"by another daemon": func(t *testing.T, w *world, _ *handover.Leaving, undo []byte, saved *handover.Saved, set *hold.Set) {
			t.Helper()
			for range 2 {
				qt.Assert(t, qt.IsNil(handover.Return(w.app[0], set, w.sent(saved))))
				qt.Assert(t, qt.IsNil(handover.GoOn(set, undo)))
			}
		},
		"when the target has given up": func(t *testing.T, w *world, l *handover.Leaving, _ []byte, saved *handover.Saved, _ *hold.Set) {
			t.Helper()
			r, err := handover.Restore(t.Context(), w.app[1], w.sent(saved))
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.IsNil(r.Set.Close()))
			qt.Assert(t, qt.IsNil(l.GoOn()))
		},
	} {
		t.Run(how, func(t *testing.T) {
			w := newWorld(t)
			to := netip.AddrPortFrom(app4, 80)
			for state, s := range clients() {
				t.Run(state, func(t *testing.T) {
					w.t = t
					l := w.listen(w.app[0], to)
					p := w.visit(to)
					s.before(nil, p)
					set := w.hold(l)
					leaving, err := handover.Begin(t.Context(), w.app[0], set, app4, app6)
					qt.Assert(t, qt.IsNil(err))
					undo, err := leaving.Undo()
					qt.Assert(t, qt.IsNil(err))
					qt.Assert(t, qt.IsNil(leaving.Still(t.Context())))
					w.shut()
					saved, err := leaving.Save(t.Context())
					qt.Assert(t, qt.IsNil(err))
					qt.Assert(t, qt.HasLen(saved.Waiting, 1))
					back(t, w, leaving, undo, saved, set)
					w.open()
					l = w.woken(set, l)[0]
					s.after(l.accept(), p)
					w.serves(l, to)
					qt.Assert(t, qt.IsNil(set.Close()))
					l.close()
				})
			}
		})
	}
}

// TestInsideWaiting moves a connection from the app into the app that nobody has accepted.
func TestInsideWaiting(t *testing.T) {
	testenv.Need(t, testenv.Kernel(6, 9))
	for name, at := range map[string]netip.Addr{"loopback": netip.MustParseAddr("127.0.0.1"), "own address": app6} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.loopback()
			port := uint16(9000)
			for state, s := range clients() {
				t.Run(state, func(t *testing.T) {
					w.t = t
					port++
					to := netip.AddrPortFrom(at, port)
					l := w.listen(w.app[w.at], to)
					p := w.socket(w.app[w.at], family(at), unix.SOCK_STREAM, 0)
					qt.Assert(t, qt.IsNil(unix.Connect(p.fd, sockaddr(to))))
					s.before(nil, p)
					ends := []*end{l, p}
					set := w.hold(ends...)
					for range 2 {
						set = w.move(set)
					}
					ends = w.woken(set, ends...)
					s.after(ends[0].accept(), ends[1])
					qt.Assert(t, qt.IsNil(set.Close()))
				})
			}
		})
	}
}

// TestClientsCome moves a listener to and fro while clients connect and send, and nobody
// accepts: all of them are served in the end, and none is reset.
func TestClientsCome(t *testing.T) {
	testenv.Need(t, testenv.Kernel(6, 9))
	w := newWorld(t)
	to := netip.AddrPortFrom(app4, 80)
	set := w.hold(w.listen(w.app[0], to))
	const many, each = 6, 50
	asked := make(chan int, many*each)
	var group errgroup.Group
	for range many {
		group.Go(func() error {
			for range each {
				fd, err := w.ask(to)
				if err != nil {
					return err
				}
				asked <- fd
			}
			return nil
		})
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	done := make(chan error, 1)
	go func() { done <- group.Wait() }()
	for coming := true; coming; {
		set = w.move(set)
		for more := len(asked) + 10; coming && len(asked) < more; {
			select {
			case err := <-done:
				qt.Assert(t, qt.IsNil(err))
				coming = false
			case <-tick.C:
			}
		}
	}
	l := w.woken(set, &end{t: t})[0]
	for range many * each {
		a := l.accept()
		a.wait(unix.POLLIN)
		n, err := unix.Read(a.fd, make([]byte, 20))
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.Equals(n, len("question")))
		a.write(7)
		a.close()
	}
	for range many * each {
		p := &end{t: t, fd: <-asked}
		b := make([]byte, 20)
		n, err := unix.Read(p.fd, b)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.Equals(string(b[:n]), string(numbered(0x5a, 0, 7))))
		p.close()
	}
}

// ask connects a client, which writes.
func (w *world) ask(to netip.AddrPort) (fd int, err error) {
	if err := w.peer.Do(func() error {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		return err
	}); err != nil {
		return 0, err
	}
	if err := unix.Connect(fd, sockaddr(to)); err != nil {
		return 0, errors.Join(err, unix.Close(fd))
	}
	if _, err := unix.Write(fd, []byte("question")); err != nil {
		return 0, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// TestStill has no client come in while the gate is about to close, and waits for none for ever
// whose handshake does not end. The client comes in when it tries again.
func TestStill(t *testing.T) {
	testenv.Need(t, testenv.Kernel(6, 6))
	for name, at := range map[string]netip.AddrPort{"IPv4": netip.AddrPortFrom(app4, 80), "IPv6": netip.AddrPortFrom(app6, 80)} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			l := w.listen(w.app[0], at)
			p, a := w.dial(w.peer, l, at)
			set := w.hold(l, a)
			// What the app answers to this client gets lost.
			w.do(w.router, func() error { return toward("peer", true, peer4, peer6) })
			half := w.socket(w.peer, family(at.Addr()), unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
			qt.Assert(t, qt.Equals(unix.Connect(half.fd, sockaddr(at)), error(unix.EINPROGRESS)))
			leaving, err := handover.Begin(t.Context(), w.app[0], set, app4, app6)
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.IsNil(leaving.Still(t.Context())))
			w.do(w.router, func() error { return toward("peer", false, peer4, peer6) })

			late := w.socket(w.peer, family(at.Addr()), unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
			qt.Assert(t, qt.Equals(unix.Connect(late.fd, sockaddr(at)), error(unix.EINPROGRESS)))
			ends := w.woken(set, l, a)
			talk(ends[1], p, 3) // others are not kept from anything
			qt.Check(t, qt.Equals(late.state(), sockdiag.SynSent))
			qt.Assert(t, qt.IsNil(leaving.Close()))
			late.reaches(sockdiag.Established)
			qt.Assert(t, qt.IsNil(leaving.GoOn()))
			over(ends[1], p)
		})
	}
}
