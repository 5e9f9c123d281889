package fsnotify

import (
	"strings"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/moby/sys/mountinfo"
)

// A line of a watch on an overlay's directory (Linux 6.18), whose handle has that of an ext4
// inode in it.
const overlayWatch = "inotify wd:1 ino:c20ac sdev:34 mask:100 ignored_mask:0 fhandle-bytes:20 fhandle-type:f8 " +
	"f_handle:00000000fb1d040100000000000000000000000000000000ac200c0030fb0dfb"

func TestParseWatched(t *testing.T) {
	w, ok := parseMark(overlayWatch)
	qt.Assert(t, qt.IsTrue(ok))
	qt.Assert(t, qt.Equals(w.Watched, Watched{Device: 0x34, Inode: 0xc20ac}))
	qt.Assert(t, qt.Equals(w.kind, 0xf8))
	kind, handle, ok := realHandle(w.handle)
	qt.Assert(t, qt.IsTrue(ok))
	qt.Assert(t, qt.Equals(kind, 1))
	qt.Assert(t, qt.DeepEquals(handle, []byte{0xac, 0x20, 0x0c, 0, 0x30, 0xfb, 0x0d, 0xfb}))
	for _, line := range []string{"", "pos:\t0", "inotify", "inotify wd:1 ino:x sdev:34", "fanotify mnt_id:12 mflags:0 mask:1", "fanotify sdev:34 mflags:0"} {
		_, ok := parseMark(line)
		qt.Check(t, qt.IsFalse(ok), qt.Commentf("%s", line))
	}
}

func FuzzParseWatched(f *testing.F) {
	f.Add(overlayWatch)
	f.Add("fanotify ino:1 sdev:1 mflags:0 mask:1 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:0000000000fb0000")
	f.Fuzz(func(t *testing.T, line string) {
		w, ok := parseMark(line)
		if !ok {
			return
		}
		if _, handle, ok := realHandle(w.handle); ok && len(handle) >= len(w.handle) {
			t.Errorf("a handle of %d bytes in one of %d", len(handle), len(w.handle))
		}
	})
}

func TestAppMount(t *testing.T) {
	const table = `463 402 0:52 / /with\040space rw - overlay snapctl rw,lowerdir=/a:/b,upperdir=/c,workdir=/d
26 1 259:1 / / rw - ext4 /dev/root rw
`
	list, err := mountinfo.GetMountsFromReader(strings.NewReader(table), nil)
	qt.Assert(t, qt.IsNil(err))
	m := newAppMount(list[0])
	qt.Assert(t, qt.Equals(m.device, 52))
	qt.Assert(t, qt.Equals(m.point, "/with space"))
	qt.Assert(t, qt.DeepEquals(m.layers, []string{"/c", "/a", "/b"}))
	m = newAppMount(list[1])
	qt.Assert(t, qt.Equals(m.device, 259<<20|1))
	qt.Assert(t, qt.IsNil(m.layers))
}

func TestOverlayLayers(t *testing.T) {
	layers := overlayLayers(`rw,lowerdir+=/a\040b,lowerdir+=/b,datadir+=/x,upperdir=/c`)
	qt.Assert(t, qt.DeepEquals(layers, []string{"/c", "/a b", "/b", "/x"}))
}
