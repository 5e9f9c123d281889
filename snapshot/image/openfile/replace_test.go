package openfile

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/eventfd"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fh"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fown"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fsnotify"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/regfile"
	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/proto"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/imagetest"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// change rewrites an image of a dump.
func change(t *testing.T, dir, name string, fn func(*image.Image)) {
	t.Helper()
	path := filepath.Join(dir, name)
	data, err := os.ReadFile(path)
	qt.Assert(t, qt.IsNil(err))
	img, err := image.Decode(data)
	qt.Assert(t, qt.IsNil(err))
	fn(img)
	qt.Assert(t, qt.IsNil(os.WriteFile(path, img.Encode(), 0o600)))
}

func add(t *testing.T, img *image.Image, m proto.Message) {
	t.Helper()
	msg, err := proto.Marshal(m)
	qt.Assert(t, qt.IsNil(err))
	img.Records = append(img.Records, image.Record{Message: msg})
}

// The files that objectDump adds to process 1, at descriptors that are their ids.
const (
	counter = 1000 + iota
	notifier
	queueReader
	queueWriter
	savedFile
)

// objectDump is a dump with an eventfd, an inotify instance, a message queue
// that is open twice, and a file that CRIU saved.
func objectDump(t *testing.T) string {
	t.Helper()
	dir := imagetest.Dump(t, "plain")
	owner := func(pid uint32) *fown.FownEntry {
		return &fown.FownEntry{Uid: proto.Uint32(7), Euid: proto.Uint32(8), Signum: proto.Uint32(0), PidType: proto.Uint32(0), Pid: new(pid)}
	}
	reg := func(id uint32, name string, flags uint32, ext bool) *fdinfo.FileEntry {
		return &fdinfo.FileEntry{Type: fdinfo.FdTypes_REG.Enum(), Id: new(id), Reg: &regfile.RegFileEntry{
			Id: new(id), Flags: new(flags), Pos: proto.Uint64(0), Fown: owner(id), Name: new(name),
			Ext: new(ext), Mode: proto.Uint32(0o100600), Size: proto.Uint64(80),
		}}
	}
	files := []*fdinfo.FileEntry{
		{Type: fdinfo.FdTypes_EVENTFD.Enum(), Id: proto.Uint32(counter), Efd: &eventfd.EventfdFileEntry{
			Id: proto.Uint32(counter), Flags: proto.Uint32(0o4002), Fown: owner(1), Counter: proto.Uint64(1 << 40),
		}},
		{Type: fdinfo.FdTypes_INOTIFY.Enum(), Id: proto.Uint32(notifier), Ify: &fsnotify.InotifyFileEntry{
			Id: proto.Uint32(notifier), Flags: proto.Uint32(0o4000), Fown: owner(2), Wd: []*fsnotify.InotifyWdEntry{{
				Id: proto.Uint32(1), IIno: proto.Uint64(2), Mask: proto.Uint32(3), IgnoredMask: proto.Uint32(0), SDev: proto.Uint32(5),
				Wd: proto.Uint32(6), FHandle: &fh.FhEntry{Bytes: proto.Uint32(0), Type: proto.Uint32(0)},
			}},
		}},
		reg(queueReader, "file[9:a]", 0o4000, true),
		reg(queueWriter, "file[9:a]", 1, true),
		reg(savedFile, "/etc/passwd", 0, false),
	}
	change(t, dir, "files.img", func(img *image.Image) {
		for _, f := range files {
			add(t, img, f)
		}
	})
	change(t, dir, "fdinfo-2.img", func(img *image.Image) {
		for _, f := range files {
			add(t, img, &fdinfo.FdinfoEntry{Id: f.Id, Flags: proto.Uint32(1), Type: f.Type, Fd: f.Id})
		}
	})
	return dir
}

// owner finds the process whose table of descriptors is fdinfo-2.img.
func owner(t *testing.T, dir string) int {
	t.Helper()
	for pid := range 10 {
		if id, _, err := image.FindDescriptor(dir, image.DescriptorRef{PID: pid, FD: counter}); err == nil && id == counter {
			return pid
		}
	}
	ids, err := filepath.Glob(filepath.Join(dir, "ids-*.img"))
	qt.Assert(t, qt.IsNil(err))
	t.Fatalf("no process has it: %v", ids)
	return 0
}

func TestReplaceFiles(t *testing.T) {
	images := objectDump(t)
	pid := owner(t, images)
	before := imagetest.Digests(t, images)
	v, err := image.NewView(t.Context(), images, filepath.Join(t.TempDir(), "view"))
	qt.Assert(t, qt.IsNil(err))
	original := imagetest.Load[fdinfo.FileEntry](t, images, "files.img")
	keys := map[image.DescriptorRef]string{
		{PID: pid, FD: counter}: "a", {PID: pid, FD: notifier}: "b", {PID: pid, FD: queueReader}: "c", {PID: pid, FD: queueWriter}: "d",
		{PID: pid, FD: 99999}: "no such descriptor", {PID: 12345, FD: 0}: "no such process",
	}
	got, err := Replace(t.Context(), v, keys)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(got, map[string]Replaced{
		"a": {Key: "a", File: counter, FDs: 1}, "b": {Key: "b", File: notifier, FDs: 1},
		"c": {Key: "c", File: queueReader, FDs: 1}, "d": {Key: "d", File: queueWriter, FDs: 1},
	}))
	flags := map[string]uint32{"a": 0o4002, "b": 0o4000, "c": 0o4000, "d": 1}
	pids := map[string]uint32{"a": 1, "b": 2, "c": queueReader, "d": queueWriter}
	edited := imagetest.Load[fdinfo.FileEntry](t, v.Dir(), "files.img")
	qt.Assert(t, qt.HasLen(edited, len(original)))
	seen := 0
	for i, file := range edited {
		key := keys[image.DescriptorRef{PID: pid, FD: int(file.GetId())}]
		if key == "" || file.GetId() < counter {
			qt.Check(t, qt.IsTrue(proto.Equal(file, original[i])))
			continue
		}
		seen++
		qt.Check(t, qt.IsTrue(proto.Equal(file, &fdinfo.FileEntry{
			Type: fdinfo.FdTypes_REG.Enum(), Id: original[i].Id, Reg: &regfile.RegFileEntry{
				Id: original[i].Id, Flags: new(flags[key]), Pos: proto.Uint64(0), Name: new("/" + key),
				Fown: &fown.FownEntry{
					Uid: proto.Uint32(7), Euid: proto.Uint32(8), Signum: proto.Uint32(0), PidType: proto.Uint32(0), Pid: new(pids[key]),
				},
			},
		})), qt.Commentf("%v", file))
	}
	qt.Assert(t, qt.Equals(seen, 4))
	_, types := fdTypes(t, v.Dir())
	qt.Check(t, qt.Equals(types[counter], fdinfo.FdTypes_REG))
	qt.Check(t, qt.Equals(types[notifier], fdinfo.FdTypes_REG))
	qt.Check(t, qt.DeepEquals(imagetest.Digests(t, images), before))
	qt.Check(t, qt.ContentEquals(imagetest.Edited(t, v.Dir(), v.Images()), []string{"fdinfo-2.img", "files.img"}))
}

// A held file is replaced though CRIU has saved it by its path.
func TestReplaceSavedFile(t *testing.T) {
	images := objectDump(t)
	v, err := image.NewView(t.Context(), images, filepath.Join(t.TempDir(), "view"))
	qt.Assert(t, qt.IsNil(err))
	got, err := Replace(t.Context(), v, map[image.DescriptorRef]string{{PID: owner(t, images), FD: savedFile}: "a"})
	qt.Assert(t, qt.IsNil(err))
	for _, file := range imagetest.Load[fdinfo.FileEntry](t, v.Dir(), "files.img") {
		if file.GetId() == got["a"].File {
			qt.Assert(t, qt.Equals(file.GetReg().GetName(), "/a"))
			qt.Assert(t, qt.IsNil(file.GetReg().Size))
			return
		}
	}
	t.Fatal("it is not in files.img")
}

func TestReplaceFilesErrors(t *testing.T) {
	images := objectDump(t)
	pid := owner(t, images)
	at := func(fd int) image.DescriptorRef { return image.DescriptorRef{PID: pid, FD: fd} }
	tests := map[string]struct {
		keys map[image.DescriptorRef]string
		err  error
	}{
		"socket":           {map[image.DescriptorRef]string{at(socketFD(t, images)): "a"}, wire.ErrMalformed},
		"no key":           {map[image.DescriptorRef]string{at(counter): ""}, ErrKey},
		"key used twice":   {map[image.DescriptorRef]string{at(counter): "a", at(notifier): "a"}, ErrKey},
		"name of a file":   {map[image.DescriptorRef]string{at(counter): "etc/passwd"}, ErrKey},
		"nothing":          {nil, nil},
		"nothing that is":  {map[image.DescriptorRef]string{{PID: pid, FD: 99999}: "a"}, nil},
		"absolute as key":  {map[image.DescriptorRef]string{at(counter): "/a"}, ErrKey},
		"two, none exists": {map[image.DescriptorRef]string{{PID: pid, FD: 99999}: "a", {PID: pid, FD: 99998}: "b"}, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			v, err := image.NewView(t.Context(), images, filepath.Join(t.TempDir(), "view"))
			qt.Assert(t, qt.IsNil(err))
			got, err := Replace(t.Context(), v, tt.keys)
			qt.Assert(t, qt.HasLen(got, 0))
			qt.Assert(t, qt.HasLen(imagetest.Edited(t, v.Dir(), v.Images()), 0))
			if tt.err == nil {
				qt.Assert(t, qt.IsNil(err))
				return
			}
			qt.Assert(t, qt.ErrorIs(err, tt.err))
		})
	}
}

// socketFD is a descriptor of a socket.
func socketFD(t *testing.T, images string) int {
	t.Helper()
	for _, fd := range imagetest.Load[fdinfo.FdinfoEntry](t, images, "fdinfo-2.img") {
		if fd.GetType() == fdinfo.FdTypes_INETSK || fd.GetType() == fdinfo.FdTypes_UNIXSK {
			return int(fd.GetFd())
		}
	}
	t.Fatal("no socket")
	return 0
}

func TestReadEventfd(t *testing.T) {
	images := objectDump(t)
	pid := owner(t, images)
	got, err := ReadEventfd(images, image.DescriptorRef{PID: pid, FD: counter})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(got.Count, 1<<40))
	qt.Assert(t, qt.Equals(got.Flags, 0o4002))
	for name, at := range map[string]image.DescriptorRef{
		"inotify": {PID: pid, FD: notifier}, "no descriptor": {PID: pid, FD: 99999}, "no process": {PID: 12345},
	} {
		_, err := ReadEventfd(images, at)
		qt.Check(t, qt.ErrorIs(err, wire.ErrMalformed), qt.Commentf("%s", name))
	}
}

// FuzzReplaceFiles edits one bad image: it is refused, or only what was asked for
// changes.
func FuzzReplaceFiles(f *testing.F) {
	imagetest.EachImage(f, func(name string, data []byte) {
		if filepath.Base(name) == "files.img" || strings.HasPrefix(filepath.Base(name), "fdinfo-") {
			f.Add(uint32(1), data)
		}
	})
	f.Fuzz(func(t *testing.T, id uint32, data []byte) {
		img, err := image.Decode(data)
		if err != nil || img.Type != image.TypeFiles && img.Type != image.TypeFdinfo {
			return
		}
		edit := fileEdit{keys: make(map[uint32]string), taken: make(map[string]bool)}
		qt.Assert(t, qt.IsNil(edit.add(id, "key")))
		if img.Type == image.TypeFdinfo {
			edit.done = map[uint32]*Replaced{id: {File: id}}
		}
		edited, err := edit.image(img.Type, img.Records)
		if err != nil {
			qt.Assert(t, qt.IsTrue(errors.Is(err, wire.ErrMalformed) || errors.Is(err, ErrKey)), qt.Commentf("%v", err))
			return
		}
		if edited == nil {
			return
		}
		qt.Assert(t, qt.HasLen(edited, len(img.Records)))
		for i, rec := range edited {
			var got uint32
			if img.Type == image.TypeFiles {
				file, err := image.ParseOpenFile(rec.Message)
				qt.Assert(t, qt.IsNil(err))
				got = file.ID
			} else if got, _, err = image.ParseFdinfo(rec.Message); err != nil {
				t.Fatal(err)
			}
			if got != id {
				qt.Assert(t, qt.IsTrue(bytes.Equal(rec.Message, img.Records[i].Message)))
			}
		}
	})
}
