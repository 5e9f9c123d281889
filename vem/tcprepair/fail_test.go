package tcprepair_test

import (
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/tcprepair"
)

// TestUnsupported refuses what a copy would not have, and leaves it as it is.
func TestUnsupported(t *testing.T) {
	for name, prepare := range map[string]func(p pair){
		"urgent data": func(p pair) {
			qt.Assert(t, qt.IsNil(unix.Sendto(p[0].fd, []byte("x"), unix.MSG_OOB, nil)))
			p[1].wait(unix.POLLPRI)
		},
		"SO_PEEK_OFF": func(p pair) {
			if unix.SetsockoptInt(p[0].fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, 0) != nil {
				p[0].t.Skip("Linux before 6.9 has it for no TCP socket")
			}
		},
		"packet filter": func(p pair) {
			prog := []unix.SockFilter{{Code: unix.BPF_RET, K: 1 << 20}}
			qt.Assert(t, qt.IsNil(unix.SetsockoptSockFprog(p[1].fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &prog[0]})))
		},
		"kernel": func(p pair) {
			if unix.SetsockoptString(p[0].fd, unix.IPPROTO_TCP, unix.TCP_ULP, "tls") != nil {
				p[0].t.Skip("no TLS in this kernel")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newWorld(t).pair(local)
			prepare(p)
			_, err := trySave(p)
			var refused *tcprepair.UnsupportedError
			qt.Assert(t, qt.ErrorAs(err, &refused))
			qt.Check(t, qt.StringContains(err.Error(), name))
			for _, e := range p {
				repair, err := unix.GetsockoptInt(e.fd, unix.IPPROTO_TCP, unix.TCP_REPAIR)
				qt.Assert(t, qt.IsNil(err))
				qt.Check(t, qt.Equals(repair, 0))
			}
		})
	}
	w := newWorld(t)
	one, other := w.pair(local), w.pair(local)
	_, err := trySave(pair{one[0], other[1]})
	qt.Check(t, qt.ErrorIs(err, tcprepair.ErrInconsistent))
	_, err = trySave(pair{one[0], nil})
	qt.Check(t, qt.ErrorMatches(err, `save TCP connection: its other end is in no process.*`))
	one.goesOn()
}

// TestRecover finds the sockets of one that was killed while it saved.
func TestRecover(t *testing.T) {
	p := newWorld(t).pair(local)
	for i, e := range p {
		qt.Assert(t, qt.IsNil(unix.SetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1-i)))
	}
	p[0].fill()
	for i, e := range p {
		one := tcprepair.End{FD: e.fd}
		reuse, err := one.Reuse()
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.Equals(reuse, 1-i))
		qt.Assert(t, qt.IsNil(unix.SetsockoptInt(e.fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1)))
		qt.Assert(t, qt.IsNil(unix.SetsockoptInt(e.fd, unix.IPPROTO_TCP, unix.TCP_REPAIR_QUEUE, 2)))
		drop := unix.SockFilter{Code: unix.BPF_RET}
		qt.Assert(t, qt.IsNil(unix.SetsockoptSockFprog(e.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop})))
		qt.Assert(t, qt.IsNil(one.Recover(reuse)))
		got, err := one.Reuse()
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(got, reuse))
	}
	p.goesOn()
}

// TestOneEndIsMade takes one end away without the other's noticing, and makes it again.
func TestOneEndIsMade(t *testing.T) {
	for name, before := range map[string]func(p pair){
		"at rest":        func(pair) {},
		"unread":         func(p pair) { p[0].write(5000); p[1].write(7); p[1].receive(1234) },
		"full both ways": func(p pair) { p[0].fill(); p[1].fill() },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p := w.pair(local)
			before(p)
			state, err := tcprepair.SaveOne(tcprepair.SaveOptions{}, tcprepair.End{FD: p[0].fd})
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.IsNil(unix.SetsockoptInt(p[0].fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1)))
			p[0].close()
			var s *tcprepair.Socket
			w.do(func() (err error) {
				s, err = state.Restore()
				return err
			})
			fd, err := unix.FcntlInt(s.File.Fd(), unix.F_DUPFD_CLOEXEC, 0)
			qt.Assert(t, qt.IsNil(err))
			made := w.end(fd, p[0].way)
			made.wrote, made.read = p[0].wrote, p[0].read
			qt.Assert(t, qt.IsNil(s.Release()))
			pair{made, p[1]}.goesOn()
		})
	}
}
