// Package hostfile keeps files of the host that the processes of saved apps map or have
// open: programs, libraries, data. A package upgrade may replace or remove them while an
// app sleeps, and a snapshot lasts longer than any package.
//
// CRIU saves the name of such a file. At a restore it takes what has that name, if size, mode
// and build id are the same. So an upgrade would end a sleeping app, and a library of the same
// size without a build id would go unnoticed. The processes of a saved app get the very content
// that they had instead:
//
//	before the freeze  copy what processes map and have open; name those files that were
//	                   replaced since as external to CRIU
//	after the dump     files.img tells what is needed; keep what is new
//	restore            the host's file, if inode, ctime, size and mode are the same, in the
//	                   lower root and as the overlay shows it. Else the copy takes its place
//	next dump          such a copy is external to CRIU: file[mount:inode]
//
// A file is known by inode, ctime and size, so that there is nothing to do the second time.
//
// A copy is by reflink where the file system can. It is in a directory of its own, below the
// path that its app knows it by:
//
//	STATE/files/<id>/usr/lib/x86_64-linux-gnu/libc.so.6
//
// CRIU inherits the copy's descriptor, opened by a clone of a mount of that directory which is
// attached nowhere, see [Store.OpenFile], and opens the file again by that, with the saved flags
// and position. So /proc/PID/maps and /proc/PID/exe show the path that the program knows, all
// apps that have the file share one copy on the disk and in the page cache, and the app's root
// is left alone: what is started in the app afterwards finds the host's new files. Copies that
// were put into the app's overlay would hide upgrades from it for ever. The overlay also
// remembers that a file was missing or another one, so nothing is looked up through it that the
// lower root does not have.
//
// Below binds only programs and libraries are kept. All else there is as it is on the disk
// when the app comes back, see restore/bindfile.go. A file whose name was removed and that has
// another name gets one of CRIU's in the same directory, link_remap.N, for as long as the app
// sleeps; a copy of the app has it made again by the other name.
//
// As with package memory, manifests and records name the files that they need, what none
// of them names is swept, and what an operation has in its hands is pinned.
package hostfile

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/keep"
	"github.com/snapctl/snapctl/snapshot/memory"
)

// File is a file of the host as a saved app has it.
type File struct {
	Path string `json:"path"` // as the app knows it
	// Bind is where the app has the bind that the file is below, if it is below one.
	Bind string `json:"bind,omitempty"`
	// ID names the copy. It is empty if there is none, see [MaxCopyBytes].
	ID        memory.ID `json:"id,omitempty"`
	SHA256    memory.ID `json:"sha256"` // of the content
	SizeBytes int64     `json:"size_bytes"`
	Mode      uint32    `json:"mode"` // st_mode
	UID       uint32    `json:"uid"`
	GID       uint32    `json:"gid"`
	// Stamp is that of the host's own file, see [memory.Stamp]. It is empty if the
	// file is to be taken for another one in any case.
	Stamp string `json:"stamp,omitempty"`
	// StoreStamp is that of the copy.
	StoreStamp string `json:"store_stamp,omitempty"`
	// Own tells that it was copied for the app that was saved; others were kept before.
	Own bool `json:"own,omitempty"`
	// Name is CRIU's for a file that the processes have from the store already.
	Name string `json:"name,omitempty"`
}

// MaxCopyBytes is the size up to which a file is copied byte by byte. A larger one is
// kept only where the file system can share its bytes with the copy (FICLONE, as xfs and
// btrfs do). Of others only the digest is known: if such a file changes, the app can't be
// woken before it is put back.
const MaxCopyBytes = 1 << 30

var (
	// ErrDamaged is a copy that is missing, or is not what was kept.
	ErrDamaged = errors.New("kept file is damaged")
	// ErrChanging is a file that does not stay the same for long enough to be kept.
	ErrChanging = errors.New("file is being changed")
)

// Validate checks what comes from a manifest: that it leads nowhere else.
func (f *File) Validate() error {
	if !path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path || f.Path == "/" {
		return fmt.Errorf("kept file: path %q", f.Path)
	}
	if err := f.SHA256.Validate(); err != nil {
		return fmt.Errorf("kept file %s: %w", f.Path, err)
	}
	if f.ID != "" {
		if err := f.ID.Validate(); err != nil {
			return fmt.Errorf("kept file %s: %w", f.Path, err)
		}
	}
	return nil
}

// Same tells whether a file of the host is, by its inode, size, mode and change time, the
// one that was saved.
func (f *File) Same(st *unix.Stat_t) bool {
	return f.Stamp != "" && f.Stamp == memory.Stamp(st) && f.SizeBytes == st.Size && f.Mode == st.Mode
}

// id names the copy of a file: all apps that have the same content with the same
// attributes at the same path share it.
func (f *File) id() memory.ID {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%o\x00%d\x00%d\x00%s", f.SHA256, f.Mode, f.UID, f.GID, f.Path))
	return memory.ID(hex.EncodeToString(sum[:]))
}

// Store is a directory of kept files. Its methods may be called at the same time. One
// process has a store.
type Store struct {
	path string
	dir  *keep.Dir

	mu    sync.Mutex
	known map[source]File // what was kept of a file that has not changed since
}

// source tells a file in a state from all others.
type source struct {
	path, stamp string
	dev         uint64
	size        int64
	mode        uint32
}

// maxKnown bounds what is remembered.
const maxKnown = 10000

// Open opens the store in dir, which it makes. Nothing is swept yet.
func Open(dir string) (*Store, error) {
	d, err := keep.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open store of host files: %w", err)
	}
	return &Store{path: dir, dir: d, known: make(map[source]File)}, nil
}

// Path is where the copy of a file is.
func (s *Store) Path(f *File) string { return filepath.Join(s.dir.Path(string(f.ID)), f.Path) }

// Pin keeps copies from being swept until each is unpinned as often.
func (s *Store) Pin(files []File) {
	for i := range files {
		if files[i].ID != "" {
			s.dir.Pin(string(files[i].ID))
		}
	}
}

// Unpin is the inverse of Pin, and of the pinning by [Store.Keep].
func (s *Store) Unpin(files []File) {
	for i := range files {
		if files[i].ID != "" {
			s.dir.Unpin(string(files[i].ID))
		}
	}
}

// Sweep removes every copy that is neither pinned nor needed: see [keep.Dir.Sweep].
func (s *Store) Sweep(needed func() (map[memory.ID]bool, error)) (freed int64, err error) {
	return keep.Sweep(s.dir, needed)
}

// Check tells whether the copy of a file is what was kept. Returns an error wrapping
// [ErrDamaged] that names the file.
func (s *Store) Check(ctx context.Context, f *File, depth memory.Depth) error {
	if err := f.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if f.ID == "" {
		return nil
	}
	in, err := openRegular(s.Path(f), false)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, f.Path, err)
	}
	defer in.Close() //nolint:errcheck // only read from
	var st unix.Stat_t
	if err := unix.Fstat(int(in.Fd()), &st); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, f.Path, err)
	}
	if st.Size != f.SizeBytes || st.Mode != f.Mode {
		return fmt.Errorf("%w: %s: size or mode of its copy changed", ErrDamaged, f.Path)
	}
	if depth == memory.BySize || depth == memory.ByStamp && memory.Stamp(&st) == f.StoreStamp {
		return nil
	}
	sum, err := digest(ctx, in)
	if err != nil {
		return fmt.Errorf("read kept file %s: %w", f.Path, err)
	}
	if sum != f.SHA256 {
		return fmt.Errorf("%w: %s: the content of its copy changed", ErrDamaged, f.Path)
	}
	return nil
}

// Digest reads a file that is to be compared with a saved one.
func Digest(ctx context.Context, name string) (memory.ID, error) {
	f, err := openRegular(name, false)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // only read from
	return digest(ctx, f)
}

// openRegular opens a regular file for reading, and waits for nobody. It follows a link
// only if it is to be one.
func openRegular(name string, link bool) (*os.File, error) {
	flags := os.O_RDONLY | unix.O_NONBLOCK
	if !link {
		flags |= unix.O_NOFOLLOW
	}
	f, err := os.OpenFile(name, flags, 0)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("open %s: it is no regular file", name), err, f.Close())
	}
	return f, nil
}

// digest hashes a file from its beginning.
func digest(ctx context.Context, f *os.File) (memory.ID, error) {
	h := sha256.New()
	buf := make([]byte, 256<<10)
	for off := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := f.ReadAt(buf, off)
		h.Write(buf[:n])
		off += int64(n)
		if errors.Is(err, io.EOF) {
			return memory.ID(hex.EncodeToString(h.Sum(nil))), nil
		}
		if err != nil {
			return "", err
		}
	}
}

// trustworthy tells whether a file's change time tells it from what it becomes by a write
// that comes right now: the kernel takes it from a clock that ticks only each 4 to 10 ms
// (ktime_get_coarse_real_ts64), and some file systems store whole seconds.
func trustworthy(st *unix.Stat_t) bool {
	age := time.Since(time.Unix(st.Ctim.Unix()))
	if st.Ctim.Nsec == 0 {
		return age > 3*time.Second || age < 0
	}
	return age > 100*time.Millisecond
}
