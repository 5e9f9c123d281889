package collect_test

import (
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/sockets"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/collect"
)

// Of an app that goes on, only its connections are collected, with all that lead to them.
func TestConnections(t *testing.T) {
	w := sockets.New(t)
	l := w.Listen(sockets.App4, 5)
	client := w.Dial(sockets.Other4, w.Local(l))
	a, b := w.Pair(unix.SOCK_STREAM)
	conn := w.Accept(l)
	local := w.Local(conn)
	app := w.Run(l, conn, a, w.Bound(sockets.App4, unix.SOCK_DGRAM, 0), w.Socket(unix.AF_INET, unix.SOCK_STREAM, 0))
	set, others, err := collect.Connections(t.Context(), []int{app.PID})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(set.Sockets, 1))
	qt.Check(t, qt.Equals(set.Sockets[0].Kind, hold.TCP))
	qt.Check(t, qt.Equals(set.Sockets[0].Local, local))
	qt.Check(t, qt.DeepEquals(set.Sockets[0].Owners, []hold.Owner{{PID: app.PID, FD: 4}}))
	for _, fd := range []int{3, 5, 6, 7} {
		qt.Check(t, qt.SliceContains(others[app.PID], fd))
	}
	qt.Check(t, qt.Not(qt.SliceContains(others[app.PID], 4)))
	sockets.Close(t, client, b)
}
