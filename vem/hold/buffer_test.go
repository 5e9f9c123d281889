package hold_test

import (
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/sockets"
	"github.com/snapctl/snapctl/vem/hold"
)

// TestBuffers sends a held socket more than it has room for by itself.
func TestBuffers(t *testing.T) {
	const count, more = 2000, 40000
	for name, test := range map[string]struct {
		size int // that the app has set; 0: none
	}{
		"default": {}, "set by the app": {size: 5000}, "large already": {size: 32 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			w := sockets.New(t)
			server := w.Bound(sockets.App4, unix.SOCK_DGRAM, 0)
			if test.size > 0 {
				qt.Assert(t, qt.IsNil(unix.SetsockoptInt(int(server.Fd()), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, test.size)))
			}
			to := w.Local(server)
			client := w.Bound(sockets.App4, unix.SOCK_DGRAM, 0)
			set := held(w, server)
			held := int(set.Sockets[0].File.Fd())
			option := func(name int) int {
				v, err := unix.GetsockoptInt(held, unix.SOL_SOCKET, name)
				qt.Assert(t, qt.IsNil(err))
				return v
			}
			size, lock := option(unix.SO_RCVBUF), option(unix.SO_BUF_LOCK)
			qt.Assert(t, qt.IsNil(set.Widen()))
			for range count {
				w.SendTo(client, to, "x")
			}
			lost, err := set.Lost()
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.HasLen(lost, 0))

			// A later daemon undoes it.
			items, err := set.Items()
			qt.Assert(t, qt.IsNil(err))
			again, err := hold.FromItems(items)
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.IsNil(again.Widen()))
			for range more {
				w.SendTo(client, to, "x")
			}
			lost, err = again.Lost()
			qt.Assert(t, qt.IsNil(err))
			kept := count + more
			if test.size < 16<<20 { // else there is room for all
				qt.Assert(t, qt.HasLen(lost, 1))
				qt.Assert(t, qt.Equals(lost[0].Socket.Local, to))
				kept -= int(lost[0].Count)
			}
			qt.Assert(t, qt.IsNil(again.Narrow()))
			qt.Assert(t, qt.Equals(option(unix.SO_RCVBUF), size))
			qt.Assert(t, qt.Equals(option(unix.SO_BUF_LOCK), lock))
			for range kept {
				_, _, err := unix.Recvfrom(held, make([]byte, 9), unix.MSG_DONTWAIT)
				qt.Assert(t, qt.IsNil(err))
			}
			_, _, err = unix.Recvfrom(held, make([]byte, 9), unix.MSG_DONTWAIT)
			qt.Assert(t, qt.ErrorIs(err, unix.EAGAIN))
		})
	}
}
