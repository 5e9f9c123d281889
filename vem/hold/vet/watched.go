package vet

import (
	"fmt"
	"strconv"

	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/fsnotify"
)

// watched are the instances that are to be judged. CRIU needs a path for every file that they
// watch, with one exception: if the instance is held, and the file system opens a file by its
// handle, CRIU needs no path.
type watched struct {
	list []watchedAt
}

type watchedAt struct {
	pid, fd int
	kind    string
	held    bool
}

// watch notes an instance.
func (p *preflight) watch(pid, fd int, link string) {
	switch link {
	case fsnotify.FanotifyLink:
		p.watched.list = append(p.watched.list, watchedAt{pid, fd, "fanotify", false})
	case fsnotify.InotifyLink:
		keep, err := fsnotify.Lasts(&p.devices, pid, fd)
		p.watched.list = append(p.watched.list, watchedAt{pid, fd, "inotify", keep && err == nil && !p.copy})
	}
}

// judge refuses instances that watch what is nowhere to be found.
func (w *watched) judge(p *preflight) {
	root := p.namespaces.Root()
	if root == 0 {
		return // no app with namespaces of its own
	}
	r := fsnotify.NewFinder(root)
	defer r.Close()
	for _, at := range w.list {
		inodes, err := fsnotify.Marks(strconv.Itoa(at.pid), at.fd)
		if err != nil {
			continue // closed meanwhile
		}
		for _, inode := range inodes {
			found, err := r.Find(inode)
			needless := at.held && r.OpensByHandle(inode)
			if err == nil && !found && !needless {
				p.add(Error, at.pid, at.fd, unfoundWatch(at.kind, inode.Watched))
			}
		}
	}
}

func unfoundWatch(kind string, w fsnotify.Watched) hold.Verdict {
	return hold.Refuse(hold.Inotify, fmt.Sprintf("%s instance that watches inode %d of device %d:%d", kind, w.Inode, w.Device>>20, w.Device&(1<<20-1)),
		"it has no path in the app by which it could be found again, being deleted or moved away: the app must end this watch")
}
