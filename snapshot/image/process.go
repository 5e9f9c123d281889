package image

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/pstree"

	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// CoreName is the name of the image of a process or thread.
func CoreName(pid uint32) string { return fmt.Sprintf("core-%d.img", pid) }

// CoreID is the id in the name of an image of a process or thread.
func CoreID(name string) (int, error) {
	id, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(name, "core-"), ".img"))
	if err != nil {
		return 0, fmt.Errorf("read %s: %w: no id in its name", name, wire.ErrMalformed)
	}
	return id, nil
}

// Threads are the ids of the threads of each process, by the id of its first one.
func (v *View) Threads() (map[int][]uint32, error) {
	data, err := v.Read("pstree.img")
	if err != nil {
		return nil, err
	}
	img, err := Decode(data)
	if err != nil {
		return nil, fmt.Errorf("read pstree.img: %w", err)
	}
	out := make(map[int][]uint32, len(img.Records))
	for _, r := range img.Records {
		entry, err := Unmarshal[pstree.PstreeEntry](r.Message)
		if err != nil {
			return nil, fmt.Errorf("read pstree.img: %w", err)
		}
		out[int(entry.GetPid())] = entry.GetThreads()
	}
	return out, nil
}
