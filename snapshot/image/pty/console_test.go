package pty

import (
	"testing"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fown"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/tty"
	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/proto"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// Of an app whose standard streams are somebody else's terminal, /dev/tty becomes a file of
// that, which itself is left as it is.
func TestPlaceConsole(t *testing.T) {
	const console, control = 2024, 2026
	encode := func(typ image.Type, messages ...proto.Message) *image.Image {
		img := &image.Image{Type: typ}
		for _, m := range messages {
			b, err := proto.Marshal(m)
			qt.Assert(t, qt.IsNil(err))
			img.Records = append(img.Records, image.Record{Message: b})
		}
		return img
	}
	info := func(id, rdev uint32) *tty.TtyInfoEntry {
		return &tty.TtyInfoEntry{
			Id: new(id), Type: tty.TtyType_EXT_TTY.Enum(), Locked: new(false), Exclusive: new(false), PacketMode: new(false),
			Sid: new(uint32(1)), Pgrp: new(uint32(1)), Rdev: new(rdev), Dev: new(uint32(5)),
		}
	}
	file := func(id, of uint32) *fdinfo.FileEntry {
		owner := &fown.FownEntry{Uid: new(uint32), Euid: new(uint32), Signum: new(uint32), PidType: new(uint32), Pid: new(uint32)}
		return &fdinfo.FileEntry{Type: fdinfo.FdTypes_TTY.Enum(), Id: new(id), Tty: &tty.TtyFileEntry{Id: new(id), TtyInfoId: new(of), Flags: new(uint32), Fown: owner}}
	}
	infos := encode(image.TypeTTYInfo, info(console, 136<<8|7), info(control, controlDevice))
	files := encode(image.TypeFiles, file(1, console), file(2, control))
	e := terminalEdit{numbers: map[uint32]int{2: Console}}
	qt.Assert(t, qt.IsNil(e.run(infos, files)))

	leads := make(map[uint32]uint32)
	for _, rec := range files.Records {
		f := &fdinfo.FileEntry{}
		qt.Assert(t, qt.IsNil(proto.Unmarshal(rec.Message, f)))
		leads[f.GetId()] = f.GetTty().GetTtyInfoId()
	}
	qt.Check(t, qt.DeepEquals(leads, map[uint32]uint32{1: console, 2: console}))
	qt.Assert(t, qt.HasLen(infos.Records, 1))
	left := &tty.TtyInfoEntry{}
	qt.Assert(t, qt.IsNil(proto.Unmarshal(infos.Records[0].Message, left)))
	qt.Check(t, qt.Equals(left.GetId(), console))

	lost := terminalEdit{numbers: map[uint32]int{2: Console}}
	err := lost.run(encode(image.TypeTTYInfo, info(control, controlDevice)), encode(image.TypeFiles, file(2, control)))
	qt.Check(t, qt.ErrorIs(err, wire.ErrMalformed))
}
