package pty

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fown"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/mnt"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/pstree"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/regfile"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/tty"
	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// ttyDump is a dump of a terminal emulator (10), the shell that leads the session of its
// terminal (11), two children of that (13 and 12, of which CRIU makes 12 first) and one that
// has a session of its own (14). The shell has /dev/tty open, and 12 one of a terminal that
// is gone.
func ttyDump(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	put := func(name string, typ image.Type, messages ...proto.Message) {
		img := image.Image{Type: typ}
		for _, m := range messages {
			b, err := proto.Marshal(m)
			qt.Assert(tb, qt.IsNil(err))
			img.Records = append(img.Records, image.Record{Message: b})
		}
		qt.Assert(tb, qt.IsNil(os.WriteFile(filepath.Join(dir, name), img.Encode(), 0o600)))
	}
	info := func(id uint32, kind tty.TtyType, rdev, sid uint32) *tty.TtyInfoEntry {
		modes := &tty.TermiosEntry{
			CIflag: new(uint32), COflag: new(uint32), CCflag: new(uint32), CLflag: new(uint32), CLine: new(uint32), CIspeed: new(uint32), COspeed: new(uint32),
			CCc: make([]uint32, 19),
		}
		e := &tty.TtyInfoEntry{
			Id: new(id), Type: kind.Enum(), Locked: new(false), Exclusive: new(false), PacketMode: new(id == 1), Sid: new(sid), Pgrp: new(sid), Rdev: new(rdev),
			Termios: modes, TermiosLocked: modes,
			Winsize: &tty.WinsizeEntry{WsRow: new(uint32(30)), WsCol: new(uint32(100)), WsXpixel: new(uint32), WsYpixel: new(uint32)},
			Dev:     new(uint32(5)), Uid: new(uint32(7)), Gid: new(uint32(5)),
		}
		if kind == tty.TtyType_PTY {
			e.Pty = &tty.TtyPtyEntry{Index: new(id >> 1)}
		}
		return e
	}
	none := &fown.FownEntry{Uid: new(uint32), Euid: new(uint32), Signum: new(uint32), PidType: new(uint32), Pid: new(uint32)}
	reg := func(id uint32, name string, mount int32) *fdinfo.FileEntry {
		return &fdinfo.FileEntry{Type: fdinfo.FdTypes_REG.Enum(), Id: new(id), Reg: &regfile.RegFileEntry{
			Id: new(id), Flags: new(uint32), Pos: new(uint64), Fown: none, Name: new(name), MntId: new(mount), Size: new(uint64), Mode: new(uint32(0o20620)),
		}}
	}
	terminal := func(id, of, name uint32) *fdinfo.FileEntry {
		e := &tty.TtyFileEntry{Id: new(id), TtyInfoId: new(of), Flags: new(uint32(unix.O_RDWR | unix.O_NONBLOCK)), Fown: none}
		if name != 0 {
			e.RegfId = new(name)
		}
		return &fdinfo.FileEntry{Type: fdinfo.FdTypes_TTY.Enum(), Id: new(id), Tty: e}
	}
	put("tty-info.img", image.TypeTTYInfo, info(1, tty.TtyType_PTY, 0x502, 11), info(0, tty.TtyType_PTY, 136<<8, 11), info(2024, tty.TtyType_EXT_TTY, 0x500, 11))
	put("files.img", image.TypeFiles,
		reg(1, "/dev/pts/ptmx", 9), reg(2, "/dev/pts/0", 9), reg(3, "/dev/tty", 8),
		terminal(4, 1, 1), terminal(5, 0, 2), terminal(6, 2024, 3), terminal(7, 2024, 3))
	fds := func(files ...uint32) []proto.Message {
		list := make([]proto.Message, len(files))
		for i, id := range files {
			list[i] = &fdinfo.FdinfoEntry{Id: new(id), Flags: new(uint32), Type: fdinfo.FdTypes_TTY.Enum(), Fd: new(uint32(i))}
		}
		return list
	}
	put("fdinfo-10.img", image.TypeFdinfo, fds(4)...)
	put("fdinfo-11.img", image.TypeFdinfo, fds(5, 6)...)
	put("fdinfo-12.img", image.TypeFdinfo, fds(5, 7)...)
	var tree []proto.Message
	for _, p := range [][3]uint32{{1, 0, 1}, {10, 1, 10}, {11, 10, 11}, {13, 11, 11}, {12, 11, 11}, {14, 11, 14}} {
		tree = append(tree, &pstree.PstreeEntry{Pid: new(p[0]), Ppid: new(p[1]), Pgid: new(p[0]), Sid: new(p[2]), Threads: []uint32{p[0]}})
		ids := image.Image{Type: image.TypeIDs, Records: []image.Record{{Message: wire.AppendVarint(nil, protowire.Number(2), uint64(p[0]))}}}
		qt.Assert(tb, qt.IsNil(os.WriteFile(filepath.Join(dir, "ids-"+image.CoreName(p[0])[5:]), ids.Encode(), 0o600)))
	}
	put("pstree.img", image.TypePstree, tree...)
	put("core-12.img", image.TypeCore, &tty.TtyPtyEntry{Index: new(uint32(12))}) // whatever
	put("mountpoints-12.img", image.TypeMounts, &mnt.MntEntry{
		Fstype: new(uint32(mnt.Fstype_DEVPTS)), MntId: new(uint32(9)), RootDev: new(uint32(5)), ParentMntId: new(uint32(8)), Flags: new(uint32(unix.MS_NOSUID | unix.MS_NOEXEC)),
		Root: new("/"), Mountpoint: new("./dev/pts"), Source: new("devpts"), Options: new("gid=5,mode=620,ptmxmode=666"),
	})
	return dir
}

// atTTY is where /dev/tty is open in ttyDump.
var atTTY = map[image.DescriptorRef]int{{PID: 11, FD: 1}: 0}

func TestPlaceAndInheritTerminals(t *testing.T) {
	dump := ttyDump(t)
	some, err := HasControl(dump)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsTrue(some))
	v, err := image.NewView(t.Context(), dump, t.TempDir())
	qt.Assert(t, qt.IsNil(err))

	// What /dev/tty led to is open in its place; a terminal that is gone is one without
	// settings, of a number that no other has.
	qt.Assert(t, qt.IsNil(Place(t.Context(), v, atTTY)))
	files, err := image.ReadMessages[fdinfo.FileEntry](v.Dir(), image.FilesImage, image.TypeFiles)
	qt.Assert(t, qt.IsNil(err))
	leads := make(map[uint32]uint32)
	for _, f := range files {
		if f.GetType() == fdinfo.FdTypes_TTY {
			leads[f.GetId()] = f.GetTty().GetTtyInfoId()
		}
	}
	qt.Check(t, qt.DeepEquals(leads, map[uint32]uint32{4: 1, 5: 0, 6: 0, 7: slaveInfo(1)}))
	infos, err := ttyInfos(v.Dir())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(infos, 3))
	qt.Check(t, qt.IsNil(infos[slaveInfo(1)].Termios))
	some, err = HasControl(v.Dir())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsFalse(some))

	terminals, err := Read(dump)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(terminals, &Terminals{
		Dir: "/dev/pts", Options: map[string]string{"gid": "5", "mode": "620", "ptmxmode": "666"}, Flags: unix.MS_NOSUID | unix.MS_NOEXEC,
		Pairs: []Pair{{
			Number: 0, Key: "tty[502:7fffffff]", Flags: unix.O_RDWR | unix.O_NONBLOCK, Packet: true, UID: 7, GID: 5,
			Size: unix.Winsize{Row: 30, Col: 100}, Child: "core-12.img",
		}},
		Leaders: []string{"core-11.img"},
	}))
	qt.Assert(t, qt.IsNil(Inherit(t.Context(), v, terminals)))
	infos, err = ttyInfos(v.Dir())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(infos, 2)) // the slave's is gone
	master := infos[1]
	qt.Check(t, qt.Equals(master.GetType(), tty.TtyType_EXT_TTY))
	qt.Check(t, qt.DeepEquals([]uint32{master.GetRdev(), master.GetDev(), master.GetSid(), master.GetPgrp()}, []uint32{0x502, 0x7fffffff, 11, 11}))
	files, err = image.ReadMessages[fdinfo.FileEntry](v.Dir(), image.FilesImage, image.TypeFiles)
	qt.Assert(t, qt.IsNil(err))
	for _, f := range files {
		if id := f.GetId(); id == 5 || id == 6 {
			r := f.GetReg()
			qt.Check(t, qt.Equals(f.GetType(), fdinfo.FdTypes_REG))
			qt.Check(t, qt.Equals(r.GetName(), "/dev/pts/0"))
			qt.Check(t, qt.Equals(r.GetFlags(), unix.O_RDWR|unix.O_NONBLOCK|unix.O_NOCTTY))
			qt.Check(t, qt.Equals(r.GetPos(), math.MaxUint64))
			qt.Check(t, qt.Equals(r.GetMntId(), 9))
			qt.Check(t, qt.IsTrue(r.Size == nil && r.Mode == nil))
		} else if id == 4 || id == 7 {
			qt.Check(t, qt.Equals(f.GetType(), fdinfo.FdTypes_TTY))
		}
	}
	for at, want := range map[image.DescriptorRef]uint64{{PID: 10, FD: 0}: 11, {PID: 11, FD: 0}: image.FileReg, {PID: 11, FD: 1}: image.FileReg, {PID: 12, FD: 0}: image.FileReg, {PID: 12, FD: 1}: 11} {
		_, kind, err := image.FindDescriptor(v.Dir(), at)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(kind, want), qt.Commentf("%v", at))
	}

	saved, err := v.Take("core-12.img", "/dev/pts/0")
	qt.Assert(t, qt.IsNil(err))
	target, err := os.Readlink(filepath.Join(v.Dir(), "core-12.img"))
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(target, "/dev/pts/0"))
	original, err := os.ReadFile(filepath.Join(dump, "core-12.img"))
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(saved, original))
}

// A pipe is served when somebody reads it, once what has to be done before is done; or
// never, and then Stop ends it.
func TestPipe(t *testing.T) {
	v, err := image.NewView(t.Context(), ttyDump(t), t.TempDir())
	qt.Assert(t, qt.IsNil(err))
	want, err := v.Read("core-12.img")
	qt.Assert(t, qt.IsNil(err))
	serve := func(p *image.Pipe, before func() error) chan error {
		done := make(chan error, 1)
		go func() { done <- p.Serve(before) }()
		return done
	}
	p, err := v.Pipe("core-12.img")
	qt.Assert(t, qt.IsNil(err))
	called := false
	done := serve(p, func() error { called = true; return nil })
	got, err := v.Read("core-12.img")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(got, want))
	qt.Check(t, qt.IsNil(<-done))
	qt.Check(t, qt.IsTrue(called))

	failed := errors.New("failed")
	done = serve(p, func() error { return failed })
	got, err = v.Read("core-12.img")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(got, 0))
	qt.Check(t, qt.ErrorIs(<-done, failed))

	done = serve(p, func() error { return failed })
	qt.Check(t, qt.IsNil(p.Stop()))
	qt.Check(t, qt.IsNil(<-done))
	qt.Check(t, qt.IsNil(p.Close()))
}

func FuzzTerminals(f *testing.F) {
	dump := ttyDump(f)
	names := []string{ttyInfoImage, image.FilesImage, "pstree.img", "mountpoints-12.img", "fdinfo-11.img"}
	for i, name := range names {
		data, err := os.ReadFile(filepath.Join(dump, name))
		qt.Assert(f, qt.IsNil(err))
		f.Add(i, data)
	}
	f.Fuzz(func(t *testing.T, which int, data []byte) {
		v, err := image.NewView(t.Context(), dump, t.TempDir())
		qt.Assert(t, qt.IsNil(err))
		if which < 0 || which >= len(names) {
			t.Skip("no such image")
		}
		qt.Assert(t, qt.IsNil(v.Replace(names[which], data)))
		terminals, err := Read(v.Dir())
		if err := Place(t.Context(), v, atTTY); err != nil {
			return
		}
		if some, err := HasControl(v.Dir()); err != nil || some {
			t.Errorf("after Place: %v %v", some, err)
		}
		if err != nil || terminals == nil {
			return
		}
		if err := Inherit(t.Context(), v, terminals); err != nil && !errors.Is(err, wire.ErrMalformed) {
			t.Error(err)
		}
	})
}
