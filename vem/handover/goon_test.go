package handover_test

import (
	"net/netip"
	"os"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/handover"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/holder"
)

// returns are the ways in which a departure that is called off ends.
func returns() map[string]func(w *world, set *hold.Set) {
	leave := func(w *world, set *hold.Set) (*handover.Leaving, []byte) {
		l, err := handover.Begin(w.t.Context(), w.app[w.at], set, app4, app6)
		qt.Assert(w.t, qt.IsNil(err))
		undo, err := l.Undo()
		qt.Assert(w.t, qt.IsNil(err))
		return l, undo
	}
	save := func(w *world, l *handover.Leaving) {
		w.shut()
		saved, err := l.Save(w.t.Context())
		qt.Assert(w.t, qt.IsNil(err))
		qt.Assert(w.t, qt.HasLen(saved.Refused, 0))
	}
	return map[string]func(w *world, set *hold.Set){
		"begun, and no more": func(w *world, set *hold.Set) { leave(w, set) },
		"begun": func(w *world, set *hold.Set) {
			l, _ := leave(w, set)
			qt.Assert(w.t, qt.IsNil(l.GoOn()))
		},
		"saved": func(w *world, set *hold.Set) {
			l, _ := leave(w, set)
			save(w, l)
			qt.Assert(w.t, qt.IsNil(l.GoOn()))
			qt.Assert(w.t, qt.IsNil(l.GoOn()))
			w.open()
		},
		"saved by a daemon that was killed": func(w *world, set *hold.Set) {
			l, undo := leave(w, set)
			save(w, l)
			qt.Assert(w.t, qt.IsNil(handover.GoOn(set, undo)))
			qt.Assert(w.t, qt.IsNil(handover.GoOn(set, undo)))
			w.open()
		},
		"saved twice": func(w *world, set *hold.Set) {
			for range 2 {
				l, _ := leave(w, set)
				save(w, l)
				qt.Assert(w.t, qt.IsNil(l.GoOn()))
				w.open()
			}
		},
	}
}

// TestGoOn saves connections in every state, which go on where they are.
func TestGoOn(t *testing.T) {
	for how, back := range returns() {
		t.Run(how, func(t *testing.T) {
			w := newWorld(t)
			port := uint16(8000)
			for state, s := range states() {
				t.Run(state, func(t *testing.T) {
					w.t = t
					port++
					at := netip.AddrPortFrom(app4, port)
					l := w.listen(w.app[0], at)
					p, a := w.dial(w.peer, l, at)
					s.before(a, p)
					reuse, err := unix.GetsockoptInt(a.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR)
					qt.Assert(t, qt.IsNil(err))
					set := w.hold(l, a)
					back(w, set)
					ends := w.woken(set, l, a)
					now, err := unix.GetsockoptInt(ends[1].fd, unix.SOL_SOCKET, unix.SO_REUSEADDR)
					qt.Assert(t, qt.IsNil(err))
					qt.Check(t, qt.Equals(now, reuse))
					s.after(ends[1], p)
					w.serves(ends[0], at)
					qt.Assert(t, qt.IsNil(set.Close()))
				})
			}
		})
	}
}

// TestDatagramsStay saves sockets in which datagrams wait, which go on where they are: each
// comes out once.
func TestDatagramsStay(t *testing.T) {
	for how, back := range returns() {
		t.Run(how, func(t *testing.T) {
			w := newWorld(t)
			w.allowPing()
			port := uint16(5000)
			for name, tt := range datagramKinds() {
				t.Run(name, func(t *testing.T) {
					w.t = t
					port++
					at := netip.AddrPortFrom(tt.app, port)
					a := w.datagram(w.app[0], netip.AddrPortFrom(tt.bound, port), tt.proto, tt.set)
					p := w.datagram(w.peer, netip.AddrPortFrom(tt.peer, 0), tt.proto)
					if tt.connected {
						qt.Assert(t, qt.IsNil(unix.Connect(a.fd, sockaddr(p.local()))))
					}
					before := everything(t, a.fd, classOf(tt.proto))
					list := []string{"first", string(numbered(3, 0, 1400)), "last"}
					for _, data := range list {
						p.sendTo(at, data)
					}
					set := w.hold(a)
					back(w, set)
					qt.Assert(t, qt.IsNil(set.Narrow()))
					a = w.woken(set, a)[0]
					after := everything(t, a.fd, classOf(tt.proto))
					qt.Check(t, qt.DeepEquals(after, before))
					p.sendTo(at, "more")
					for _, want := range append(list, "more") {
						qt.Check(t, qt.Equals(string(a.next().data), want))
					}
					qt.Check(t, qt.HasLen(a.drain(), 0))
					qt.Assert(t, qt.IsNil(set.Close()))
				})
			}
		})
	}
}

// TestTakenOutComesBack saves ping and raw sockets, whose queues can't be looked into.
func TestTakenOutComesBack(t *testing.T) {
	w := newWorld(t)
	w.allowPing()
	peer := netip.AddrPortFrom(peer4, 0)
	ping := w.datagram(w.app[0], netip.AddrPortFrom(app4, 99), unix.IPPROTO_ICMP)
	raw := w.socket(w.app[0], unix.AF_INET, unix.SOCK_RAW, 253)
	from := w.socket(w.peer, unix.AF_INET, unix.SOCK_RAW, 253)
	udp := w.datagram(w.app[0], netip.AddrPortFrom(app4, 5000), 0)
	for _, data := range []string{"one", "two"} {
		ping.sendTo(peer, echo(app4, data))
		from.sendTo(netip.AddrPortFrom(app4, 0), data)
		ping.wait(unix.POLLIN)
		raw.wait(unix.POLLIN)
	}
	set := w.hold(ping, raw, udp)
	for range 2 {
		returns()["saved"](w, set)
	}
	ends := w.woken(set, ping, raw, udp)
	ends[0].sendTo(peer, echo(app4, "three"))
	from.sendTo(netip.AddrPortFrom(app4, 0), "three")
	for _, data := range []string{"one", "two", "three"} {
		qt.Check(t, qt.Equals(string(ends[0].next().data[8:]), data))
		qt.Check(t, qt.Equals(string(ends[1].next().data[20:]), data))
	}
	for _, e := range ends {
		qt.Check(t, qt.HasLen(e.drain(), 0))
	}
}

// TestResume has another daemon release the sockets that one has made that was killed: before
// it has released them, after, and twice.
func TestResume(t *testing.T) {
	for how, release := range map[string]func(t *testing.T, r *handover.Restored){
		"before": func(*testing.T, *handover.Restored) {},
		"after":  func(t *testing.T, r *handover.Restored) { t.Helper(); qt.Assert(t, qt.IsNil(r.Release(t.Context()))) },
	} {
		t.Run(how, func(t *testing.T) {
			w := newWorld(t)
			port := uint16(8000)
			for state, s := range states() {
				t.Run(state, func(t *testing.T) {
					w.t = t
					port++
					at := netip.AddrPortFrom(app6, port)
					l := w.listen(w.app[w.at], at)
					p, a := w.dial(w.peer, l, at)
					s.before(a, p)
					ends := []*end{l, a}
					r, saved := w.restored(w.hold(ends...))
					w.open()
					release(t, r)
					set := inherited(t, r.Set)
					qt.Assert(t, qt.IsNil(r.Set.Close()))
					for range 2 {
						r, err := handover.Resume(w.app[w.at], set, w.sent(saved))
						qt.Assert(t, qt.IsNil(err))
						qt.Assert(t, qt.IsNil(r.Release(t.Context())))
					}
					ends = w.woken(set, ends...)
					s.after(ends[1], p)
					w.serves(ends[0], at)
					qt.Assert(t, qt.IsNil(set.Close()))
				})
			}
		})
	}
}

// inherited is what another daemon gets of a set from the holder.
func inherited(t *testing.T, set *hold.Set) *hold.Set {
	t.Helper()
	items, err := set.Items()
	qt.Assert(t, qt.IsNil(err))
	var got []holder.Item
	for _, it := range items {
		fd, err := unix.FcntlInt(it.File.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		qt.Assert(t, qt.IsNil(err))
		it.File = os.NewFile(uintptr(fd), it.Key)
		got = append(got, it)
	}
	other, err := hold.FromItems(got)
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(other.Close())) })
	return other
}

// TestSaveThatFails leaves everything as it was.
func TestSaveThatFails(t *testing.T) {
	w := newWorld(t)
	at := netip.AddrPortFrom(app4, 80)
	l := w.listen(w.app[0], at)
	p, a := w.dial(w.peer, l, at)
	a.write(100)
	set := w.hold(l, a)
	leaving, err := handover.Begin(t.Context(), w.app[0], set, app4, app6)
	qt.Assert(t, qt.IsNil(err))
	w.shut()
	_, err = leaving.Save(ended(t))
	qt.Assert(t, qt.IsNotNil(err))
	w.open()
	ends := w.woken(set, l, a)
	over(ends[1], p)
	w.serves(ends[0], at)
}
