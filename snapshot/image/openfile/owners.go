package openfile

import (
	"fmt"
	"path/filepath"
	"sync"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// Owner is who is sent signals by an open file (F_SETOWN_EX in fcntl(2)).
type Owner struct {
	At     image.DescriptorRef // one of the descriptors of the file
	Kind   OwnerKind           // of ID
	ID     int                 // as the app numbers it
	Signal int                 // F_SETSIG; 0 for SIGIO
	// Async tells that the file has O_ASYNC, and so sends the signal. Otherwise a socket
	// sends SIGURG alone.
	Async bool
}

// OwnerKind says what an owner's number is of (f_owner_ex in fcntl(2)).
type OwnerKind int

// The kinds of owners.
const (
	OwnerThread OwnerKind = iota
	OwnerProcess
	OwnerGroup
)

// ReadOwners lists the open files of a dump that send signals. Those that wait in the queue
// of a unix socket are left out.
//
// Cost: 0.2 us a file, if none does.
func ReadOwners(images string) ([]Owner, error) {
	fail := func(err error) ([]Owner, error) { return nil, fmt.Errorf("list owners of files: %w", err) }
	records, err := image.ReadRecords(filepath.Join(images, image.FilesImage), image.TypeFiles)
	if err != nil {
		return fail(err)
	}
	found := make(map[uint32]Owner)
	named := make(map[uint32]uint32) // the FIFO by the file that has its name, and its owner
	for _, r := range records {
		file, err := parseOwner(r.Message)
		if err != nil {
			return fail(err)
		}
		if file.owner.ID != 0 {
			found[file.id] = file.owner
		}
		if file.name != 0 {
			named[file.name] = file.id
		}
	}
	if len(found) == 0 {
		return nil, nil
	}
	names, err := image.Names(images)
	if err != nil {
		return fail(err)
	}
	at, err := image.Descriptors(images, names)
	if err != nil {
		return fail(err)
	}
	var out []Owner
	for id, owner := range found {
		if fifo, ok := named[id]; ok {
			id = fifo
		}
		if ref, ok := at[id]; ok {
			owner.At = ref
			out = append(out, owner)
		}
	}
	return out, nil
}

// ownedFile is what a file_entry has of an owner.
type ownedFile struct {
	id, name uint32 // name is of a FIFO
	owner    Owner
}

func parseOwner(msg []byte) (ownedFile, error) {
	var f ownedFile
	s := wire.Scan(msg)
	for s.Next() {
		if s.Is(image.FileEntryID, wire.Varint) {
			f.id = uint32(s.Uint) //nolint:gosec // a uint32 in CRIU's definition
		}
		fields, ok := ownerFields()[s.Num]
		if !ok || s.Type != wire.Bytes {
			continue
		}
		body := wire.Scan(s.Bytes)
		for body.Next() {
			var err error
			switch {
			case body.Is(fields.flags, wire.Varint):
				f.owner.Async = body.Uint&unix.O_ASYNC != 0
			case body.Is(fields.owner, wire.Bytes):
				err = f.owner.parse(body.Bytes)
			case s.Num == fileEntryFIFO && body.Is(fields.name, wire.Varint):
				f.name = uint32(body.Uint) //nolint:gosec // a uint32 in CRIU's definition
			}
			if err != nil {
				return f, err
			}
		}
		if body.Err != nil {
			return f, body.Err
		}
	}
	return f, s.Err
}

// parse reads a fown_entry.
func (o *Owner) parse(msg []byte) error {
	s := wire.Scan(msg)
	for s.Next() {
		switch {
		case s.Is(3, wire.Varint):
			o.Signal = int(s.Uint) //nolint:gosec // a uint32 in CRIU's definition
		case s.Is(4, wire.Varint):
			o.Kind = OwnerKind(s.Uint) //nolint:gosec // a uint32 in CRIU's definition
		case s.Is(5, wire.Varint):
			o.ID = int(s.Uint) //nolint:gosec // a uint32 in CRIU's definition
		}
	}
	return s.Err
}

const fileEntryFIFO = 17

// fieldsOfOwner are the numbers of fields in an entry of one kind of file; 0 if it has none.
type fieldsOfOwner struct{ flags, owner, name protowire.Number }

// ownerFields has them by the number of the entry in a file_entry.
var ownerFields = sync.OnceValue(func() map[protowire.Number]fieldsOfOwner {
	out := make(map[protowire.Number]fieldsOfOwner)
	entry := (&fdinfo.FileEntry{}).ProtoReflect().Descriptor().Fields()
	for i := range entry.Len() {
		kind := entry.Get(i).Message()
		if kind == nil {
			continue
		}
		number := func(name protoreflect.Name) protowire.Number {
			if field := kind.Fields().ByName(name); field != nil {
				return field.Number()
			}
			return 0
		}
		if f := (fieldsOfOwner{number("flags"), number("fown"), number("regf_id")}); f.owner != 0 || f.name != 0 {
			out[entry.Get(i).Number()] = f
		}
	}
	return out
})

// ClearAsync takes O_ASYNC from files, for package owner to set it once they are there.
// CRIU gives it to open(2) of terminals and FIFOs, which then have the flag and send nothing,
// and can't be told any more to send (fs/fcntl.c, setfl); and to inotify_init1(2), which
// does not know it (criu/fsnotify.c, open_inotify_fd).
func ClearAsync(v *image.View) error {
	err := v.EditAll(image.FilesImage, image.TypeFiles, func(msg []byte) ([]byte, error) {
		for entry, fields := range ownerFields() {
			var err error
			msg, err = wire.EditAt(msg, []protowire.Number{entry}, func(body []byte) ([]byte, error) {
				values, err := wire.Varints(body)
				if err != nil || values[fields.flags]&unix.O_ASYNC == 0 {
					return body, err
				}
				return wire.ReplaceVarints(body, map[protowire.Number]uint64{fields.flags: values[fields.flags] &^ unix.O_ASYNC})
			})
			if err != nil {
				return nil, err
			}
		}
		return msg, nil
	})
	if err != nil {
		return fmt.Errorf("clear O_ASYNC: %w", err)
	}
	return nil
}
