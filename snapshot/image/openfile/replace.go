package openfile

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// The kinds of open file, besides sockets, that can be replaced.
const (
	fileEventfd = 6
	fileInotify = 8
)

// Replace does for eventfds, inotify instances and external files what
// [ReplaceSockets] does for sockets. They have no name, or share one with
// others (an external file is named for its inode, however often it was
// opened), so that each is told by one of its descriptors, and keys maps that to
// the key.
//
// A file may be one that CRIU has saved by its path, though CRIU was told that the file is
// external. CRIU does so with a file of an overlay that is on no mount of the app: it takes
// the file for one on a mount that has such a file at that path (files.c, fixup_overlayfs).
//
// The answer is by key. A descriptor that the dump does not have is not in it.
// Errors are those of ReplaceSockets; one wrapping [wire.ErrMalformed] also says that
// a descriptor leads to a file of another kind.
func Replace(ctx context.Context, v *image.View, keys map[image.DescriptorRef]string) (map[string]Replaced, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	targets, err := v.FileImages()
	if err != nil {
		return nil, fmt.Errorf("replace files: %w", err)
	}
	edit := fileEdit{keys: make(map[uint32]string, len(keys)), taken: make(map[string]bool, len(keys))}
	for at, key := range keys {
		id, _, err := image.FindDescriptor(v.Dir(), at)
		if err != nil {
			return nil, fmt.Errorf("replace files: %w", err)
		}
		if err := edit.add(id, key); err != nil {
			return nil, fmt.Errorf("replace files: %w", err)
		}
	}
	changed := make(map[string][]byte)
	for _, target := range targets {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("replace files: %w", err)
		}
		if target.Type == image.TypeSkQueues {
			continue // what waits for a socket is none of this
		}
		img, err := v.Decode(target.Name, target.Type)
		if err != nil {
			return nil, fmt.Errorf("replace files in %s: %w", target.Name, err)
		}
		edited, err := edit.image(target.Type, img.Records)
		if err != nil {
			return nil, fmt.Errorf("replace files in %s: %w", target.Name, err)
		}
		if edited != nil {
			img.Records = edited
			changed[target.Name] = img.Encode()
		}
	}
	for name, data := range changed {
		if err := v.Replace(name, data); err != nil {
			return nil, fmt.Errorf("replace files: %w", err)
		}
	}
	done := make(map[string]Replaced, len(edit.done))
	for _, r := range edit.done {
		done[r.Key] = *r
	}
	return done, nil
}

// A fileEdit is one run over the images.
type fileEdit struct {
	keys  map[uint32]string // by file id
	taken map[string]bool
	done  map[uint32]*Replaced
}

// add plans to replace a file; 0 stands for none.
func (e *fileEdit) add(id uint32, key string) error {
	if _, err := checkKeys(map[uint64]string{uint64(id): key}); err != nil {
		return err
	}
	if e.taken[key] {
		return fmt.Errorf("%w: %q is used twice", ErrKey, key)
	}
	e.taken[key] = true
	if other, ok := e.keys[id]; ok && id != 0 {
		return fmt.Errorf("%w: both %q and %q for file %#x", ErrKey, other, key, id)
	}
	if id != 0 {
		e.keys[id] = key
	}
	return nil
}

// image returns the edited records, or nil if there is nothing to change.
func (e *fileEdit) image(typ image.Type, records []image.Record) ([]image.Record, error) {
	if typ == image.TypeFiles {
		return e.files(records)
	}
	edited := slices.Clone(records)
	some := false
	for i, rec := range records {
		id, _, err := image.ParseFdinfo(rec.Message)
		if err != nil {
			return nil, fmt.Errorf("read descriptor %d: %w", i, err)
		}
		r := e.done[id]
		if r == nil {
			continue
		}
		if edited[i].Message, err = wire.SetVarint(nil, rec.Message, image.FdinfoType, image.FileReg); err != nil {
			return nil, fmt.Errorf("edit descriptor %d: %w", i, err)
		}
		r.FDs++
		some = true
	}
	if !some {
		return nil, nil
	}
	return edited, nil
}

func (e *fileEdit) files(records []image.Record) ([]image.Record, error) {
	e.done = make(map[uint32]*Replaced, len(e.keys))
	edited := slices.Clone(records)
	names := socketEdit{taken: make(map[string]uint64, len(e.taken))}
	for key := range e.taken {
		names.taken[key] = 0
	}
	for i, rec := range records {
		file, err := image.ParseOpenFile(rec.Message)
		if err != nil {
			return nil, fmt.Errorf("read file %d: %w", i, err)
		}
		if file.Kind == image.FileReg {
			if err := names.checkName(file); err != nil {
				return nil, err
			}
		}
		key, ok := e.keys[file.ID]
		if !ok {
			continue
		}
		object, err := parseObject(rec.Message)
		if err != nil {
			return nil, fmt.Errorf("read file %#x: %w", file.ID, err)
		}
		file.Flags, file.Owner = uint64(object.Flags), object.fown
		if edited[i].Message, err = image.AppendAsReg(nil, rec.Message, image.AppendReg(nil, file, key)); err != nil {
			return nil, fmt.Errorf("edit file %#x: %w", file.ID, err)
		}
		e.done[file.ID] = &Replaced{Key: key, File: file.ID}
	}
	if len(e.done) == 0 {
		return nil, nil
	}
	return edited, nil
}

// Eventfd is an eventfd of a dump.
type Eventfd struct {
	Count uint64
	Flags int // open(2) flags; CRIU saves none of its own, such as EFD_SEMAPHORE
	fown  []byte
}

// ReadEventfd reads what a dump says of an eventfd that a process has open. It
// returns an error wrapping [wire.ErrMalformed] if there is none.
func ReadEventfd(images string, at image.DescriptorRef) (Eventfd, error) {
	id, kind, err := image.FindDescriptor(images, at)
	if err != nil {
		return Eventfd{}, fmt.Errorf("read eventfd: %w", err)
	}
	if kind != fileEventfd {
		return Eventfd{}, fmt.Errorf("read eventfd: %w: descriptor %d of process %d is of type %d", wire.ErrMalformed, at.FD, at.PID, kind)
	}
	records, err := image.ReadRecords(filepath.Join(images, "files.img"), image.TypeFiles)
	if err != nil {
		return Eventfd{}, fmt.Errorf("read eventfd: %w", err)
	}
	for _, rec := range records {
		file, err := image.ParseOpenFile(rec.Message)
		if err != nil {
			return Eventfd{}, fmt.Errorf("read eventfd: %w", err)
		}
		if file.ID == id {
			return parseObject(rec.Message)
		}
	}
	return Eventfd{}, fmt.Errorf("read eventfd: %w: no file %#x", wire.ErrMalformed, id)
}

// parseObject reads the file_entry of an eventfd, or of an inotify instance or
// a file, which have no count.
func parseObject(msg []byte) (Eventfd, error) {
	var o Eventfd
	var kind uint64
	var body []byte
	fown := 3
	s := wire.Scan(msg)
	for s.Next() {
		switch {
		case s.Is(image.FileEntryType, wire.Varint):
			kind = s.Uint
		case s.Is(image.FileEntryEventfd, wire.Bytes):
			body = s.Bytes
		case s.Is(image.FileEntryInotify, wire.Bytes):
			body, fown = s.Bytes, 4
		case s.Is(image.FileEntryReg, wire.Bytes):
			body, fown = s.Bytes, image.RegFown
		}
	}
	if s.Err != nil {
		return o, s.Err
	}
	if kind != fileEventfd && kind != fileInotify && kind != image.FileReg || body == nil {
		return o, fmt.Errorf("%w: it can't be replaced, being of type %d", wire.ErrMalformed, kind)
	}
	s = wire.Scan(body)
	for s.Next() {
		switch {
		case s.Is(2, wire.Varint):
			o.Flags = int(s.Uint)
		case s.Type == wire.Bytes && int(s.Num) == fown:
			o.fown = s.Bytes
		case kind == fileEventfd && s.Is(4, wire.Varint):
			o.Count = s.Uint
		}
	}
	return o, s.Err
}
