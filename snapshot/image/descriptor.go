package image

import (
	"fmt"
	"path/filepath"
	"strings"

	core "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"

	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// DescriptorRef tells where a file is open.
type DescriptorRef struct {
	PID int `json:"pid"`
	FD  int `json:"fd"`
}

// FindDescriptor finds the file that a process has open; id is 0 if there is no
// such process or descriptor.
func FindDescriptor(images string, at DescriptorRef) (id uint32, kind uint64, err error) {
	table, err := FileTable(images, at.PID)
	if err != nil || table == 0 {
		return 0, 0, err
	}
	fds, err := ReadRecords(filepath.Join(images, fmt.Sprintf("fdinfo-%d.img", table)), TypeFdinfo)
	if err != nil {
		return 0, 0, err
	}
	for _, rec := range fds {
		s := wire.Scan(rec.Message)
		var fd uint64
		for s.Next() {
			if s.Is(4, wire.Varint) {
				fd = s.Uint
			}
		}
		if s.Err != nil {
			return 0, 0, s.Err
		}
		if fd == uint64(at.FD) {
			return ParseFdinfo(rec.Message)
		}
	}
	return 0, 0, nil
}

// FileTable is the number of a process's table of descriptors, as in fdinfo-NUMBER.img; 0 if
// there is no such process.
func FileTable(images string, pid int) (uint64, error) {
	ids, err := ReadRecords(filepath.Join(images, fmt.Sprintf("ids-%d.img", pid)), TypeIDs)
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	values, err := wire.Varints(ids[0].Message)
	return values[2], err // task_kobj_ids_entry.files_id
}

// ParseFdinfo reads of a descriptor which file it leads to, and of what kind that is.
func ParseFdinfo(msg []byte) (id uint32, kind uint64, err error) {
	s := wire.Scan(msg)
	for s.Next() {
		switch {
		case s.Is(fdinfoID, wire.Varint):
			id = uint32(s.Uint)
		case s.Is(FdinfoType, wire.Varint):
			kind = s.Uint
		}
	}
	return id, kind, s.Err
}

// Descriptors tells of each file of a dump one place where it is open.
func Descriptors(images string, names []string) (map[uint32]DescriptorRef, error) {
	out := make(map[uint32]DescriptorRef)
	for _, name := range names {
		digits, ok := strings.CutPrefix(name, "ids-")
		if !ok {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(digits, "%d.img", &pid); err != nil {
			return nil, fmt.Errorf("read %s: %w: no id in its name", name, wire.ErrMalformed)
		}
		ids, err := ReadMessages[core.TaskKobjIdsEntry](images, name, TypeIDs)
		if err != nil || len(ids) == 0 {
			return nil, err
		}
		fds, err := ReadMessages[fdinfo.FdinfoEntry](images, fmt.Sprintf("fdinfo-%d.img", ids[0].GetFilesId()), TypeFdinfo)
		if err != nil {
			return nil, err
		}
		for _, fd := range fds {
			if old, ok := out[fd.GetId()]; !ok || pid < old.PID {
				out[fd.GetId()] = DescriptorRef{PID: pid, FD: int(fd.GetFd())}
			}
		}
	}
	return out, nil
}
