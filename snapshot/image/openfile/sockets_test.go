package openfile

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	sk_packet "github.com/checkpoint-restore/go-criu/v8/crit/images/sk-packet"
	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/proto"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/imagetest"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// fdTypes counts the descriptors of each file of a dump, and tells their type.
func fdTypes(tb testing.TB, dir string) (count map[uint32]int, types map[uint32]fdinfo.FdTypes) {
	tb.Helper()
	count, types = make(map[uint32]int), make(map[uint32]fdinfo.FdTypes)
	lists, err := filepath.Glob(filepath.Join(dir, "fdinfo-*.img"))
	qt.Assert(tb, qt.IsNil(err))
	for _, list := range lists {
		for _, fd := range imagetest.Load[fdinfo.FdinfoEntry](tb, dir, filepath.Base(list)) {
			count[fd.GetId()]++
			if before, ok := types[fd.GetId()]; ok {
				qt.Assert(tb, qt.Equals(fd.GetType(), before))
			}
			types[fd.GetId()] = fd.GetType()
		}
	}
	return count, types
}

func TestReplaceSockets(t *testing.T) {
	images := imagetest.Dump(t, "plain")
	before := imagetest.Digests(t, images)
	v, err := image.NewView(t.Context(), images, filepath.Join(t.TempDir(), "view"))
	qt.Assert(t, qt.IsNil(err))

	original := imagetest.Load[fdinfo.FileEntry](t, images, "files.img")
	counts, _ := fdTypes(t, images)
	keys := map[uint64]string{1 << 40: "nowhere"}
	want := make(map[uint64]Replaced)
	for i, file := range original {
		if isk := file.GetIsk(); isk != nil {
			ino := uint64(isk.GetIno())
			keys[ino] = fmt.Sprintf("%x-%d", ino, i)
			want[ino] = Replaced{Inode: ino, Key: keys[ino], File: file.GetId(), FDs: counts[file.GetId()]}
		}
	}
	qt.Assert(t, qt.Equals(len(want), 13))

	got, err := ReplaceSockets(t.Context(), v, keys)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(got, want))

	edited := imagetest.Load[fdinfo.FileEntry](t, v.Dir(), "files.img")
	qt.Assert(t, qt.HasLen(edited, len(original)))
	for i, file := range edited {
		isk := original[i].GetIsk()
		if isk == nil {
			qt.Check(t, qt.IsTrue(proto.Equal(file, original[i])))
			continue
		}
		qt.Check(t, qt.Equals(file.GetType(), fdinfo.FdTypes_REG))
		qt.Check(t, qt.Equals(file.GetId(), isk.GetId()))
		qt.Check(t, qt.IsNil(file.GetIsk()))
		reg := file.GetReg()
		qt.Check(t, qt.Equals(reg.GetId(), isk.GetId()))
		qt.Check(t, qt.Equals(reg.GetFlags(), isk.GetFlags()))
		qt.Check(t, qt.Equals(reg.GetName(), "/"+keys[uint64(isk.GetIno())]))
		qt.Check(t, qt.IsTrue(proto.Equal(reg.GetFown(), isk.GetFown())))
		qt.Check(t, qt.IsNil(reg.Size))
		qt.Check(t, qt.IsNil(reg.Mode))
		qt.Check(t, qt.Equals(reg.GetMntId(), -1))
	}

	_, types := fdTypes(t, v.Dir())
	for _, r := range got {
		if r.FDs > 0 {
			qt.Check(t, qt.Equals(types[r.File], fdinfo.FdTypes_REG))
		}
	}
	after, _ := fdTypes(t, v.Dir())
	qt.Check(t, qt.DeepEquals(after, counts))

	// The dump is untouched, and only what had to be copied was.
	qt.Check(t, qt.DeepEquals(imagetest.Digests(t, images), before))
	qt.Check(t, qt.ContentEquals(imagetest.Edited(t, v.Dir(), v.Images()),
		[]string{"fdinfo-2.img", "fdinfo-3.img", "fdinfo-4.img", "fdinfo-5.img", "files.img"}))

	// Once more is refused: the names are taken now.
	got, err = ReplaceSockets(t.Context(), v, keys)
	qt.Check(t, qt.ErrorIs(err, ErrKey))
	qt.Check(t, qt.HasLen(got, 0))
}

func TestReplaceUnixSockets(t *testing.T) {
	images := imagetest.Dump(t, "plain")
	var pair [2]uint64
	var listener, receiver uint64
	for _, file := range imagetest.Load[fdinfo.FileEntry](t, images, "files.img") {
		switch usk := file.GetUsk(); {
		case usk == nil:
		case string(usk.GetName()) == "\x00snapctl-test":
			listener = uint64(usk.GetIno())
		case usk.GetPeer() != 0:
			pair = [2]uint64{uint64(usk.GetIno()), uint64(usk.GetPeer())}
		}
	}
	packets := imagetest.Load[sk_packet.SkPacketEntry](t, images, "sk-queues.img")
	qt.Assert(t, qt.Not(qt.HasLen(packets, 0)))
	for _, file := range imagetest.Load[fdinfo.FileEntry](t, images, "files.img") {
		if file.GetId() == packets[0].GetIdFor() {
			receiver = uint64(file.GetUsk().GetIno())
		}
	}
	qt.Assert(t, qt.SliceContains(pair[:], receiver))

	tests := map[string]struct {
		keys map[uint64]string
		want error
		left int // packets
	}{
		"listener":    {map[uint64]string{listener: "l"}, nil, len(packets)},
		"half a pair": {map[uint64]string{pair[0]: "a"}, ErrHalfHeld, len(packets)},
		"other half":  {map[uint64]string{pair[1]: "a"}, ErrHalfHeld, len(packets)},
		"pair":        {map[uint64]string{pair[0]: "a", pair[1]: "b"}, nil, 0},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			v, err := image.NewView(t.Context(), images, filepath.Join(t.TempDir(), "view"))
			qt.Assert(t, qt.IsNil(err))
			links := imagetest.Listing(t, v.Dir())
			got, err := ReplaceSockets(t.Context(), v, tc.keys)
			qt.Check(t, qt.ErrorIs(err, tc.want))
			if tc.want != nil {
				qt.Check(t, qt.DeepEquals(imagetest.Listing(t, v.Dir()), links))
				return
			}
			qt.Check(t, qt.HasLen(got, len(tc.keys)))
			qt.Check(t, qt.HasLen(imagetest.Load[sk_packet.SkPacketEntry](t, v.Dir(), "sk-queues.img"), tc.left))
		})
	}
}

func TestReplaceSocketsBadKeys(t *testing.T) {
	images := imagetest.Dump(t, "plain")
	var mapped string
	for _, file := range imagetest.Load[fdinfo.FileEntry](t, images, "files.img") {
		if reg := file.GetReg(); reg != nil {
			mapped = reg.GetName()[1:]
		}
	}
	for name, keys := range map[string]map[uint64]string{
		"empty":       {1: ""},
		"slash first": {1: "/a"},
		"NUL":         {1: "a\x00b"},
		"root":        {1: "."},
		"long":        {1: strings.Repeat("k", 256)},
		"twice":       {1: "a", 2: "a"},
		"other file":  {1: mapped},
	} {
		t.Run(name, func(t *testing.T) {
			v, err := image.NewView(t.Context(), images, filepath.Join(t.TempDir(), "view"))
			qt.Assert(t, qt.IsNil(err))
			_, err = ReplaceSockets(t.Context(), v, keys)
			qt.Check(t, qt.ErrorIs(err, ErrKey))
		})
	}
}

// Fields that no message definition has, and odd but legal encodings, survive
// an edit byte for byte.
func TestEditKeepsUnknownFields(t *testing.T) {
	odd := []byte{0x18, 0x84, 0x00} // field 3, a varint that is longer than it needs to be
	unknown := wire.AppendBytes(wire.AppendVarint(nil, 1000, 7), 1001, []byte("whatever"))
	msg := append(append(wire.AppendVarint(nil, 1, 5), odd...), unknown...)
	got, err := wire.SetVarint(nil, msg, 1, 6)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(got, append(append(wire.AppendVarint(nil, 1, 6), odd...), unknown...)))

	socket := wire.AppendVarint(wire.AppendVarint(wire.AppendVarint(nil, 1, 9), 2, 77), 9, 2)
	file := wire.AppendVarint(wire.AppendVarint(nil, image.FileEntryType, image.FileInetSk), image.FileEntryID, 9)
	file = append(wire.AppendBytes(file, image.FileEntryInet, socket), unknown...)
	e := socketEdit{keys: map[uint64]string{77: "key"}, taken: map[string]uint64{"key": 77}, ids: make(map[uint32]int)}
	records, err := e.files([]image.Record{{Message: file}, {Message: unknown}})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(records, 2))
	qt.Check(t, qt.DeepEquals(records[0].Message[len(records[0].Message)-len(unknown):], unknown))
	qt.Check(t, qt.DeepEquals(records[1].Message, unknown))
}
