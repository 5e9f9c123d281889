package hostfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/memory"
)

// Wanted is a file to be kept.
type Wanted struct {
	Path string // as the app knows it
	Bind string // as File.Bind
	// Source is where the file is. What is there may be replaced at any moment.
	Source string
	// Stampless says that Source is no file that can be compared with later.
	Stampless bool
	link      bool // Source is one of the links in /proc/PID
}

// Keep copies a file into the store, unless it is there, and pins it. The content is that
// which Source had at one moment.
//
// Cost: for a file that was kept before and has not changed since, two system calls; else
// to read it, a SHA-256, and to write it to the disk if the file system can't share bytes.
// If the file is too large for that, see [MaxCopyBytes], the answer has no ID. It is marked
// as own if there was no copy before.
func (s *Store) Keep(ctx context.Context, w Wanted) (File, error) {
	const tries = 5
	for try := 1; ; try++ {
		f, err := s.keep(ctx, w)
		if errors.Is(err, ErrChanging) && try < tries {
			continue
		}
		if err != nil {
			return File{}, fmt.Errorf("keep %s: %w", w.Path, err)
		}
		return f, nil
	}
}

func (s *Store) keep(ctx context.Context, w Wanted) (File, error) {
	in, err := openRegular(w.Source, w.link)
	if err != nil {
		return File{}, err
	}
	defer in.Close() //nolint:errcheck // only read from
	var st unix.Stat_t
	if err := unix.Fstat(int(in.Fd()), &st); err != nil {
		return File{}, err
	}
	f := File{Path: w.Path, Bind: w.Bind, SizeBytes: st.Size, Mode: st.Mode, UID: st.Uid, GID: st.Gid}
	trusted := trustworthy(&st)
	if trusted && !w.Stampless {
		f.Stamp = memory.Stamp(&st)
	}
	key := source{path: w.Path, stamp: memory.Stamp(&st), dev: st.Dev, size: st.Size, mode: st.Mode}
	if trusted {
		if known, ok := s.recall(key); ok {
			known.Stamp, known.Bind = f.Stamp, f.Bind
			return known, nil
		}
	}
	if f.SHA256, err = digest(ctx, in); err != nil {
		return File{}, err
	}
	f.ID = f.id()
	s.dir.Pin(string(f.ID)) // it may be there already, and nobody's
	err = s.copy(ctx, in, &f, &st)
	if errors.Is(err, errTooLarge) {
		s.dir.Unpin(string(f.ID))
		f.ID, err = "", nil
	} else if err != nil {
		s.dir.Unpin(string(f.ID))
	}
	if err != nil {
		return File{}, err
	}
	if trusted {
		known := f
		known.Own = false
		s.remember(key, known)
	}
	return f, nil
}

// recall returns, pinned, what is known to be kept.
func (s *Store) recall(key source) (File, bool) {
	s.mu.Lock()
	f, ok := s.known[key]
	s.mu.Unlock()
	if !ok || f.ID == "" {
		return f, ok
	}
	s.dir.Pin(string(f.ID))
	var st unix.Stat_t
	if err := unix.Lstat(s.Path(&f), &st); err != nil || memory.Stamp(&st) != f.StoreStamp {
		s.dir.Unpin(string(f.ID)) // it was swept
		return File{}, false
	}
	return f, true
}

func (s *Store) remember(key source, f File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.known) >= maxKnown {
		clear(s.known)
	}
	s.known[key] = f
}

// errTooLarge is a file of which there is to be no copy.
var errTooLarge = errors.New("too large to be copied")

// copy makes the copy of a file that has been read, if there is none, and completes f.
func (s *Store) copy(ctx context.Context, in *os.File, f *File, st *unix.Stat_t) error {
	return s.install(ctx, f, func(to string) error { return s.fill(ctx, in, to, f, st) })
}

// install has fill make the copy of a file at a path, whose directory is there, and bring it to the
// disk, unless the store has the copy. It completes f.
func (s *Store) install(ctx context.Context, f *File, fill func(to string) error) error {
	if err := s.Check(ctx, f, memory.ByDigest); err == nil {
		return s.stamp(f)
	}
	tmp, done := s.dir.Temporary()
	defer done() //nolint:errcheck // it has been renamed, or is swept
	made := filepath.Join(tmp, f.Path)
	if err := os.MkdirAll(filepath.Dir(made), 0o755); err != nil {
		return fmt.Errorf("make copy: %w", err)
	}
	if err := fill(made); err != nil {
		return err
	}
	if err := syncUp(filepath.Dir(made), s.path); err != nil {
		return err
	}
	// What is there is either damaged, or was put there just now by somebody else, who
	// may have it in use: the exchange keeps it until nobody has.
	target := s.dir.Path(string(f.ID))
	err := unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, target, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) {
		if err = s.Check(ctx, f, memory.ByDigest); err == nil {
			return s.stamp(f)
		}
		err = unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, target, unix.RENAME_EXCHANGE)
	}
	if err != nil {
		return fmt.Errorf("name copy: %w", err)
	}
	if err := syncDir(s.path); err != nil {
		return err
	}
	f.Own = true
	return s.stamp(f)
}

func (s *Store) stamp(f *File) error {
	var st unix.Stat_t
	if err := unix.Lstat(s.Path(f), &st); err != nil {
		return fmt.Errorf("look at copy: %w", err)
	}
	f.StoreStamp = memory.Stamp(&st)
	return nil
}

// fill writes the copy at a path, and makes sure that it has the content that was read.
func (s *Store) fill(ctx context.Context, in *os.File, to string, f *File, st *unix.Stat_t) error {
	out, err := os.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("make copy: %w", err)
	}
	defer out.Close() //nolint:errcheck // synced below
	if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) != nil {
		if st.Size > MaxCopyBytes {
			return errTooLarge
		}
		if _, err := io.Copy(out, io.NewSectionReader(in, 0, st.Size+1)); err != nil {
			return fmt.Errorf("make copy: %w", err)
		}
	}
	sum, err := digest(ctx, out)
	if err != nil {
		return err
	}
	if sum != f.SHA256 {
		return ErrChanging
	}
	return finish(out, to, f, st.Atim, st.Mtim)
}

// finish gives a copy its attributes, and brings it to the disk.
func finish(out *os.File, path string, f *File, accessed, modified unix.Timespec) error {
	// A change of owner takes set-id bits away: the mode comes after it.
	if err := out.Chown(int(f.UID), int(f.GID)); err != nil {
		return err
	}
	if err := unix.Fchmod(int(out.Fd()), f.Mode&0o7777); err != nil {
		return fmt.Errorf("make copy: %w", err)
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{accessed, modified}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("make copy: %w", err)
	}
	return out.Sync()
}

// syncUp brings directories to the disk, from dir up to one below top.
func syncUp(dir, top string) error {
	for ; dir != top; dir = filepath.Dir(dir) {
		if err := syncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
