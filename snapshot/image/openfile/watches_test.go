package openfile

import (
	"path/filepath"
	"testing"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fh"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fown"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fsnotify"
	sk_opts "github.com/checkpoint-restore/go-criu/v8/crit/images/sk-opts"
	sk_unix "github.com/checkpoint-restore/go-criu/v8/crit/images/sk-unix"
	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/proto"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/imagetest"
)

func noOwner() *fown.FownEntry {
	zero := proto.Uint32(0)
	return &fown.FownEntry{Uid: zero, Euid: zero, Signum: zero, PidType: zero, Pid: zero}
}

func handleOf(kind uint32, path *string) *fh.FhEntry {
	return &fh.FhEntry{Bytes: proto.Uint32(8), Type: new(kind), Handle: []uint64{1, 2}, Path: path}
}

// editDump is a view of a dump with one more open file.
func editDump(t *testing.T, f *fdinfo.FileEntry) *image.View {
	t.Helper()
	dir := imagetest.Dump(t, "plain")
	change(t, dir, "files.img", func(img *image.Image) { add(t, img, f) })
	v, err := image.NewView(t.Context(), dir, filepath.Join(t.TempDir(), "view"))
	qt.Assert(t, qt.IsNil(err))
	return v
}

func lastFile(t *testing.T, v *image.View) *fdinfo.FileEntry {
	t.Helper()
	all := imagetest.Load[fdinfo.FileEntry](t, v.Dir(), "files.img")
	return all[len(all)-1]
}

// TestSetWatches has four watches: one whose path is told, one that has a path, one whose
// path leads nowhere any more, and one that CRIU opens by its handle.
func TestSetWatches(t *testing.T) {
	wd := func(inode uint64, handle *fh.FhEntry) *fsnotify.InotifyWdEntry {
		return &fsnotify.InotifyWdEntry{
			Id: proto.Uint32(2000), IIno: new(inode), Mask: proto.Uint32(3), IgnoredMask: proto.Uint32(0), SDev: proto.Uint32(0x34),
			Wd: new(uint32(inode)), FHandle: handle,
		}
	}
	v := editDump(t, &fdinfo.FileEntry{Type: fdinfo.FdTypes_INOTIFY.Enum(), Id: proto.Uint32(2000), Ify: &fsnotify.InotifyFileEntry{
		Id: proto.Uint32(2000), Flags: proto.Uint32(0), Fown: noOwner(), Wd: []*fsnotify.InotifyWdEntry{
			wd(1, handleOf(overlayHandle, nil)), wd(2, handleOf(overlayHandle, new("/there"))),
			wd(3, handleOf(overlayHandle, new("/gone"))), wd(4, handleOf(1, nil)), wd(5, handleOf(overlayHandle, nil)),
		},
	}})
	gone, err := SetWatches(v, map[WatchKey]string{{Device: 0x34, Inode: 1}: "/told"}, func(path string) bool { return path == "/told" || path == "/there" })
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(gone, []string{"/gone", "inode 5"}))
	left := map[uint64]string{}
	for _, w := range lastFile(t, v).GetIfy().GetWd() {
		left[w.GetIIno()] = w.GetFHandle().GetPath()
		qt.Assert(t, qt.DeepEquals(w.GetFHandle().GetHandle(), []uint64{1, 2}))
	}
	qt.Assert(t, qt.DeepEquals(left, map[uint64]string{1: "/told", 2: "/there", 4: ""}))
}

// TestSetMarks has a fanotify group with a mark of an inode and one of a mount.
func TestSetMarks(t *testing.T) {
	mark := func(kind fsnotify.MarkType) *fsnotify.FanotifyMarkEntry {
		return &fsnotify.FanotifyMarkEntry{
			Id: proto.Uint32(2000), Type: &kind, Mflags: proto.Uint32(0), Mask: proto.Uint32(3), IgnoredMask: proto.Uint32(0), SDev: proto.Uint32(0x34),
		}
	}
	ofInode, ofMount := mark(fsnotify.MarkType_INODE), mark(fsnotify.MarkType_MOUNT)
	ofInode.Ie = &fsnotify.FanotifyInodeMarkEntry{IIno: proto.Uint64(1), FHandle: handleOf(overlayHandle, nil)}
	ofMount.Me = &fsnotify.FanotifyMountMarkEntry{MntId: proto.Uint32(7)}
	v := editDump(t, &fdinfo.FileEntry{Type: fdinfo.FdTypes_FANOTIFY.Enum(), Id: proto.Uint32(2000), Ffy: &fsnotify.FanotifyFileEntry{
		Id: proto.Uint32(2000), Flags: proto.Uint32(0), Fown: noOwner(), Faflags: proto.Uint32(0), Evflags: proto.Uint32(0),
		Mark: []*fsnotify.FanotifyMarkEntry{ofInode, ofMount},
	}})
	gone, err := SetWatches(v, map[WatchKey]string{{Device: 0x34, Inode: 1}: "/told"}, func(string) bool { return true })
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(gone, 0))
	marks := lastFile(t, v).GetFfy().GetMark()
	qt.Assert(t, qt.HasLen(marks, 2))
	qt.Assert(t, qt.Equals(marks[0].GetIe().GetFHandle().GetPath(), "/told"))
	qt.Assert(t, qt.Equals(marks[1].GetMe().GetMntId(), 7))
}

func TestMoveSockets(t *testing.T) {
	v := editDump(t, &fdinfo.FileEntry{Type: fdinfo.FdTypes_UNIXSK.Enum(), Id: proto.Uint32(2000), Usk: &sk_unix.UnixSkEntry{
		Id: proto.Uint32(2000), Ino: proto.Uint32(77), Type: proto.Uint32(1), State: proto.Uint32(10), Flags: proto.Uint32(2), Uflags: proto.Uint32(0),
		Backlog: proto.Uint32(9), Peer: proto.Uint32(0), Fown: noOwner(), Opts: &sk_opts.SkOptsEntry{
			SoSndbuf: proto.Uint32(1), SoRcvbuf: proto.Uint32(1), SoSndTmoSec: proto.Uint64(0), SoSndTmoUsec: proto.Uint64(0),
			SoRcvTmoSec: proto.Uint64(0), SoRcvTmoUsec: proto.Uint64(0),
		},
		Name: []byte("/run/it.tmp\x00"), Deleted: new(true), NameDir: new("/run"), MntId: new(int32(392)),
	}})
	qt.Assert(t, qt.IsNil(MoveSockets(v, map[uint64]string{77: "/run/it", 78: "/run/other"})))
	sk := lastFile(t, v).GetUsk()
	qt.Assert(t, qt.Equals(string(sk.GetName()), "/run/it\x00"))
	qt.Assert(t, qt.IsFalse(sk.GetDeleted()))
	qt.Assert(t, qt.Equals(sk.GetNameDir(), ""))
	qt.Assert(t, qt.Equals(sk.GetMntId(), -1)) // whatever mount
	qt.Assert(t, qt.Equals(sk.GetBacklog(), 9))
}
