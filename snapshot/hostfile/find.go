package hostfile

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/image/openfile"
)

// Place is the root directory of an app: an overlay over a directory of the host.
type Place struct {
	Root  string   // the mounted overlay
	Lower string   // the host's directory
	Own   []string // the directories of the app's own files, which lie over Lower
	// Binds are the host's directories and files that are mounted inside the app, by
	// where they are mounted.
	Binds map[string]string
}

// wanted says how to keep the file that an app has at a path. It returns false if that is
// the app's own, or no regular file.
//
// The content is always that which the app has: the overlay keeps what it has found in
// the lower directory for as long as a process has it open, whatever is done there.
func (p Place) wanted(name string) (Wanted, bool, error) {
	if own, err := p.own(name); err != nil || own {
		return Wanted{}, false, err
	}
	var seen unix.Stat_t
	if err := unix.Lstat(filepath.Join(p.Root, name), &seen); err != nil {
		if isMissing(err) {
			return Wanted{}, false, nil // it is elsewhere, on another mount
		}
		return Wanted{}, false, fmt.Errorf("look at %s: %w", name, err)
	}
	if seen.Mode&unix.S_IFMT != unix.S_IFREG {
		return Wanted{}, false, nil
	}
	lower, err := statBelow(p.Lower, name)
	if err == nil && alike(&seen, &lower) {
		return Wanted{Path: name, Source: filepath.Join(p.Lower, name)}, true, nil
	}
	return Wanted{Path: name, Source: filepath.Join(p.Root, name), Stampless: true}, true, nil
}

// own tells whether a file's data is the app's own. If an app with storage layers has changed
// only the metadata of a file, the file is its own, and the data is still the host's
// (Documentation/filesystems/overlayfs.rst, "metadata only copy up").
func (p Place) own(name string) (bool, error) {
	for _, dir := range p.Own {
		at := filepath.Join(dir, name)
		var st unix.Stat_t
		err := unix.Lstat(at, &st)
		if isMissing(err) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("look at %s: %w", name, err)
		}
		if _, err := unix.Lgetxattr(at, "trusted.overlay.metacopy", nil); err != nil {
			return true, nil //nolint:nilerr // it has data: ENODATA, or no such attributes there
		}
	}
	return false, nil
}

// Changed tells whether a process that opens a saved file now would find another file than
// the saved one. It looks in the host's directory and, if that is mounted, in the overlay: the
// overlay may remember that the file was missing, or was another one.
func (p Place) Changed(f *File) bool {
	st, err := p.stat(f)
	if err != nil || !f.Same(&st) {
		return true
	}
	return f.Bind == "" && p.mounted() && !p.shows(f.Path, &st)
}

// Restored tells whether the host has the very content and mode of a saved file again,
// though not the file itself, and the overlay shows it.
func (p Place) Restored(ctx context.Context, f *File) (bool, error) {
	if !p.Similar(f) {
		return false, nil
	}
	sum, err := Digest(ctx, p.onHost(f))
	if err != nil {
		return false, fmt.Errorf("look at %s: %w", f.Path, err)
	}
	return sum == f.SHA256, nil
}

// Similar tells whether the host has a file of the size and mode of a saved one, and the
// overlay shows it: only its content tells whether it is the same.
func (p Place) Similar(f *File) bool {
	st, err := p.stat(f)
	return err == nil && st.Size == f.SizeBytes && st.Mode == f.Mode && (f.Bind != "" || !p.mounted() || p.shows(f.Path, &st))
}

// stat looks at the host's own file.
func (p Place) stat(f *File) (unix.Stat_t, error) {
	if f.Bind == "" {
		return statBelow(p.Lower, f.Path)
	}
	rest := strings.TrimPrefix(f.Path, f.Bind)
	if rest == "" {
		var st unix.Stat_t
		return st, unix.Stat(p.Binds[f.Bind], &st)
	}
	return statBelow(p.Binds[f.Bind], rest)
}

// onHost is where the host's own file is.
func (p Place) onHost(f *File) string {
	if f.Bind == "" {
		return filepath.Join(p.Lower, f.Path)
	}
	return filepath.Join(p.Binds[f.Bind], strings.TrimPrefix(f.Path, f.Bind))
}

// bind is the bind that a path of the app's is below.
func (p Place) bind(name string) (inside string, ok bool) {
	for dir := name; ; dir = path.Dir(dir) {
		if _, ok := p.Binds[dir]; ok {
			return dir, true
		}
		if dir == "/" || dir == "." {
			return "", false
		}
	}
}

// bound says how to keep a program or library below a bind.
func (p Place) bound(name, inside string) Wanted {
	f := File{Path: name, Bind: inside}
	return Wanted{Path: name, Bind: inside, Source: p.onHost(&f)}
}

// shows tells whether the overlay has at a path what the host has.
func (p Place) shows(name string, lower *unix.Stat_t) bool {
	var seen unix.Stat_t
	return unix.Lstat(filepath.Join(p.Root, name), &seen) == nil && alike(&seen, lower)
}

// mounted tells whether the overlay is mounted. If it is not, it can't remember anything.
func (p Place) mounted() bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, p.Root, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &st)
	return err == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// alike tells whether what an overlay shows is a lower file. The overlay may use the upper
// bits of the inode number (Documentation/filesystems/overlayfs.rst, "inode properties").
// The number is needed: a rename sets the ctime of the file that it replaces, too.
func alike(seen, lower *unix.Stat_t) bool {
	return seen.Ino&inoBits == lower.Ino&inoBits && seen.Ctim == lower.Ctim && seen.Size == lower.Size && seen.Mode == lower.Mode
}

// statBelow looks at a path below a directory that has no links in it.
func statBelow(dir, name string) (st unix.Stat_t, err error) {
	top, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return st, err
	}
	defer unix.Close(top) //nolint:errcheck // only looked at
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS}
	fd, err := unix.Openat2(top, name, how)
	if err != nil {
		return st, err
	}
	defer unix.Close(fd) //nolint:errcheck // only looked at
	return st, unix.Fstat(fd, &st)
}

// inoBits are those of an inode number that an overlay leaves alone.
const inoBits = 1<<48 - 1

func isMissing(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)
}

// KeepSaved keeps the files of the host that the dump in a directory needs, while the app
// that was saved is still frozen, and pins them. files are those of the dump; have are
// those that the processes have from the store already, by CRIU's names for them.
func (s *Store) KeepSaved(ctx context.Context, images string, files []openfile.Saved, p Place, have map[string]File) (_ []File, err error) {
	mounts, err := openfile.ReadMounts(images)
	if err != nil {
		return nil, err
	}
	root := openfile.RootMount(mounts)
	binds := make(map[int]string)
	for _, m := range mounts {
		if _, ok := p.Binds[m.Mountpoint]; ok && m.External != "" {
			binds[m.ID] = m.Mountpoint
		}
	}
	mapped := make(map[uint32]openfile.Mapped)
	if len(binds) > 0 {
		if mapped, err = openfile.ReadMapped(ctx, images); err != nil {
			return nil, err
		}
	}
	var kept []File
	defer func() {
		if err != nil {
			s.Unpin(kept)
		}
	}()
	seen := make(map[string]bool)
	for _, f := range files {
		inside, bound := binds[f.Mount]
		if seen[f.Name] || f.Removed || f.Mode&unix.S_IFMT != unix.S_IFREG || bound && !f.External && !mapped[f.ID].Code {
			continue
		}
		seen[f.Name] = true
		if f.External {
			if file, ok := have[f.Name]; ok {
				file.Name = f.Name
				s.Pin([]File{file})
				kept = append(kept, file)
			}
			continue
		}
		w, ok := Wanted{}, false
		switch {
		case bound:
			w, ok = p.bound(path.Clean(f.Name), inside), true
		case f.Mount == root:
			if w, ok, err = p.wanted(path.Clean(f.Name)); err != nil {
				return nil, err
			}
		}
		if !ok {
			continue
		}
		file, err := s.Keep(ctx, w)
		if err != nil {
			return nil, err
		}
		if bound && file.ID == "" {
			continue // CRIU looks at its size and build id
		}
		kept = append(kept, file)
	}
	return kept, nil
}
