package openfile

import (
	"fmt"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// WatchKey is what an inotify or fanotify instance watches: an inode of a file system,
// with the kernel's own number for that, as in /proc/PID/fdinfo/FD.
type WatchKey struct {
	Device uint32
	Inode  uint64
}

// WriteWatches tells a CRIU that is about to dump the paths of what inotify and fanotify
// instances watch. CRIU opens that by file handle, which no overlay allows; then it looks
// into a list in its work directory (irmap.c, irmap_load_cache, after the pre-dump
// notification), and searches directories for what is not in it while the app stands
// still, for seconds (irmap_lookup). It proves that a path still leads there.
func WriteWatches(work string, paths map[WatchKey]string) error {
	list := &image.Image{Head: image.HeadService, Type: image.TypeIrmapCache}
	for key, path := range paths {
		msg := wire.AppendVarint(nil, 1, uint64(key.Device)) // irmap_cache_entry
		msg = wire.AppendVarint(msg, 2, key.Inode)
		list.Records = append(list.Records, image.Record{Message: wire.AppendBytes(msg, 3, []byte(path))})
	}
	if err := os.WriteFile(filepath.Join(work, "irmap-cache"), list.Encode(), 0o600); err != nil {
		return fmt.Errorf("list what is watched: %w", err)
	}
	return nil
}

// overlayHandle is the type of file handles of an overlay, by which nothing can be opened
// (OVL_FILEID_V1 in fs/overlayfs/overlayfs.h).
const overlayHandle = 0xf8

const fileEntryFanotify = 14

// SetWatches writes into a view the paths of the files that inotify and fanotify instances
// watch, where the dump has no path. If exists says that a watched file is not there any more,
// the watch is left out of the view, and the file's path, or number, is returned: CRIU would
// fail otherwise (fsnotify.c, get_mark_path). Errors are as those of [Replace].
func SetWatches(v *image.View, paths map[WatchKey]string, exists func(path string) bool) (gone []string, err error) {
	img, err := v.Decode("files.img", image.TypeFiles)
	if err != nil {
		return nil, fmt.Errorf("set watches: %w", err)
	}
	e := watchEdit{paths: paths, exists: exists}
	for i, rec := range img.Records {
		edited, err := e.edit(rec.Message, image.FileEntryInotify, fileEntryFanotify, (*watchEdit).instance)
		if err != nil {
			return nil, fmt.Errorf("set watches of file %d: %w", i, err)
		}
		img.Records[i].Message = edited
	}
	if !e.changed {
		return nil, nil
	}
	if err := v.Replace("files.img", img.Encode()); err != nil {
		return nil, fmt.Errorf("set watches: %w", err)
	}
	return e.gone, nil
}

// A watchEdit is one run over files.img.
type watchEdit struct {
	paths   map[WatchKey]string
	exists  func(string) bool
	gone    []string
	changed bool
}

// edit replaces the submessages in one or the other field by what fn makes of them; nil
// drops one.
func (e *watchEdit) edit(msg []byte, one, other protowire.Number, fn func(*watchEdit, protowire.Number, []byte) ([]byte, error)) ([]byte, error) {
	var out []byte
	s := wire.Scan(msg)
	for s.Next() {
		if !s.Is(one, wire.Bytes) && !s.Is(other, wire.Bytes) {
			out = append(out, s.Raw...)
			continue
		}
		body, err := fn(e, s.Num, s.Bytes)
		if err != nil {
			return nil, err
		}
		if body != nil {
			out = wire.AppendBytes(out, s.Num, body)
		}
	}
	return out, s.Err
}

// instance edits an inotify_file_entry or fanotify_file_entry.
func (e *watchEdit) instance(kind protowire.Number, msg []byte) ([]byte, error) {
	if kind == image.FileEntryInotify {
		const wd = 5
		return e.edit(msg, wd, wd, (*watchEdit).watch)
	}
	const mark = 6
	return e.edit(msg, mark, mark, (*watchEdit).mark)
}

// watch edits an inotify_wd_entry.
func (e *watchEdit) watch(_ protowire.Number, msg []byte) ([]byte, error) {
	var key WatchKey
	s := wire.Scan(msg)
	for s.Next() {
		switch {
		case s.Is(2, wire.Varint):
			key.Inode = s.Uint
		case s.Is(5, wire.Varint):
			key.Device = uint32(s.Uint)
		}
	}
	if s.Err != nil {
		return nil, s.Err
	}
	return e.handle(msg, 7, key)
}

// mark edits a fanotify_mark_entry. One of a mount has no inode.
func (e *watchEdit) mark(_ protowire.Number, msg []byte) ([]byte, error) {
	const inodeMark = 7
	var key WatchKey
	var inner []byte
	s := wire.Scan(msg)
	for s.Next() {
		switch {
		case s.Is(6, wire.Varint):
			key.Device = uint32(s.Uint)
		case s.Is(inodeMark, wire.Bytes):
			inner = s.Bytes
		}
	}
	if s.Err != nil || inner == nil {
		return msg, s.Err
	}
	s = wire.Scan(inner)
	for s.Next() {
		if s.Is(1, wire.Varint) {
			key.Inode = s.Uint
		}
	}
	if s.Err != nil {
		return nil, s.Err
	}
	edited, err := e.handle(inner, 2, key)
	if err != nil || edited == nil {
		return nil, err
	}
	return e.edit(msg, inodeMark, inodeMark, func(*watchEdit, protowire.Number, []byte) ([]byte, error) { return edited, nil })
}

// handle edits the fh_entry in a field of a watch. It returns nil for a watch that can't
// be made again.
func (e *watchEdit) handle(msg []byte, field protowire.Number, key WatchKey) ([]byte, error) {
	var handle, path []byte
	var kind uint64
	s := wire.Scan(msg)
	for s.Next() {
		if s.Is(field, wire.Bytes) {
			handle = s.Bytes
		}
	}
	if s.Err != nil {
		return nil, s.Err
	}
	const pathField = 4
	s = wire.Scan(handle)
	for s.Next() {
		switch {
		case s.Is(2, wire.Varint):
			kind = s.Uint
		case s.Is(pathField, wire.Bytes):
			path = s.Bytes
		}
	}
	if s.Err != nil {
		return nil, s.Err
	}
	known := string(path)
	if path == nil {
		known = e.paths[key]
	}
	switch {
	case known == "" && kind != overlayHandle:
		return msg, nil // CRIU opens it by its handle
	case known == "":
		known = fmt.Sprintf("inode %d", key.Inode)
	case e.exists(known) && path != nil:
		return msg, nil
	case e.exists(known):
		e.changed = true
		edited := wire.AppendBytes(append([]byte(nil), handle...), pathField, []byte(known))
		return e.edit(msg, field, field, func(*watchEdit, protowire.Number, []byte) ([]byte, error) { return edited, nil })
	}
	e.changed = true
	e.gone = append(e.gone, known)
	return nil, nil
}
