package pty

import (
	"context"
	"fmt"
	"path"
	"path/filepath"
	"strconv"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/tty"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// ttyInfoImage is the image of all terminals.
const ttyInfoImage = "tty-info.img"

// slaveMajor is the major number of the first 256 pseudo-terminals' slaves
// (UNIX98_PTY_SLAVE_MAJOR of linux/major.h).
const slaveMajor = 136

// controlDevice is the device number of /dev/tty (Documentation/admin-guide/devices.txt).
const controlDevice = 5 << 8

// Console stands for the number of the terminal that is the app's standard streams, and
// whose master is somebody else's. It is external to CRIU, as /dev/tty is.
const Console = -1

// isControl tells whether an entry is of /dev/tty, isConsole whether it is of the console.
func isControl(info *tty.TtyInfoEntry) bool {
	return info.GetType() == tty.TtyType_EXT_TTY && info.GetRdev() == controlDevice
}

func isConsole(info *tty.TtyInfoEntry) bool {
	return info.GetType() == tty.TtyType_EXT_TTY && info.GetRdev() != controlDevice
}

// HasControl tells whether a dump has open files of /dev/tty, which
// [Place] has to edit.
func HasControl(images string) (bool, error) {
	records, err := image.ReadRecords(filepath.Join(images, ttyInfoImage), image.TypeTTYInfo)
	if err != nil {
		return false, fmt.Errorf("look for terminals: %w", err)
	}
	for i, rec := range records {
		var info tty.TtyInfoEntry
		if err := proto.Unmarshal(rec.Message, &info); err != nil {
			return false, fmt.Errorf("read terminal %d: %w: %w", i, wire.ErrMalformed, err)
		}
		if isControl(&info) {
			return true, nil
		}
	}
	return false, nil
}

// Place turns each open file of /dev/tty into one of the terminal that it
// leads to. The dump was told that /dev/tty is external, since CRIU saves it only if
// the same process has the terminal's master open (criu/tty.c, tty_verify_ctty), and
// restores one set of settings to all of them. numbers has, by a place where it is
// open, the number of the pseudo-terminal, or [Console]; a file without one belongs to a
// terminal that is gone, and becomes one of a terminal that is gone.
//
// What differs is the name: /proc/PID/fd/N shows /dev/pts/3, and fstat(2) its device
// number. The file's kernel object, a terminal, is the same either way (the kernel's
// drivers/tty/tty_io.c, tty_open_current_tty).
func Place(ctx context.Context, v *image.View, numbers map[image.DescriptorRef]int) error {
	e := terminalEdit{numbers: make(map[uint32]int, len(numbers))}
	for at, n := range numbers {
		id, _, err := image.FindDescriptor(v.Dir(), at)
		if err != nil {
			return fmt.Errorf("place terminals: %w", err)
		}
		if id != 0 { // else it was closed before the dump, or is only in flight
			e.numbers[id] = n
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("place terminals: %w", err)
	}
	infos, err := v.Decode(ttyInfoImage, image.TypeTTYInfo)
	if err != nil {
		return fmt.Errorf("place terminals: %w", err)
	}
	files, err := v.Decode(image.FilesImage, image.TypeFiles)
	if err != nil {
		return fmt.Errorf("place terminals: %w", err)
	}
	if err := e.run(infos, files); err != nil {
		return fmt.Errorf("place terminals: %w", err)
	}
	for name, img := range map[string]*image.Image{ttyInfoImage: infos, image.FilesImage: files} {
		if err := v.Replace(name, img.Encode()); err != nil {
			return fmt.Errorf("place terminals: %w", err)
		}
	}
	return nil
}

// terminalEdit is one run over the images.
type terminalEdit struct {
	numbers map[uint32]int // of the terminal, by file id

	infos  map[uint32]*tty.TtyInfoEntry // by id
	names  map[uint32]uint32            // the file that names a terminal, by id of the info
	regs   map[uint32]*fdinfo.FileEntry // regular files, by id
	pts    string                       // where the pseudo-terminals are
	lastID uint32                       // of a file
	fresh  []*fdinfo.FileEntry
}

func (e *terminalEdit) run(infos, files *image.Image) error {
	if err := e.readInfos(infos.Records); err != nil {
		return err
	}
	entries, err := e.readFiles(files.Records)
	if err != nil {
		return err
	}
	for i, f := range entries {
		if f == nil || !isControl(e.infos[f.GetTty().GetTtyInfoId()]) {
			continue
		}
		if err := e.place(f.GetTty()); err != nil {
			return fmt.Errorf("file %#x: %w", f.GetId(), err)
		}
		if files.Records[i].Message, err = proto.Marshal(f); err != nil {
			return fmt.Errorf("encode file %#x: %w", f.GetId(), err)
		}
	}
	for _, f := range e.fresh {
		b, err := proto.Marshal(f)
		if err != nil {
			return fmt.Errorf("encode file %#x: %w", f.GetId(), err)
		}
		files.Records = append(files.Records, image.Record{Message: b})
	}
	return e.writeInfos(infos)
}

func (e *terminalEdit) readInfos(records []image.Record) error {
	e.infos = make(map[uint32]*tty.TtyInfoEntry, len(records))
	for i, rec := range records {
		info := &tty.TtyInfoEntry{}
		if err := proto.Unmarshal(rec.Message, info); err != nil {
			return fmt.Errorf("read terminal %d: %w: %w", i, wire.ErrMalformed, err)
		}
		e.infos[info.GetId()] = info
	}
	return nil
}

// readFiles returns the terminals among the files, at their places.
func (e *terminalEdit) readFiles(records []image.Record) ([]*fdinfo.FileEntry, error) {
	entries := make([]*fdinfo.FileEntry, len(records))
	e.names, e.regs, e.pts = make(map[uint32]uint32), make(map[uint32]*fdinfo.FileEntry), "/dev/pts"
	for i, rec := range records {
		f := &fdinfo.FileEntry{}
		if err := proto.Unmarshal(rec.Message, f); err != nil {
			return nil, fmt.Errorf("read file %d: %w: %w", i, wire.ErrMalformed, err)
		}
		e.lastID = max(e.lastID, f.GetId())
		if f.GetType() == fdinfo.FdTypes_REG && f.Reg == nil || f.GetType() == fdinfo.FdTypes_TTY && f.Tty == nil {
			return nil, fmt.Errorf("read file %#x: %w: it lacks what it is", f.GetId(), wire.ErrMalformed)
		}
		switch f.GetType() { //nolint:exhaustive // the others are no terminals
		case fdinfo.FdTypes_REG:
			e.regs[f.GetId()] = f
		case fdinfo.FdTypes_TTY:
			entries[i] = f
			if f.GetTty().RegfId != nil {
				e.names[f.GetTty().GetTtyInfoId()] = f.GetTty().GetRegfId()
			}
		}
	}
	return entries, nil
}

// place makes a file of /dev/tty one of its terminal's slave.
func (e *terminalEdit) place(f *tty.TtyFileEntry) error {
	own := e.infos[f.GetTtyInfoId()]
	number, known := e.numbers[f.GetId()]
	if known && number == Console {
		return e.placeConsole(f)
	}
	if !known {
		number = e.unused()
	}
	id := slaveInfo(number)
	if e.infos[id] == nil {
		// Nobody has the terminal's slave itself open. The terminal answered for
		// /dev/tty as it would have for that.
		info := proto.CloneOf(own)
		info.Id, info.Type = new(id), tty.TtyType_PTY.Enum()
		info.Rdev = new(uint32(unix.Mkdev(slaveMajor, uint32(number))))
		info.Pty = &tty.TtyPtyEntry{Index: new(uint32(number))}
		info.Uid, info.Gid = nil, nil // those are of /dev/tty
		if !known {
			// A terminal without settings is hung up to CRIU (tty_is_hung).
			info.Sid, info.Pgrp, info.Termios, info.TermiosLocked, info.Winsize = new(uint32(0)), new(uint32(0)), nil, nil, nil
		}
		e.infos[id] = info
	}
	if _, ok := e.names[id]; !ok {
		if err := e.name(id, number); err != nil {
			return err
		}
	}
	f.TtyInfoId, f.RegfId = new(id), new(e.names[id])
	return nil
}

// placeConsole makes a file of /dev/tty one of the console. All entries of that are of the
// same terminal.
func (e *terminalEdit) placeConsole(f *tty.TtyFileEntry) error {
	for id, info := range e.infos {
		if isConsole(info) {
			f.TtyInfoId = new(id)
			return nil
		}
	}
	return fmt.Errorf("%w: the console is not in it", wire.ErrMalformed)
}

// name adds the file by which CRIU opens a slave; it has one of each terminal that
// was open.
func (e *terminalEdit) name(id uint32, number int) error {
	master := e.regs[e.names[id+1]]
	pts := e.pts
	reg := &fdinfo.FileEntry{Type: fdinfo.FdTypes_REG.Enum()}
	switch {
	case master != nil:
		proto.Merge(reg, master)
		pts = path.Dir(master.GetReg().GetName())
	default: // of a terminal that is gone
		for _, some := range e.names {
			if r := e.regs[some]; r != nil && path.Base(path.Dir(r.GetReg().GetName())) == "pts" {
				proto.Merge(reg, r)
				pts = path.Dir(r.GetReg().GetName())
				break
			}
		}
		if reg.GetReg() == nil {
			return fmt.Errorf("%w: no file of a pseudo-terminal", wire.ErrMalformed)
		}
	}
	e.lastID++
	reg.Id, reg.Reg.Id = new(e.lastID), new(e.lastID)
	reg.Reg.Name = new(path.Join(pts, strconv.Itoa(number)))
	reg.Reg.Mode, reg.Reg.Size = nil, nil // CRIU would compare them
	e.fresh = append(e.fresh, reg)
	e.names[id] = e.lastID
	return nil
}

// unused is a number that no terminal has.
func (e *terminalEdit) unused() int {
	for n := 0; ; n++ {
		if e.infos[slaveInfo(n)] == nil && e.infos[slaveInfo(n)+1] == nil {
			return n
		}
	}
}

// slaveInfo is CRIU's id for the slave of a pseudo-terminal; the master's is the next
// one (criu/tty.c, tty_gen_id).
func slaveInfo(number int) uint32 { return uint32(number) << 1 }

// writeInfos leaves out those of /dev/tty, to which no file refers any more.
func (e *terminalEdit) writeInfos(img *image.Image) error {
	var records []image.Record
	for _, rec := range img.Records {
		var info tty.TtyInfoEntry
		if err := proto.Unmarshal(rec.Message, &info); err != nil {
			return fmt.Errorf("read terminal: %w: %w", wire.ErrMalformed, err)
		}
		if isControl(&info) {
			continue
		}
		records = append(records, rec)
		delete(e.infos, info.GetId())
	}
	for _, info := range e.infos {
		if isControl(info) {
			continue
		}
		b, err := proto.Marshal(info)
		if err != nil {
			return fmt.Errorf("encode terminal %#x: %w", info.GetId(), err)
		}
		records = append(records, image.Record{Message: b})
	}
	img.Records = records
	return nil
}
