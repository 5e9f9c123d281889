package hold_test

import (
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/sockets"
	"github.com/snapctl/snapctl/vem/hold"
)

func TestArm(t *testing.T) {
	t.Parallel()
	w := sockets.New(t)
	l := w.Listen(sockets.App4, 1)
	to := w.Local(l)
	set := held(w, l)
	qt.Assert(t, qt.Equals(set.Sockets[0].Backlog, 1))
	limit := func() int {
		info, err := unix.GetsockoptTCPInfo(int(set.Sockets[0].File.Fd()), unix.IPPROTO_TCP, unix.TCP_INFO)
		qt.Assert(t, qt.IsNil(err))
		return int(info.Sacked)
	}
	qt.Assert(t, qt.IsNil(set.Arm()))
	qt.Assert(t, qt.IsNil(set.Arm()))
	qt.Assert(t, qt.Equals(limit(), 4096))
	for range 100 {
		w.Dial(sockets.App4, to)
	}
	// A later daemon undoes it.
	items, err := set.Items()
	qt.Assert(t, qt.IsNil(err))
	again, err := hold.FromItems(items)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(again.Disarm()))
	qt.Assert(t, qt.Equals(limit(), 1))
	for range 100 {
		w.Accept(again.Sockets[0].File)
	}
}
