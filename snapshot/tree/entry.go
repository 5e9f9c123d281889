package tree

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Entry is a file of a tree as it is on every host: all that [Maker] copies of it, but for the bytes
// of a regular file, of which it has the digest.
type Entry struct {
	Path []byte `json:"path"` // slash-separated, relative to the tree; "." is the tree itself
	Mode uint32 `json:"mode"` // st_mode
	// Other is the path of an earlier entry, which is the same file (a hard link). Such an entry has
	// nothing else but a path and a mode.
	Other  []byte `json:"other,omitempty"`
	UID    uint32 `json:"uid,omitempty"`
	GID    uint32 `json:"gid,omitempty"`
	Device uint64 `json:"device,omitempty"` // st_rdev of a device node
	// Modified is st_mtim.
	Seconds     int64  `json:"mtime_s"`
	Nanoseconds int64  `json:"mtime_ns"`
	SizeBytes   int64  `json:"size_bytes,omitempty"` // of a regular file
	SHA256      string `json:"sha256,omitempty"`     // as in [File]
	Target      []byte `json:"target,omitempty"`     // of a symbolic link
	Content
}

// Content is what an entry has in extended attributes: its marks, see [Marks], and its own.
type Content struct {
	Opaque       bool              `json:"opaque,omitempty"`
	MetadataOnly bool              `json:"metadata_only,omitempty"`
	Redirect     []byte            `json:"redirect,omitempty"`
	Attributes   map[string][]byte `json:"attributes,omitempty"`
}

// marks are those of the entry.
func (e *Entry) marks() Marks {
	return Marks{Opaque: e.Opaque, MetadataOnly: e.MetadataOnly, Redirect: string(e.Redirect)}
}

// File describes the file of an entry, which is no link to another one, as it is to be. It has no stamp of
// this host's.
func (e *Entry) File() File {
	f := File{Path: string(e.Path), Mode: e.Mode, Type: "other", SizeBytes: e.SizeBytes, SHA256: e.SHA256, Marks: e.marks(), Stamp: "foreign"}
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		f.Type = "file"
	case unix.S_IFDIR:
		f.Type = "dir"
	case unix.S_IFLNK:
		f.Type = "symlink"
	}
	return f
}

// Bounds of an [Entry].
const (
	maxPath       = unix.PathMax
	maxAttributes = 1024
	maxAttribute  = 64 << 10 // XATTR_SIZE_MAX, include/uapi/linux/limits.h
	maxName       = 255      // XATTR_NAME_MAX
)

// HasData tells whether the entry is a regular file with bytes of its own.
func (e *Entry) HasData() bool {
	return e.Mode&unix.S_IFMT == unix.S_IFREG && !e.MetadataOnly && e.Other == nil && e.SizeBytes > 0
}

// Validate checks that an entry of another host describes a file within its tree.
func (e *Entry) Validate() error {
	bad := func(what string) error { return fmt.Errorf("%w: %q: %s", ErrDamaged, e.Path, what) }
	switch {
	case !local(e.Path) || e.Other != nil && (!local(e.Other) || string(e.Other) == "."):
		return bad("its path leads out of its tree")
	case string(e.Path) == "." && e.Mode&unix.S_IFMT != unix.S_IFDIR:
		return bad("the tree is no directory")
	case e.SizeBytes < 0 || e.SizeBytes > 0 && e.Mode&unix.S_IFMT != unix.S_IFREG:
		return bad("its size makes no sense")
	case e.Nanoseconds < 0 || e.Nanoseconds >= 1e9:
		return bad("its time makes no sense")
	case len(e.Target) >= maxPath || (len(e.Target) > 0) != (e.Mode&unix.S_IFMT == unix.S_IFLNK && e.Other == nil):
		return bad("the target of a link makes no sense")
	case e.Device > math.MaxUint32: // new_encode_dev, include/linux/kdev_t.h
		return bad("its device makes no sense")
	case len(e.Redirect) >= maxPath:
		return bad("its redirect makes no sense")
	case len(e.Attributes) > maxAttributes:
		return bad("it has too many attributes")
	}
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFLNK, unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO, unix.S_IFSOCK:
	case unix.S_IFDIR:
		if e.Other != nil {
			return bad("a directory has one name")
		}
	default:
		return bad("its type is unknown")
	}
	for name, value := range e.Attributes {
		if name == "" || len(name) > maxName || len(value) > maxAttribute || strings.ContainsRune(name, 0) || !own(name) {
			return bad("it has an attribute that it can't have")
		}
	}
	return nil
}

// local tells whether a path is one within a tree.
func local(p []byte) bool {
	s := string(p)
	return len(s) < maxPath && filepath.IsLocal(s) && path.Clean(s) == s && !strings.ContainsRune(s, 0)
}

// Entries reads a tree, file by file: its directory, and then those that a description of it lists,
// which is in the order of [Describe]. yield may read the bytes of each. The digests are those of the
// description: whether they are still right the receiver finds out.
func Entries(dir string, files []File, yield func(e *Entry) error) error {
	seen := make(map[inode]string)
	if err := readEntry(dir, &File{Path: "."}, seen, yield); err != nil {
		return err
	}
	for i := range files {
		if err := readEntry(dir, &files[i], seen, yield); err != nil {
			return err
		}
	}
	return nil
}

func readEntry(dir string, f *File, seen map[inode]string, yield func(e *Entry) error) error {
	name := filepath.Join(dir, f.Path)
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	e := &Entry{Path: []byte(f.Path), Mode: st.Mode}
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if first, ok := seen[inode{st.Dev, st.Ino}]; ok {
			e.Other = []byte(first)
			return yield(e)
		}
		seen[inode{st.Dev, st.Ino}] = f.Path
	}
	e.UID, e.GID, e.Seconds, e.Nanoseconds = st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.SizeBytes, e.SHA256 = st.Size, f.SHA256
	case unix.S_IFLNK:
		target, err := os.Readlink(name)
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		e.Target, e.SHA256 = []byte(target), f.SHA256
	case unix.S_IFCHR, unix.S_IFBLK:
		e.Device = st.Rdev
	}
	m, err := ReadMarks(name)
	if err != nil {
		return err
	}
	e.Opaque, e.MetadataOnly, e.Redirect = m.Opaque, m.MetadataOnly, []byte(m.Redirect)
	if e.Attributes, err = ownAttributes(name); err != nil {
		return err
	}
	return yield(e)
}

// Write writes an entry in the one form that it has: trees are the same if what is written of them is.
func (e *Entry) Write(w io.Writer) error {
	b, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("describe %s: %w", e.Path, err)
	}
	_, err = w.Write(append(b, '\n'))
	return err
}
