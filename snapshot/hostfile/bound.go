package hostfile

import (
	"context"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/image"
)

// Bound is a file below a bind that a saved app has open or maps. If it is gone when the
// app comes back, it may be made anew.
type Bound struct {
	Path string `json:"path"` // as the app knows it
	UID  uint32 `json:"uid"`
	GID  uint32 `json:"gid"`
}

// BoundFiles lists the files below binds that the dump in a directory names. binds are
// the host's directories and files by where the app has them.
func BoundFiles(ctx context.Context, images string, binds map[string]string) ([]Bound, error) {
	if len(binds) == 0 {
		return nil, nil
	}
	files, err := image.SavedFiles(ctx, images)
	if err != nil {
		return nil, err
	}
	mounts, err := image.SavedMounts(images)
	if err != nil {
		return nil, err
	}
	inside := make(map[int]string)
	for _, m := range mounts {
		if _, ok := binds[m.Mountpoint]; ok && m.External != "" {
			inside[m.ID] = m.Mountpoint
		}
	}
	var list []Bound
	seen := make(map[string]bool)
	for _, f := range files {
		at, ok := inside[f.Mount]
		if !ok || f.External || f.Removed || seen[f.Name] {
			continue
		}
		seen[f.Name] = true
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(binds[at], strings.TrimPrefix(f.Name, at)), &st); err == nil {
			list = append(list, Bound{Path: f.Name, UID: st.Uid, GID: st.Gid})
		}
	}
	return list, nil
}
