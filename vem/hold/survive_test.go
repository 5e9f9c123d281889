package hold_test

import (
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/sockets"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/collect"
	"github.com/snapctl/snapctl/vem/holder"
)

// TestSurvive kills an app and hands its sockets to another one, by way of a
// holder; the peers notice nothing.
func TestSurvive(t *testing.T) {
	w := sockets.New(t)
	l := w.Listen(sockets.App4, 5)
	to := w.Local(l)
	client := w.Dial(sockets.App4, to)
	server := w.Accept(l)
	w.Write(server, "unread")
	store := holder.NewMemory()
	defer store.Close()

	a := w.Run(l, server)
	set := collected(w, a, collect.Options{})
	items, err := set.Items()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(store.Put(t.Context(), "app", items)))
	a.Kill(t)
	qt.Assert(t, qt.IsNil(set.Close()))
	qt.Assert(t, qt.IsNil(set.Close()))

	w.Write(client, "hello")
	late := w.Dial(sockets.App4, to)

	items, err = store.Get(t.Context(), "app")
	qt.Assert(t, qt.IsNil(err))
	again, err := hold.FromItems(items)
	qt.Assert(t, qt.IsNil(err))
	defer again.Close()
	for i := range again.Sockets {
		got, before := again.Sockets[i], set.Sockets[i]
		got.File, before.File = nil, nil
		qt.Assert(t, qt.CmpEquals(got, before, byValue()))
		flags, err := unix.FcntlInt(again.Sockets[i].File.Fd(), unix.F_GETFL, 0)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.Equals(flags&unix.O_NONBLOCK, unix.O_NONBLOCK)) // still the app's
		if again.Sockets[i].Kind == hold.TCP {
			buf := make([]byte, 10)
			sockets.Poll(t, again.Sockets[i].File, unix.POLLIN)
			n, err := unix.Read(int(again.Sockets[i].File.Fd()), buf)
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.Equals(string(buf[:n]), "hello"))
		} else {
			qt.Assert(t, qt.Equals(w.Local(w.Accept(again.Sockets[i].File)), to))
		}
	}
	sockets.Close(t, late)
}
