package hostfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/image/openfile"
)

// Bound is a file below a bind that a saved app has open or maps. If it is gone when the
// app comes back, it may be made anew.
type Bound struct {
	Path string `json:"path"` // as the app knows it
	UID  uint32 `json:"uid"`
	GID  uint32 `json:"gid"`
	// Other is another name of a file whose own name was removed while processes had it
	// open: CRIU gives such a file a name of its own for as long as the app is saved
	// (files-reg.c, create_link_remap), or while it is if the app goes on.
	Other string `json:"other,omitempty"`
}

// mostNames is how many names below a bind are looked at for another one of a file.
const mostNames = 20000

// BoundFiles lists the files below binds among those of the dump in a directory. binds are
// the host's directories and files by where the app has them.
func BoundFiles(ctx context.Context, images string, files []openfile.Saved, binds map[string]string) ([]Bound, error) {
	if len(binds) == 0 {
		return nil, nil
	}
	mounts, err := openfile.ReadMounts(images)
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
		if f.Link != "" {
			f.Name = f.Link
		}
		if !ok || f.External || f.Removed && f.Link == "" || seen[f.Name] {
			continue
		}
		seen[f.Name] = true
		var st unix.Stat_t
		host := filepath.Join(binds[at], strings.TrimPrefix(f.Name, at))
		if err := unix.Lstat(host, &st); err != nil {
			continue
		}
		b := Bound{Path: f.Name, UID: st.Uid, GID: st.Gid}
		if f.Link != "" {
			other, err := otherName(ctx, binds[at], host, &st)
			if err != nil {
				return nil, err
			}
			b.Other = path.Join(at, other)
		}
		list = append(list, b)
	}
	return list, nil
}

// ErrNoName is an open file below a bind that lost its name and has no other one there.
var ErrNoName = errors.New("the app has a file below a bind open that was removed, and whose other name is not below the bind: let the app close it")

// otherName finds another name of a file below a bind, relative to that. The file's own
// directory is the likeliest place.
func otherName(ctx context.Context, bind, host string, want *unix.Stat_t) (found string, err error) {
	left := mostNames
	look := func(name string, d fs.DirEntry, err error) error {
		if left--; err != nil || left < 0 {
			return err
		}
		var st unix.Stat_t
		if d.Type().IsRegular() && name != host && unix.Lstat(name, &st) == nil && st.Ino == want.Ino && st.Dev == want.Dev {
			if found, err = filepath.Rel(bind, name); err != nil {
				return err
			}
			return fs.SkipAll
		}
		return ctx.Err()
	}
	for _, dir := range []string{filepath.Dir(host), bind} {
		if err := filepath.WalkDir(dir, look); err != nil {
			return "", fmt.Errorf("look for another name of %s: %w", host, err)
		}
		if found != "" {
			return found, nil
		}
	}
	return "", fmt.Errorf("%w (below %s)", ErrNoName, filepath.Dir(host))
}
