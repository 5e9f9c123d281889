package collect_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/sockets"
	"github.com/snapctl/snapctl/vem/hold/collect"
	"github.com/snapctl/snapctl/vem/wake"
)

// TestCollectMessages holds the sockets inside an app of whose messages CRIU would lose a
// part, together with what is connected to them, and no others.
func TestCollectMessages(t *testing.T) {
	w := sockets.New(t)
	pair := func(kind int) (a, b *os.File) {
		w.Do(func() { a, b = w.Pair(kind) })
		return a, b
	}
	send := func(f *os.File, message string, rights ...int) {
		t.Helper()
		var oob []byte
		if len(rights) > 0 {
			oob = unix.UnixRights(rights...)
		}
		qt.Assert(t, qt.IsNil(unix.Sendmsg(int(f.Fd()), []byte(message), oob, nil, 0)))
	}
	name := filepath.Join(t.TempDir(), "log")

	quiet1, quiet2 := pair(unix.SOCK_SEQPACKET)
	stream1, stream2 := pair(unix.SOCK_STREAM)
	send(stream1, "CRIU keeps it")
	passing1, passing2 := pair(unix.SOCK_SEQPACKET)
	send(passing1, "with a descriptor", int(quiet1.Fd()))
	packets1, packets2 := pair(unix.SOCK_SEQPACKET)
	send(packets1, "")
	log := w.UnixBound(unix.SOCK_DGRAM, name)
	sender := w.UnixDial(unix.SOCK_DGRAM, name)
	idle := w.UnixDial(unix.SOCK_DGRAM, name)
	send(sender, "first")

	want := map[uint64]bool{}
	for _, f := range []*os.File{packets1, packets2, log, sender, idle} {
		want[sockets.Inode(t, f)] = true
	}
	app := w.Run(quiet1, quiet2, stream1, stream2, passing1, passing2, packets1, packets2, log, sender, idle)
	set := collected(w, app, collect.Options{})
	got := map[uint64]bool{}
	for _, s := range set.Sockets {
		got[s.Inode] = s.Inside
	}
	qt.Assert(t, qt.DeepEquals(got, want))
	qt.Assert(t, qt.HasLen(set.External(), 0)) // CRIU has both ends
	qt.Assert(t, qt.HasLen(set.Notes, 1))      // of the descriptor in transit
	qt.Assert(t, qt.HasLen(set.LostInCopies(), 2))
	qt.Assert(t, qt.Equals(wake.Strongest(set, wake.Policy{}, nil), wake.Nobody))

	copied := collected(w, app, collect.Options{Copy: true})
	qt.Assert(t, qt.HasLen(copied.Sockets, 0))
	qt.Assert(t, qt.HasLen(copied.Notes, 3))
}
