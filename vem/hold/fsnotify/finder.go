package fsnotify

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold/proc"
)

// Finder finds the paths of watched inodes in an app, and remembers them.
type Finder struct {
	root   int // a process
	mounts []appMount
	known  map[watchedKey]Mark
	none   map[watchedKey]bool
	opens  map[watchedKey]bool // by handle, on another file system than a tmpfs
	top    int                 // the process's root directory, if mounts is not nil
}

// NewFinder makes a finder for the app whose first process is root. The caller closes it.
func NewFinder(root int) *Finder { return &Finder{root: root} }

// OpensByHandle tells whether the file system of an inode that was found opens it by its
// handle, so that CRIU needs no path.
func (r *Finder) OpensByHandle(w Mark) bool { return r.opens[key(w.Watched)] }

type watchedKey struct {
	device uint32
	inode  uint64
}

func key(w Watched) watchedKey { return watchedKey{w.Device, w.Inode} }

// appMount is a mount that a process sees.
type appMount struct {
	device uint32
	point  string
	kind   string   // of the file system
	layers []string // of an overlay, on the host, the upper one first
}

// Close forgets what was found. Closing again does nothing.
func (r *Finder) Close() {
	if r.mounts != nil {
		unix.Close(r.top) //nolint:errcheck // a handle
	}
	r.mounts = nil
}

// Find looks for the path of an inode. A place that is found is proved to have the very
// same inode.
func (r *Finder) Find(w Mark) (bool, error) {
	if r.none[key(w.Watched)] {
		return false, nil
	}
	if _, ok := r.known[key(w.Watched)]; ok {
		return true, nil
	}
	if r.mounts == nil {
		if err := r.open(); err != nil {
			return false, err
		}
	}
	for _, m := range r.mounts {
		if m.device != w.Device {
			continue
		}
		for _, candidate := range r.candidates(m, w) {
			if r.proves(m, candidate, w) {
				w.Path = candidate
				r.known[key(w.Watched)] = w
				return true, nil
			}
		}
	}
	for _, m := range r.mounts {
		if m.device == w.Device {
			if place, ok := r.search(m, w); ok {
				w.Path = place
				r.known[key(w.Watched)] = w
				return true, nil
			}
		}
	}
	r.none[key(w.Watched)] = true
	return false, nil
}

// open reads the mounts of the process.
func (r *Finder) open() error {
	top, err := unix.Open(fmt.Sprintf("/proc/%d/root", r.root), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return proc.Gone(r.root, err)
	}
	list, err := proc.Mounts(r.root)
	if err != nil {
		return errors.Join(err, unix.Close(top))
	}
	r.known, r.none, r.opens = map[watchedKey]Mark{}, map[watchedKey]bool{}, map[watchedKey]bool{}
	r.top, r.mounts = top, make([]appMount, len(list))
	for i, m := range list {
		r.mounts[i] = newAppMount(m)
	}
	return nil
}

func newAppMount(m *mountinfo.Info) appMount {
	a := appMount{
		device: uint32(m.Major)<<20 | uint32(m.Minor), //nolint:gosec // as in include/linux/kdev_t.h
		point:  m.Mountpoint, kind: m.FSType,
	}
	if m.FSType == "overlay" {
		a.layers = overlayLayers(m.VFSOptions)
	}
	return a
}

// overlayLayers reads an overlay's directories from its options: "lowerdir=a:b,upperdir=c",
// or "lowerdir+=a,lowerdir+=b" from Linux 6.8 on.
func overlayLayers(options string) []string {
	var upper, lower []string
	for option := range strings.SplitSeq(options, ",") {
		name, value, _ := strings.Cut(option, "=")
		value = unescape(value)
		switch name {
		case "upperdir":
			upper = append(upper, value)
		case "lowerdir":
			for dir := range strings.SplitSeq(value, ":") {
				if dir != "" { // before a layer of data only
					lower = append(lower, dir)
				}
			}
		case "lowerdir+", "datadir+":
			lower = append(lower, value)
		}
	}
	return append(upper, lower...)
}

// unescape undoes what the kernel does to a space and the like in an option
// (fs/seq_file.c, mangle_path).
func unescape(text string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(text)
}

// candidates asks the file systems where an inode is: that of the mount itself, or those
// of an overlay's layers.
func (r *Finder) candidates(m appMount, w Mark) []string {
	var out []string
	if m.layers == nil {
		if dir, err := r.openAt(m.point); err == nil {
			if place, ok := placeOf(dir, w.kind, w.handle); ok {
				out = append(out, place)
				// A tmpfs has to have a path for CRIU (fsnotify.c, check_open_handle).
				r.opens[key(w.Watched)] = r.opens[key(w.Watched)] || m.kind != "tmpfs" && m.kind != "devtmpfs"
			}
			unix.Close(dir) //nolint:errcheck // a handle
		}
		return out
	}
	kind, handle, ok := realHandle(w.handle)
	if !ok {
		return nil
	}
	for _, layer := range m.layers {
		dir, err := unix.Open(layer, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		place, ok := placeOf(dir, kind, handle)
		unix.Close(dir) //nolint:errcheck // a handle
		base, err := filepath.EvalSymlinks(layer)
		if !ok || err != nil {
			continue
		}
		if rest, below := strings.CutPrefix(place, strings.TrimSuffix(base, "/")); below && (rest == "" || rest[0] == '/') {
			out = append(out, path.Join(m.point, rest))
		}
	}
	return out
}

// realHandle takes the handle in a layer out of an overlay's (struct ovl_fh in
// fs/overlayfs/overlayfs.h): 3 bytes of padding, version, magic, length, flags, type, 16
// bytes that name the file system, and the handle.
func realHandle(b []byte) (kind int32, handle []byte, ok bool) {
	const head = 3 + 5 + 16
	if len(b) <= head || b[4] != 0xfb {
		return 0, nil, false
	}
	size := min(len(b), 3+int(b[5]))
	if size <= head {
		return 0, nil, false
	}
	return int32(b[7]), b[head:size], true
}

// placeOf opens a handle and asks the kernel for its path. A file that nobody has used
// for long may have none.
func placeOf(dir int, kind int32, handle []byte) (string, bool) {
	fd, err := unix.OpenByHandleAt(dir, unix.NewFileHandle(kind, handle), unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return "", false
	}
	defer unix.Close(fd) //nolint:errcheck // a handle
	place, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	return place, err == nil && strings.HasPrefix(place, "/")
}

// openAt opens a path of the app.
func (r *Finder) openAt(place string) (int, error) {
	return unix.Openat2(r.top, place, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
}

// proves tells whether a path leads to an inode, and CRIU will see that too: it compares
// what stat(2) says of an overlay's file with the inode that is watched (irmap.c,
// irmap_revalidate).
func (r *Finder) proves(m appMount, place string, w Mark) bool {
	fd, err := r.openAt(place)
	if err != nil {
		return false
	}
	defer unix.Close(fd) //nolint:errcheck // a handle
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Ino != w.Inode {
		return false
	}
	if m.layers != nil {
		return unix.Major(st.Dev) == w.Device>>20 && unix.Minor(st.Dev) == w.Device&(1<<20-1)
	}
	have, _, err := unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH)
	return err != nil || have.Type() == w.kind && bytes.Equal(have.Bytes(), w.handle)
}

// searchTime bounds a search of one file system.
const searchTime = 2 * time.Second

// likely are the directories that are searched first.
var likely = []string{"/etc", "/run", "/tmp", "/srv", "/app", "/opt", "/home", "/root", "/var/lib", "/var/log", "/var/www", "/var/tmp", "/usr/local"}

// search looks at every file of a mount, where asking was of no use: with kernels before
// 6.6 an overlay has no handle that tells.
func (r *Finder) search(m appMount, w Mark) (place string, ok bool) {
	base := fmt.Sprintf("/proc/%d/root", r.root)
	deadline := time.Now().Add(searchTime)
	for _, dir := range slices.Concat(likely, []string{m.point}) {
		if !proc.Below(dir, []string{m.point}) {
			continue
		}
		_ = filepath.WalkDir(base+dir, func(name string, d fs.DirEntry, err error) error { // what can't be read has no watch that is found
			switch {
			case err != nil:
				return fs.SkipDir
			case time.Now().After(deadline):
				return fs.SkipAll
			}
			var st unix.Stat_t
			if unix.Lstat(name, &st) != nil {
				return nil //nolint:nilerr // what is gone meanwhile is not it
			}
			mine := unix.Major(st.Dev) == m.device>>20 && unix.Minor(st.Dev) == m.device&(1<<20-1)
			inside := path.Clean("/" + strings.TrimPrefix(name, base))
			if st.Ino == w.Inode && r.proves(m, inside, w) {
				place, ok = inside, true
				return fs.SkipAll
			}
			if d.IsDir() && !mine {
				return fs.SkipDir
			}
			return nil
		})
		if ok {
			return place, true
		}
	}
	return "", false
}
