package checkpoint

import (
	"context"
	"fmt"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/image/openfile"
	"github.com/snapctl/snapctl/vem/hold/fsnotify"
)

// watched lists the paths of the files that the frozen app watches by inotify and fanotify. It
// writes them for CRIU, which reads them when its dump begins.
func (o *taking) watched(ctx context.Context, pids []int) ([]snapshot.External, error) {
	found, err := fsnotify.FindWatched(ctx, pids, o.PID)
	if err != nil {
		return nil, err
	}
	list := make([]snapshot.External, len(found))
	paths := make(map[openfile.WatchKey]string, len(found))
	for i, w := range found {
		list[i] = snapshot.External{
			Kind: snapshot.ExternalWatch, Key: fmt.Sprintf("watch[%x:%x]", w.Device, w.Inode), Device: w.Device, Inode: w.Inode, Path: w.Path,
		}
		paths[openfile.WatchKey{Device: w.Device, Inode: w.Inode}] = w.Path
	}
	return list, openfile.WriteWatches(o.Work, paths)
}
