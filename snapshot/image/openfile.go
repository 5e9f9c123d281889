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
	FileInetSk = 4
	FileUnixSk = 5
)

// UnixExternal marks a unix socket that stands for one outside the dump
// (USK_EXTERN in criu/sk-unix.c).
const UnixExternal = 1

// Fields of the messages that are edited (images/*.proto).
const (
	FileEntryType    = 1
	FileEntryID      = 2
	FileEntryReg     = 3
	FileEntryInet    = 4
	FileEntryEventfd = 8
	FileEntryInotify = 13
	FileEntryUnix    = 16

	regID        = 1
	regFlags     = 2
	regPos       = 3
	RegFown      = 5
	fieldRegName = 6

	fdinfoID   = 1
	FdinfoType = 3
)

// OpenFile is what an edit needs to know about a file_entry.
type OpenFile struct {
	Kind uint64
	ID   uint32
	Body []byte // the entry of its kind, for the kinds that matter here

	Inode uint64 // of a socket
	Flags uint64 // of a socket: open(2) flags
	Owner []byte // of a socket: fown_entry
	Peer  uint64 // of a unix socket: inode of its peer
	Extra uint64 // of a unix socket: uflags
}

// ParseOpenFile reads those parts of a file_entry that an edit needs.
func ParseOpenFile(msg []byte) (OpenFile, error) {
	var f OpenFile
	s := wire.Scan(msg)
	for s.Next() {
		switch {
		case s.Is(FileEntryType, wire.Varint):
			f.Kind = s.Uint
		case s.Is(FileEntryID, wire.Varint):
			f.ID = uint32(s.Uint)
		case s.Is(FileEntryReg, wire.Bytes), s.Is(FileEntryInet, wire.Bytes), s.Is(FileEntryUnix, wire.Bytes):
			f.Body = s.Bytes
		}
	}
	if s.Err != nil {
		return f, s.Err
	}
	switch f.Kind {
	case FileInetSk:
		return f, f.socket(9, 13) // inet_sk_entry.flags and fown
	case FileUnixSk:
		return f, f.socket(5, 9) // unix_sk_entry.flags and fown
	}
	return f, nil
}

// socket reads an inet_sk_entry or a unix_sk_entry. Both have the inode in
// field 2; the others differ.
func (f *OpenFile) socket(flags, fown protowire.Number) error {
	s := wire.Scan(f.Body)
	for s.Next() {
		switch {
		case s.Is(2, wire.Varint):
			f.Inode = s.Uint
		case s.Is(flags, wire.Varint):
			f.Flags = s.Uint
		case s.Is(fown, wire.Bytes):
			f.Owner = s.Bytes
		case f.Kind == FileUnixSk && s.Is(6, wire.Varint):
			f.Extra = s.Uint
		case f.Kind == FileUnixSk && s.Is(8, wire.Varint):
			f.Peer = s.Uint
		}
	}
	if s.Err == nil && f.Inode == 0 {
		return fmt.Errorf("read socket %#x: %w: no inode", f.ID, wire.ErrMalformed)
	}
	return s.Err
}

// RegName is the name of a regular file: a path, or what CRIU calls an external file.
func (f OpenFile) RegName() (name []byte, err error) {
	s := wire.Scan(f.Body)
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
	msg := wire.AppendVarint(nil, FileEntryType, FileReg)
	msg = wire.AppendVarint(msg, FileEntryID, uint64(id))
	return wire.AppendBytes(msg, FileEntryReg, AppendReg(nil, OpenFile{ID: id, Owner: nobody}, key))
}

// AppendReg appends a reg_file_entry called "/"+key: CRIU drops the first byte
// of a name before it compares.
//
// Size and mode stay out, as CRIU would compare them; the mount id too, since
// its default says "whatever mount".
func AppendReg(dst []byte, f OpenFile, key string) []byte {
	dst = wire.AppendVarint(dst, regID, uint64(f.ID))
	dst = wire.AppendVarint(dst, regFlags, f.Flags)
	dst = wire.AppendVarint(dst, regPos, 0)
	dst = wire.AppendBytes(dst, RegFown, f.Owner)
	dst = protowire.AppendTag(dst, fieldRegName, wire.Bytes)
	dst = protowire.AppendVarint(dst, uint64(1+len(key)))
	return append(append(dst, '/'), key...)
}

// AppendAsReg appends the file_entry of a socket, eventfd or inotify instance
// with reg in the place of what it said about that.
func AppendAsReg(dst, msg, reg []byte) ([]byte, error) {
	s := wire.Scan(msg)
	for s.Next() {
		switch {
		case s.Is(FileEntryType, wire.Varint):
			dst = wire.AppendVarint(dst, FileEntryType, FileReg)
		case s.Is(FileEntryInet, wire.Bytes), s.Is(FileEntryUnix, wire.Bytes),
			s.Is(FileEntryEventfd, wire.Bytes), s.Is(FileEntryInotify, wire.Bytes), s.Is(FileEntryReg, wire.Bytes):
			dst = wire.AppendBytes(dst, FileEntryReg, reg)
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
