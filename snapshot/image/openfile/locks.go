package openfile

import (
	"fmt"
	"path/filepath"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// LockKind is a kind of file lock.
type LockKind int

// The kinds (FL_POSIX and others in criu/include/file-lock.h).
const (
	LockProcess     LockKind = 1 // of a process, fcntl(2) F_SETLK
	LockFlock       LockKind = 2 // flock(2)
	LockDescription LockKind = 4 // of an open file description, F_OFD_SETLK
	LockLease       LockKind = 8 // F_SETLEASE
)

// Lock is a lock that a process of a dump has on a file.
type Lock struct {
	At     image.DescriptorRef
	Kind   LockKind
	Write  bool // an exclusive one
	Start  int64
	Length int64 // 0: to the end of the file
	// Name is the file's path for the process, or CRIU's name for an external file.
	Name string
}

// ReadLocks lists the file locks of a dump.
func ReadLocks(images string) ([]Lock, error) {
	records, err := image.ReadRecords(filepath.Join(images, "filelocks.img"), image.TypeFileLocks)
	if err != nil || len(records) == 0 {
		return nil, err
	}
	files, err := image.ReadRecords(filepath.Join(images, "files.img"), image.TypeFiles)
	if err != nil {
		return nil, err
	}
	names := make(map[uint32]string)
	for _, rec := range files {
		file, err := image.ParseOpenFile(rec.Message)
		if err != nil {
			return nil, fmt.Errorf("read file locks: %w", err)
		}
		if file.Kind != image.FileReg {
			continue
		}
		name, err := file.RegName()
		if err != nil {
			return nil, fmt.Errorf("read file locks: %w", err)
		}
		names[file.ID] = string(name)
	}
	locks := make([]Lock, len(records))
	for i, rec := range records {
		l := &locks[i]
		s := wire.Scan(rec.Message)
		for s.Next() { // file_lock_entry
			switch {
			case s.Is(1, wire.Varint):
				l.Kind = LockKind(s.Uint)
			case s.Is(2, wire.Varint):
				l.Write = s.Uint&1 != 0 // F_WRLCK
			case s.Is(3, wire.Varint):
				l.At.PID = int(s.Uint)
			case s.Is(4, wire.Varint):
				l.At.FD = int(s.Uint)
			case s.Is(5, wire.Varint):
				l.Start = int64(s.Uint)
			case s.Is(6, wire.Varint):
				l.Length = int64(s.Uint)
			}
		}
		if s.Err != nil {
			return nil, fmt.Errorf("read file lock %d: %w", i, s.Err)
		}
		id, _, err := image.FindDescriptor(images, l.At)
		if err != nil {
			return nil, fmt.Errorf("read file locks: %w", err)
		}
		l.Name = names[id]
	}
	return locks, nil
}
