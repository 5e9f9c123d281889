package pty

import (
	"context"
	"fmt"
	"math"
	"path"
	"strconv"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/tty"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// Inherit has CRIU take the terminals' masters from its caller, by their keys, and
// open their slaves as it opens any file. The leader of a terminal's session then reads
// the image p.Child, which [image.View.Take] has taken out of the view, from the terminal itself,
// and so gets its controlling terminal before it makes the first child: opening a terminal
// gives it to a leader that has none (drivers/tty/tty_io.c, tty_open), children inherit it
// (kernel/fork.c, copy_process), and no system call gives it to another process later.
// CRIU 4.2 opens that image after setsid and before the child is made (criu/cr-restore.c,
// create_children_and_session and fork_with_pid). What CRIU does later, that it gives the
// leader the terminal and sets the foreground group, still works: the leader has it.
//
// It is called after [Place].
func Inherit(ctx context.Context, v *image.View, t *Terminals) error {
	e := inheritEdit{dir: t.Dir, numbers: make(map[int]bool, len(t.Pairs)), slaves: make(map[uint32]bool)}
	for _, p := range t.Pairs {
		e.numbers[p.Number] = true
	}
	infos, err := v.Decode(ttyInfoImage, image.TypeTTYInfo)
	if err != nil {
		return fmt.Errorf("inherit terminals: %w", err)
	}
	targets, err := v.FileImages()
	if err != nil {
		return fmt.Errorf("inherit terminals: %w", err)
	}
	if infos.Records, err = e.infos(infos.Records); err != nil {
		return fmt.Errorf("inherit terminals: %w", err)
	}
	changed := map[string]*image.Image{ttyInfoImage: infos}
	for _, target := range targets {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("inherit terminals: %w", err)
		}
		if target.Type == image.TypeSkQueues {
			continue
		}
		img, err := v.Decode(target.Name, target.Type)
		if err != nil {
			return fmt.Errorf("inherit terminals: read %s: %w", target.Name, err)
		}
		edit := e.descriptors
		if target.Type == image.TypeFiles {
			edit = e.files
		}
		if err := edit(img.Records); err != nil {
			return fmt.Errorf("inherit terminals: edit %s: %w", target.Name, err)
		}
		changed[target.Name] = img
	}
	for name, img := range changed {
		if err := v.Replace(name, img.Encode()); err != nil {
			return fmt.Errorf("inherit terminals: %w", err)
		}
	}
	return nil
}

// inheritEdit is one run over the images.
type inheritEdit struct {
	dir     string
	numbers map[int]bool    // of the terminals that are inherited
	slaves  map[uint32]bool // files of theirs
}

// infos makes masters external terminals, and leaves out slaves.
func (e *inheritEdit) infos(records []image.Record) ([]image.Record, error) {
	var kept []image.Record
	sessions := make(map[uint32]*tty.TtyInfoEntry) // slaves
	for i, rec := range records {
		info := &tty.TtyInfoEntry{}
		if err := proto.Unmarshal(rec.Message, info); err != nil {
			return nil, fmt.Errorf("read terminal %d: %w: %w", i, wire.ErrMalformed, err)
		}
		if info.GetType() == tty.TtyType_PTY && e.numbers[int(info.GetId()>>1)] && info.GetId()&1 == 0 {
			sessions[info.GetId()] = info
			continue
		}
		kept = append(kept, rec)
	}
	for i, rec := range kept {
		info := &tty.TtyInfoEntry{}
		if err := proto.Unmarshal(rec.Message, info); err != nil {
			return nil, fmt.Errorf("read terminal: %w: %w", wire.ErrMalformed, err)
		}
		number := int(info.GetId() >> 1)
		if info.GetType() != tty.TtyType_PTY || !e.numbers[number] {
			continue
		}
		info.Type, info.Pty = tty.TtyType_EXT_TTY.Enum(), nil
		info.Rdev, info.Dev = new(uint32(masterDevice)), new(pairDevice(number))
		if slave := sessions[slaveInfo(number)]; info.GetSid() == 0 && slave != nil {
			info.Sid, info.Pgrp = new(slave.GetSid()), new(slave.GetPgrp())
		}
		b, err := proto.Marshal(info)
		if err != nil {
			return nil, fmt.Errorf("encode terminal %#x: %w", info.GetId(), err)
		}
		kept[i].Message = b
	}
	return kept, nil
}

// files makes slaves ordinary files.
func (e *inheritEdit) files(records []image.Record) error {
	regs := make(map[uint32]*fdinfo.FileEntry)
	all := make([]*fdinfo.FileEntry, len(records))
	for i, rec := range records {
		f := &fdinfo.FileEntry{}
		if err := proto.Unmarshal(rec.Message, f); err != nil {
			return fmt.Errorf("read file %d: %w: %w", i, wire.ErrMalformed, err)
		}
		all[i] = f
		if f.GetType() == fdinfo.FdTypes_REG {
			regs[f.GetId()] = f
		}
	}
	for i, f := range all {
		info := f.GetTty().GetTtyInfoId()
		if f.GetType() != fdinfo.FdTypes_TTY || info&1 == 1 || !e.numbers[int(info>>1)] {
			continue
		}
		named := regs[f.GetTty().GetRegfId()].GetReg()
		if named == nil {
			return fmt.Errorf("%w: terminal %#x has no file", wire.ErrMalformed, f.GetId())
		}
		reg := proto.CloneOf(named)
		reg.Id, reg.Name = f.Id, new(path.Join(e.dir, strconv.Itoa(int(info>>1))))
		// A process that opens a terminal is not to get it as its controlling one.
		reg.Flags, reg.Fown = new(f.GetTty().GetFlags()|unix.O_NOCTTY), f.GetTty().GetFown()
		reg.Pos = new(uint64(math.MaxUint64)) // there is none (criu/files-reg.c, do_open_reg)
		reg.Size, reg.Mode = nil, nil         // CRIU would compare them
		b, err := proto.Marshal(&fdinfo.FileEntry{Type: fdinfo.FdTypes_REG.Enum(), Id: f.Id, Reg: reg})
		if err != nil {
			return fmt.Errorf("encode file %#x: %w", f.GetId(), err)
		}
		records[i].Message = b
		e.slaves[f.GetId()] = true
	}
	return nil
}

// descriptors tells what the descriptors of slaves are now.
func (e *inheritEdit) descriptors(records []image.Record) error {
	for i, rec := range records {
		id, _, err := image.ParseFdinfo(rec.Message)
		if err != nil {
			return fmt.Errorf("read descriptor %d: %w", i, err)
		}
		if !e.slaves[id] {
			continue
		}
		if records[i].Message, err = wire.SetVarint(nil, rec.Message, image.FdinfoType, image.FileReg); err != nil {
			return fmt.Errorf("edit descriptor %d: %w", i, err)
		}
	}
	return nil
}
