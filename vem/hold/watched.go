package hold

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Watched is an inode that inotify or fanotify instances of an app watch. CRIU needs its
// path, and can't find it on an overlay but by a search of seconds (irmap.c).
type Watched struct {
	// Device is the kernel's own number of the file system, as in /proc/PID/fdinfo/FD.
	Device uint32
	Inode  uint64
	Path   string // as the app's first process sees it
}

// watchedInode is a line of fdinfo.
type watchedInode struct {
	Watched
	kind   int32 // of the file handle
	handle []byte
}

// FindWatched lists what the instances of an app watch, each inode once, as far as it has
// a path; root is the app's first process.
//
// Cost: 2 us a descriptor, and some 30 us for each inode that is watched.
func FindWatched(ctx context.Context, pids []int, root int) ([]Watched, error) {
	r := finder{root: root}
	defer r.close()
	for _, pid := range pids {
		err := duplicate(ctx, pid, func(fd, copied int, at attributes) (bool, error) {
			if at.mode&unix.S_IFMT != 0 {
				return false, nil
			}
			link, err := os.Readlink(fdDir(pid) + "/" + strconv.Itoa(fd))
			if err != nil {
				return false, gone(pid, err)
			}
			if link != inotifyLink && link != fanotifyLink {
				return false, nil
			}
			inodes, err := watchedBy("self", copied)
			for _, w := range inodes {
				_, ferr := r.find(w)
				err = errors.Join(err, ferr)
			}
			return false, err
		})
		if err != nil && !errors.Is(err, ErrGone) {
			return nil, err
		}
	}
	list := make([]Watched, 0, len(r.known))
	for _, w := range r.known {
		list = append(list, w.Watched)
	}
	return list, nil
}

const inotifyLink = "anon_inode:inotify"

// watchedBy lists what an instance watches by inode.
func watchedBy(pid string, fd int) ([]watchedInode, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%s/fdinfo/%d", pid, fd))
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	var out []watchedInode
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if w, ok := parseWatched(lines.Text()); ok {
			out = append(out, w)
		}
	}
	return out, lines.Err()
}

// parseWatched reads a line of fdinfo (fs/notify/fdinfo.c): "inotify wd:1 ino:2 sdev:10002c
// mask:100 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:020000000de93b97", or
// "fanotify ino:2 sdev:...". Numbers are hexadecimal. Marks of mounts and file systems
// have no inode.
func parseWatched(line string) (watchedInode, bool) {
	var w watchedInode
	fields := strings.Fields(line)
	if len(fields) == 0 || fields[0] != "inotify" && fields[0] != "fanotify" {
		return w, false
	}
	for _, field := range fields[1:] {
		name, value, _ := strings.Cut(field, ":")
		number, err := strconv.ParseUint(value, 16, 64)
		switch name {
		case "ino":
			w.Inode = number
		case "sdev":
			w.Device = uint32(number)
		case "fhandle-type":
			w.kind = int32(number)
		case "f_handle":
			w.handle, err = hex.DecodeString(value)
		default:
			err = nil
		}
		if err != nil {
			return w, false
		}
	}
	return w, w.Inode != 0
}

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
	case fanotifyLink:
		p.watched.list = append(p.watched.list, watchedAt{pid, fd, "fanotify", false})
	case inotifyLink:
		keep, err := p.devices.lasting(pid, fd)
		p.watched.list = append(p.watched.list, watchedAt{pid, fd, "inotify", keep && err == nil && !p.copy})
	}
}

// judge refuses instances that watch what is nowhere to be found.
func (w *watched) judge(p *preflight) {
	r := finder{root: p.nested.root}
	if r.root == 0 {
		return // no app with namespaces of its own
	}
	defer r.close()
	for _, at := range w.list {
		inodes, err := watchedBy(strconv.Itoa(at.pid), at.fd)
		if err != nil {
			continue // closed meanwhile
		}
		for _, inode := range inodes {
			found, err := r.find(inode)
			needless := at.held && r.opens[key(inode.Watched)]
			if err == nil && !found && !needless {
				p.add(Error, at.pid, at.fd, unfoundWatch(at.kind, inode.Watched))
			}
		}
	}
}

func unfoundWatch(kind string, w Watched) Verdict {
	return refuse(Inotify, fmt.Sprintf("%s instance that watches inode %d of device %d:%d", kind, w.Inode, w.Device>>20, w.Device&(1<<20-1)),
		"it has no path in the app by which it could be found again, being deleted or moved away: the app must end this watch")
}
