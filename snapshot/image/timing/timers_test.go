package timing

import (
	"os"
	"path/filepath"
	"testing"

	core "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/pstree"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/timer"
	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/proto"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/imagetest"
)

func TestPlaceTimers(t *testing.T) {
	posix := func(id uint32, thread *int32) *timer.PosixTimerEntry {
		return &timer.PosixTimerEntry{
			ItId: &id, ClockId: proto.Uint32(1), SiSigno: proto.Uint32(10), ItSigevNotify: proto.Uint32(4), SivalPtr: proto.Uint64(0), Overrun: proto.Uint32(0),
			Isec: proto.Uint64(1), Insec: proto.Uint64(0), Vsec: proto.Uint64(1), Vnsec: proto.Uint64(0), NotifyThreadId: thread,
		}
	}
	none := &timer.ItimerEntry{Isec: proto.Uint64(0), Iusec: proto.Uint64(0), Vsec: proto.Uint64(0), Vusec: proto.Uint64(0)}
	img, err := image.Decode(imagetest.FS(t, "plain")["core-1.img"].Data)
	qt.Assert(t, qt.IsNil(err))
	entry, err := image.Unmarshal[core.CoreEntry](img.Records[0].Message)
	qt.Assert(t, qt.IsNil(err))

	entry.Tc.Timers = &timer.TaskTimersEntry{
		Real: none, Virt: none, Prof: none,
		// What CRIU writes for the first thread is what it finds in its memory.
		Posix: []*timer.PosixTimerEntry{posix(1, proto.Int32(-1)), posix(2, proto.Int32(8)), posix(3, nil), posix(4, proto.Int32(1646344688)), posix(5, proto.Int32(7))},
	}
	dir, view := t.TempDir(), t.TempDir()
	write := func() {
		img.Records[0].Message, err = image.Marshal(entry)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(dir, "core-7.img"), img.Encode(), 0o600)))
	}
	write()
	tree, err := image.Marshal(&pstree.PstreeEntry{Pid: proto.Uint32(7), Ppid: proto.Uint32(0), Pgid: proto.Uint32(7), Sid: proto.Uint32(7), Threads: []uint32{7, 8}})
	qt.Assert(t, qt.IsNil(err))
	all := image.Image{Type: image.TypePstree, Records: []image.Record{{Message: tree}}}
	qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(dir, "pstree.img"), all.Encode(), 0o600)))
	stray, err := StrayTimers(dir)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(stray, []string{"core-7.img"}))

	v, err := image.NewView(t.Context(), dir, view)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(PlaceTimers(v, stray)))
	data, err := v.Read("core-7.img")
	qt.Assert(t, qt.IsNil(err))
	edited, err := image.Decode(data)
	qt.Assert(t, qt.IsNil(err))
	got, err := image.Unmarshal[core.CoreEntry](edited.Records[0].Message)
	qt.Assert(t, qt.IsNil(err))
	entry.Tc.Timers.Posix[0].NotifyThreadId = proto.Int32(7)
	entry.Tc.Timers.Posix[3].NotifyThreadId = proto.Int32(7)
	qt.Assert(t, qt.IsTrue(proto.Equal(got, entry)))

	write() // as it is right
	stray, err = StrayTimers(dir)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(stray, 0))
}
