// Package memory keeps the memory files of snapshots: immutable files that the
// processes of many restored apps map at the same time, copy on write.
//
// A file is named by the SHA-256 of its content and is never changed. Snapshots
// name the files that they need in their manifests, apps those that their
// processes map in their records: that is the only register there is. What none of
// them names [Store.Sweep] removes; what an operation has in its hands and none of
// them names yet it has pinned.
//
//	dump --Adopt--> pinned --manifest or record written, Unpin--> kept --Sweep--> gone
//
// A file that goes away while a process maps it stays with the process, but the
// process can't be saved any more: so a record names it before it is mapped.
package memory

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// ID names a memory file: the SHA-256 of its content, in hexadecimal.
type ID string

// Validate checks that an ID is one, and so no path that leads elsewhere.
func (id ID) Validate() error {
	if b, err := hex.DecodeString(string(id)); err != nil || len(b) != sha256.Size || strings.ToLower(string(id)) != string(id) {
		return fmt.Errorf("memory file %q: %w", id, ErrID)
	}
	return nil
}

var (
	// ErrID is a text that names no memory file.
	ErrID = errors.New("not the name of a memory file")
	// ErrDamaged is a memory file that is missing, or is not what its name says.
	ErrDamaged = errors.New("memory file is damaged")
)

// File is a memory file as somebody who needs it has noted it down.
type File struct {
	ID        ID     `json:"sha256"`
	SizeBytes int64  `json:"size_bytes"`
	Stamp     string `json:"stamp"` // as snapshot.File.Stamp
}

// Store is a directory of memory files. Its methods may be called at the same
// time. One process has a store.
type Store struct {
	dir string

	mu   sync.Mutex // also keeps Sweep and Adopt apart
	pins map[ID]int
}

// Open opens the store in dir, which it makes. Nothing is swept yet.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open memory store: %w", err)
	}
	return &Store{dir: dir, pins: make(map[ID]int)}, nil
}

// Path is where a memory file is.
func (s *Store) Path(id ID) string { return filepath.Join(s.dir, string(id)) }

// Adopt moves a file, which must be on the store's file system and which nobody
// changes any more, into the store, brings it to the disk and pins it. A file of
// the same content that is there already takes its place.
//
// Cost: that of reading the file and of a SHA-256.
func (s *Store) Adopt(ctx context.Context, path string) (_ File, err error) {
	in, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return File{}, fmt.Errorf("adopt memory file: %w", err)
	}
	defer in.Close() //nolint:errcheck // only read from
	id, err := hash(ctx, in)
	if err != nil {
		return File{}, fmt.Errorf("adopt memory file: %w", err)
	}
	if err := in.Sync(); err != nil {
		return File{}, fmt.Errorf("adopt memory file: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch err := unix.Renameat2(unix.AT_FDCWD, path, unix.AT_FDCWD, s.Path(id), unix.RENAME_NOREPLACE); {
	case errors.Is(err, unix.EEXIST):
		if err := s.settle(ctx, path, id); err != nil {
			return File{}, fmt.Errorf("adopt memory file: %w", err)
		}
	case err != nil:
		return File{}, fmt.Errorf("adopt memory file: %w", err)
	default:
		if err := errors.Join(os.Chmod(s.Path(id), 0o400), syncDir(s.dir)); err != nil {
			return File{}, fmt.Errorf("adopt memory file: %w", err)
		}
	}
	f, err := s.describe(id)
	if err != nil {
		return File{}, err
	}
	s.pins[id]++
	return f, nil
}

// settle removes path if the store has its content, and puts it into the place of
// a file that only has its name.
func (s *Store) settle(ctx context.Context, path string, id ID) error {
	f, err := s.OpenFile(id)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read from
	if got, err := hash(ctx, f); err == nil && got == id {
		return os.Remove(path)
	}
	return errors.Join(os.Rename(path, s.Path(id)), os.Chmod(s.Path(id), 0o400), syncDir(s.dir))
}

// Pin keeps files from being swept until each is unpinned as often.
func (s *Store) Pin(files []File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range files {
		s.pins[f.ID]++
	}
}

// Unpin is the inverse of Pin, and of the pinning by Adopt.
func (s *Store) Unpin(files []File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range files {
		if s.pins[f.ID]--; s.pins[f.ID] <= 0 {
			delete(s.pins, f.ID)
		}
	}
}

// Depth says how thoroughly [Store.Check] looks.
type Depth int

const (
	// ByStamp trusts a file whose size and stamp are as noted: neither has
	// changed since. A file with another stamp is read.
	ByStamp Depth = iota
	// ByDigest reads every byte.
	ByDigest
)

// Check tells whether a memory file is what its name says. Returns an error
// wrapping [ErrDamaged].
func (s *Store) Check(ctx context.Context, want File, depth Depth) error {
	if err := want.ID.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	got, err := s.describe(want.ID)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if got.SizeBytes != want.SizeBytes {
		return fmt.Errorf("%w: %s: its size changed", ErrDamaged, want.ID)
	}
	if depth == ByStamp && got.Stamp == want.Stamp {
		return nil
	}
	f, err := s.OpenFile(want.ID)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	defer f.Close() //nolint:errcheck // only read from
	id, err := hash(ctx, f)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, want.ID, err)
	}
	if id != want.ID {
		return fmt.Errorf("%w: %s: its content changed", ErrDamaged, want.ID)
	}
	return nil
}

// OpenFile opens a memory file for reading and mapping. The caller closes it.
func (s *Store) OpenFile(id ID) (*os.File, error) {
	if err := id.Validate(); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(s.Path(id), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open memory file: %w", err)
	}
	return f, nil
}

// Sweep removes every file that is neither pinned nor kept, and returns how many
// bytes that freed. keep is asked while nothing can be adopted, so it may read the
// manifests and records; if it fails nothing is removed.
func (s *Store) Sweep(keep func() (map[ID]bool, error)) (freed int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept, err := keep()
	if err != nil {
		return 0, fmt.Errorf("sweep memory files: %w", err)
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return 0, fmt.Errorf("sweep memory files: %w", err)
	}
	var errs []error
	for _, e := range entries {
		id := ID(e.Name())
		if kept[id] || s.pins[id] > 0 {
			continue
		}
		if info, err := e.Info(); err == nil {
			freed += info.Size()
		}
		if err := os.Remove(s.Path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("sweep memory files: %w", err))
		}
	}
	return freed, errors.Join(errs...)
}

// describe reads a file's attributes.
func (s *Store) describe(id ID) (File, error) {
	var st unix.Stat_t
	if err := unix.Lstat(s.Path(id), &st); err != nil {
		return File{}, fmt.Errorf("look at memory file %s: %w", id, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return File{}, fmt.Errorf("look at memory file %s: it is no regular file", id)
	}
	return File{ID: id, SizeBytes: st.Size, Stamp: Stamp(&st)}, nil
}

// Stamp is a text that changes whenever a file is changed through its file system:
// the inode and its ctime, which every write, truncation and change of the mtime
// sets to the present, and which no system call sets to anything else (inode(7)).
// It does not find what is done to the disk below; only a digest does.
func Stamp(st *unix.Stat_t) string {
	return fmt.Sprintf("%d-%d.%09d", st.Ino, st.Ctim.Sec, st.Ctim.Nsec)
}

func hash(ctx context.Context, r io.Reader) (ID, error) {
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := r.Read(buf)
		h.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			return ID(hex.EncodeToString(h.Sum(nil))), nil
		}
		if err != nil {
			return "", err
		}
	}
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
