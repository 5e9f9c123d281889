package image

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// The kinds of open file that matter here (fd_types in images/fdinfo.proto).
const (
	FileReg    = 1
	fileInetSk = 4
	fileUnixSk = 5
)

// UnixExternal marks a unix socket that stands for one outside the dump
// (USK_EXTERN in criu/sk-unix.c).
const UnixExternal = 1

// Fields of the messages that are edited (images/*.proto).
const (
	fileEntryType    = 1
	fileEntryID      = 2
	fileEntryReg     = 3
	fileEntryInet    = 4
	fileEntryEventfd = 8
	fileEntryInotify = 13
	fileEntryUnix    = 16

	regID        = 1
	regFlags     = 2
	regPos       = 3
	regFown      = 5
	fieldRegName = 6

	fdinfoID   = 1
	FdinfoType = 3

	packetFor = 1
)

// openFile is what an edit needs to know about a file_entry.
type openFile struct {
	Kind uint64
	ID   uint32
	body []byte // the entry of its kind, for the kinds that matter here

	inode uint64 // of a socket
	flags uint64 // of a socket: open(2) flags
	Owner []byte // of a socket: fown_entry
	peer  uint64 // of a unix socket: inode of its peer
	Extra uint64 // of a unix socket: uflags
}

// ParseOpenFile reads those parts of a file_entry that an edit needs.
func ParseOpenFile(msg []byte) (openFile, error) {
	var f openFile
	s := wire.Scan(msg)
	for s.Next() {
		switch {
		case s.Is(fileEntryType, wire.Varint):
			f.Kind = s.Uint
		case s.Is(fileEntryID, wire.Varint):
			f.ID = uint32(s.Uint)
		case s.Is(fileEntryReg, wire.Bytes), s.Is(fileEntryInet, wire.Bytes), s.Is(fileEntryUnix, wire.Bytes):
			f.body = s.Bytes
		}
	}
	if s.Err != nil {
		return f, s.Err
	}
	switch f.Kind {
	case fileInetSk:
		return f, f.socket(9, 13) // inet_sk_entry.flags and fown
	case fileUnixSk:
		return f, f.socket(5, 9) // unix_sk_entry.flags and fown
	}
	return f, nil
}

// socket reads an inet_sk_entry or a unix_sk_entry. Both have the inode in
// field 2; the others differ.
func (f *openFile) socket(flags, fown protowire.Number) error {
	s := wire.Scan(f.body)
	for s.Next() {
		switch {
		case s.Is(2, wire.Varint):
			f.inode = s.Uint
		case s.Is(flags, wire.Varint):
			f.flags = s.Uint
		case s.Is(fown, wire.Bytes):
			f.Owner = s.Bytes
		case f.Kind == fileUnixSk && s.Is(6, wire.Varint):
			f.Extra = s.Uint
		case f.Kind == fileUnixSk && s.Is(8, wire.Varint):
			f.peer = s.Uint
		}
	}
	if s.Err == nil && f.inode == 0 {
		return fmt.Errorf("read socket %#x: %w: no inode", f.ID, wire.ErrMalformed)
	}
	return s.Err
}

// RegName is the name of a regular file: a path, or what CRIU calls an external file.
func (f openFile) RegName() (name []byte, err error) {
	s := wire.Scan(f.body)
	for s.Next() {
		if s.Is(fieldRegName, wire.Bytes) {
			name = s.Bytes
		}
	}
	return name, s.Err
}

// InheritedFile makes the file_entry of a file that nobody is sent signals by, and that
// CRIU inherits under a key.
func InheritedFile(id uint32, key string) []byte {
	var nobody []byte // a fown_entry without an owner
	for num := protowire.Number(1); num <= 5; num++ {
		nobody = wire.AppendVarint(nobody, num, 0)
	}
	msg := wire.AppendVarint(nil, fileEntryType, FileReg)
	msg = wire.AppendVarint(msg, fileEntryID, uint64(id))
	return wire.AppendBytes(msg, fileEntryReg, appendReg(nil, openFile{ID: id, Owner: nobody}, key))
}

// appendReg appends a reg_file_entry called "/"+key: CRIU drops the first byte
// of a name before it compares.
//
// Size and mode stay out, as CRIU would compare them; the mount id too, since
// its default says "whatever mount".
func appendReg(dst []byte, f openFile, key string) []byte {
	dst = wire.AppendVarint(dst, regID, uint64(f.ID))
	dst = wire.AppendVarint(dst, regFlags, f.flags)
	dst = wire.AppendVarint(dst, regPos, 0)
	dst = wire.AppendBytes(dst, regFown, f.Owner)
	dst = protowire.AppendTag(dst, fieldRegName, wire.Bytes)
	dst = protowire.AppendVarint(dst, uint64(1+len(key)))
	return append(append(dst, '/'), key...)
}

// appendAsReg appends the file_entry of a socket, eventfd or inotify instance
// with reg in the place of what it said about that.
func appendAsReg(dst, msg, reg []byte) ([]byte, error) {
	s := wire.Scan(msg)
	for s.Next() {
		switch {
		case s.Is(fileEntryType, wire.Varint):
			dst = wire.AppendVarint(dst, fileEntryType, FileReg)
		case s.Is(fileEntryInet, wire.Bytes), s.Is(fileEntryUnix, wire.Bytes),
			s.Is(fileEntryEventfd, wire.Bytes), s.Is(fileEntryInotify, wire.Bytes), s.Is(fileEntryReg, wire.Bytes):
			dst = wire.AppendBytes(dst, fileEntryReg, reg)
		default:
			dst = append(dst, s.Raw...)
		}
	}
	return dst, s.Err
}

// A FileImage is an image that may say something about open files.
type FileImage struct {
	Name string
	Type Type
}

// FileImages lists them, files.img first: it tells the ids that the others
// refer to.
func (v *View) FileImages() ([]FileImage, error) {
	all, err := Names(v.Dir())
	if err != nil {
		return nil, err
	}
	targets := []FileImage{{"files.img", TypeFiles}}
	for _, name := range all {
		switch {
		case strings.HasPrefix(name, "fdinfo-"):
			targets = append(targets, FileImage{name, TypeFdinfo})
		case name == "sk-queues.img":
			targets = append(targets, FileImage{name, TypeSkQueues})
		}
	}
	return targets, nil
}

// FilesImage is the image of all open files.
const FilesImage = "files.img"
