package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/openfile"
)

// watches tells whether the processes watch files.
func (p *Plan) watches() bool {
	return slices.ContainsFunc(p.external, func(e snapshot.External) bool { return e.Kind == snapshot.ExternalWatch })
}

// setWatches gives CRIU the paths of what inotify and fanotify instances watch that are
// not held.
func (p *Plan) setWatches(view *image.View, o Options) error {
	if !p.watches() {
		return nil
	}
	paths := make(map[openfile.WatchKey]string)
	for _, e := range p.external {
		if e.Kind == snapshot.ExternalWatch {
			paths[openfile.WatchKey{Device: e.Device, Inode: e.Inode}] = e.Path
		}
	}
	gone, err := openfile.SetWatches(view, paths, o.Place.has)
	if o.Lost != nil {
		for _, name := range gone {
			o.Lost(fmt.Sprintf("%s is not watched any more (inotify): it is not there", name), "make it, and have the app watch it again")
		}
	}
	return err
}

// moved says where unix sockets are to be bound that are not held.
func (p *Plan) moved() map[uint64]string {
	paths := make(map[uint64]string)
	for _, e := range p.external {
		if _, held := p.Keys[e.Inode]; e.Kind == snapshot.ExternalMoved && !held {
			paths[e.Inode] = e.Path
		}
	}
	return paths
}

// has tells whether a path leads to something in the app. What only the app's own
// mounts have, such as /proc, is taken to be there.
func (at Place) has(name string) bool {
	for _, own := range []string{"/proc", "/sys"} {
		if name == own || strings.HasPrefix(name, own+"/") {
			return true
		}
	}
	mounts := map[string]string{"/dev": at.Dev}
	for inside, source := range at.Binds {
		mounts[path.Clean(inside)] = source
	}
	base, rest, longest := at.Root, name, ""
	for inside, source := range mounts {
		under, ok := strings.CutPrefix(name, inside)
		if ok && (under == "" || under[0] == '/') && len(inside) > len(longest) {
			longest, base, rest = inside, source, under
		}
	}
	root, err := os.OpenRoot(base)
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist) // a bind of one file is no directory
	}
	defer root.Close() //nolint:errcheck // a handle
	_, err = root.Lstat(path.Clean("./" + rest))
	return !errors.Is(err, fs.ErrNotExist)
}
