package openfile

import (
	"testing"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fsnotify"
	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/imagetest"
)

// TestReadOwners gives an open file of a dump an owner.
func TestReadOwners(t *testing.T) {
	dir := imagetest.Dump(t, "plain")
	owners, err := ReadOwners(dir)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(owners, 0))

	names, err := image.Names(dir)
	qt.Assert(t, qt.IsNil(err))
	at, err := image.Descriptors(dir, names)
	qt.Assert(t, qt.IsNil(err))
	var want Owner
	change(t, dir, "files.img", func(img *image.Image) {
		for i, r := range img.Records {
			f, err := image.Unmarshal[fdinfo.FileEntry](r.Message)
			qt.Assert(t, qt.IsNil(err))
			ref, open := at[f.GetId()]
			if f.Reg == nil || !open {
				continue
			}
			f.Reg.Flags = new(f.Reg.GetFlags() | unix.O_ASYNC)
			f.Reg.Fown.Pid, f.Reg.Fown.PidType, f.Reg.Fown.Signum = proto.Uint32(7), proto.Uint32(2), proto.Uint32(35)
			img.Records[i].Message, err = proto.Marshal(f)
			qt.Assert(t, qt.IsNil(err))
			want = Owner{At: ref, Kind: OwnerGroup, ID: 7, Signal: 35, Async: true}
			return
		}
	})
	owners, err = ReadOwners(dir)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(owners, []Owner{want}))
}

// TestClearAsync has an inotify instance that is not blocking and sends signals.
func TestClearAsync(t *testing.T) {
	owner := noOwner()
	owner.Pid = proto.Uint32(7)
	entry := &fdinfo.FileEntry{Type: fdinfo.FdTypes_INOTIFY.Enum(), Id: proto.Uint32(2000), Ify: &fsnotify.InotifyFileEntry{
		Id: proto.Uint32(2000), Flags: proto.Uint32(unix.O_ASYNC | unix.O_NONBLOCK), Fown: owner,
	}}
	v := editDump(t, proto.CloneOf(entry))
	qt.Assert(t, qt.IsNil(ClearAsync(v)))
	entry.Ify.Flags = proto.Uint32(unix.O_NONBLOCK)
	qt.Assert(t, qt.IsTrue(proto.Equal(lastFile(t, v), entry)))
}
