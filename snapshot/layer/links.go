package layer

import (
	"fmt"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/tree"
)

// countLinks notes in a layer's list the regular files that have other names, too. It
// returns whether there are any, and the size of all, each counted once.
func countLinks(dir string, files []tree.File) (linked bool, size int64, err error) {
	counted := make(map[uint64]bool) // inodes; a layer is in one file system
	for i := range files {
		f := &files[i]
		if f.Type != "file" {
			continue
		}
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, f.Path), &st); err != nil {
			return false, 0, fmt.Errorf("count links: %w", err)
		}
		if st.Nlink > 1 {
			f.Links, linked = int(st.Nlink), true
		}
		if !f.MetadataOnly && !counted[st.Ino] {
			size += st.Size
		}
		counted[st.Ino] = true
	}
	return linked, size, nil
}

// Linked lists the regular files of layers that have several names, by all of these.
func (l *Store) Linked(layers []Ref) ([]string, error) {
	var names []string
	for _, layer := range layers {
		if !layer.Linked {
			continue
		}
		files, err := l.Files(layer.ID)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			if f.Links > 1 {
				names = append(names, f.Path)
			}
		}
	}
	slices.Sort(names) // an app has its own copies of those in the layers below
	return slices.Compact(names), nil
}
