package image

import (
	"fmt"
	"path/filepath"
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

// FileLock is a lock that a process of a dump has on a file.
type FileLock struct {
	At     DescriptorRef
	Kind   LockKind
	Write  bool // an exclusive one
	Start  int64
	Length int64 // 0: to the end of the file
	// Name is the file's path for the process, or CRIU's name for an external file.
	Name string
}

// ReadLocks lists the file locks of a dump.
func ReadLocks(images string) ([]FileLock, error) {
	records, err := readRecords(filepath.Join(images, "filelocks.img"), TypeFileLocks)
	if err != nil || len(records) == 0 {
		return nil, err
	}
	files, err := readRecords(filepath.Join(images, "files.img"), TypeFiles)
	if err != nil {
		return nil, err
	}
	names := make(map[uint32]string)
	for _, rec := range files {
		file, err := parseOpenFile(rec.Message)
		if err != nil {
			return nil, fmt.Errorf("read file locks: %w", err)
		}
		s := scan(file.body)
		for file.kind == fileReg && s.next() {
			if s.is(regName, lengthDelimited) {
				names[file.id] = string(s.buf)
			}
		}
	}
	locks := make([]FileLock, len(records))
	for i, rec := range records {
		l := &locks[i]
		s := scan(rec.Message)
		for s.next() { // file_lock_entry
			switch {
			case s.is(1, varint):
				l.Kind = LockKind(s.val)
			case s.is(2, varint):
				l.Write = s.val&1 != 0 // F_WRLCK
			case s.is(3, varint):
				l.At.PID = int(s.val)
			case s.is(4, varint):
				l.At.FD = int(s.val)
			case s.is(5, varint):
				l.Start = int64(s.val)
			case s.is(6, varint):
				l.Length = int64(s.val)
			}
		}
		if s.err != nil {
			return nil, fmt.Errorf("read file lock %d: %w", i, s.err)
		}
		id, _, err := findDescriptor(images, l.At)
		if err != nil {
			return nil, fmt.Errorf("read file locks: %w", err)
		}
		l.Name = names[id]
	}
	return locks, nil
}
