package fsnotify

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

	"github.com/snapctl/snapctl/vem/hold/proc"
)

// Watched is an inode that inotify or fanotify instances of an app watch. CRIU needs its
// path, and can't find it on an overlay but by a search of seconds (irmap.c).
type Watched struct {
	// Device is the kernel's own number of the file system, as in /proc/PID/fdinfo/FD.
	Device uint32
	Inode  uint64
	Path   string // as the app's first process sees it
}

// Mark is one watch of an instance on an inode, as its fdinfo tells.
type Mark struct {
	Watched
	kind   int32 // of the file handle
	handle []byte
}

// FindWatched lists what the instances of an app watch, each inode once, as far as it has
// a path; root is the app's first process.
//
// Cost: 2 us a descriptor, and some 30 us for each inode that is watched.
func FindWatched(ctx context.Context, pids []int, root int) ([]Watched, error) {
	r := NewFinder(root)
	defer r.Close()
	for _, pid := range pids {
		err := proc.Duplicate(ctx, pid, func(fd, copied int, at proc.Attributes) (bool, error) {
			if at.Mode&unix.S_IFMT != 0 {
				return false, nil
			}
			link, err := os.Readlink(proc.FDPath(pid, fd))
			if err != nil {
				return false, proc.Gone(pid, err)
			}
			if link != InotifyLink && link != FanotifyLink {
				return false, nil
			}
			inodes, err := Marks("self", copied)
			for _, w := range inodes {
				_, ferr := r.Find(w)
				err = errors.Join(err, ferr)
			}
			return false, err
		})
		if err != nil && !errors.Is(err, proc.ErrGone) {
			return nil, err
		}
	}
	list := make([]Watched, 0, len(r.known))
	for _, w := range r.known {
		list = append(list, w.Watched)
	}
	return list, nil
}

// Marks lists what an instance watches by inode: the descriptor fd of the process pid, or of
// "self".
func Marks(pid string, fd int) ([]Mark, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%s/fdinfo/%d", pid, fd))
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	var out []Mark
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if w, ok := parseMark(lines.Text()); ok {
			out = append(out, w)
		}
	}
	return out, lines.Err()
}

// parseMark reads a line of fdinfo (fs/notify/fdinfo.c): "inotify wd:1 ino:2 sdev:10002c
// mask:100 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:020000000de93b97", or
// "fanotify ino:2 sdev:...". Numbers are hexadecimal. Marks of mounts and file systems
// have no inode.
func parseMark(line string) (Mark, bool) {
	var w Mark
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
