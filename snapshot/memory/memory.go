// Package memory keeps the memory files of snapshots: immutable files that the
// processes of many restored apps map at the same time, copy on write.
//
// A restore maps memory and does not copy it. So a gigabyte comes back as fast as nothing,
// clones share it, and the next dump has only what changed:
//
//	dump        pages-1.img: the stored pages of process 1, as CRIU writes them
//	commit      moved to STATE/memory/SHA256, never changed again; a link stays in its place
//	restore     each run of 16 or more pages of private anonymous memory is a MAP_PRIVATE
//	            mapping of that file; CRIU copies the rest, as always
//	next dump   CRIU stores the pages that were written to since, which are anonymous, and
//	            refers to the file for all others
//
// How images are edited for that is told in package image.
//
// A file is named by the SHA-256 of its content. Snapshots name the files that they need in
// their manifests, and apps name those that their processes map in their records. There is no
// other register and no count. What nobody names [Store.Sweep] removes. What an operation
// has in its hands, and nobody names yet, the operation has pinned.
//
//	dump --Adopt--> pinned --manifest or record written, Unpin--> kept --Sweep--> gone
//
// A file that goes away while a process maps it stays with the process, but the process
// can't be saved any more. So a record names the file before a process maps it.
package memory

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/keep"
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
	Stamp     string `json:"stamp"` // as tree.File.Stamp
}

// Store is a directory of memory files. Its methods may be called at the same
// time. One process has a store.
type Store struct {
	path string
	dir  *keep.Dir

	settling sync.Mutex // see settle

	mu     sync.Mutex
	proved map[ID]string // stamps of files that were read, and were what their names say
	// durable are files that are known to be on the disk.
	durable map[ID]bool
}

// setDurable remembers whether a file is on the disk.
func (s *Store) setDurable(id ID, durable bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !durable {
		delete(s.durable, id)
		return
	}
	if len(s.durable) >= maxProved { // asked again
		clear(s.durable)
	}
	s.durable[id] = true
}

func (s *Store) isDurable(id ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.durable[id]
}

// maxProved bounds what is remembered.
const maxProved = 10000

// prove remembers that a file was read as it is.
func (s *Store) prove(f File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.proved) >= maxProved {
		clear(s.proved)
	}
	s.proved[f.ID] = f.Stamp
}

// isProved tells whether a file was read as it is.
func (s *Store) isProved(f File) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	stamp, ok := s.proved[f.ID]
	return ok && stamp == f.Stamp
}

// Open opens the store in dir, which it makes. Nothing is swept yet.
func Open(dir string) (*Store, error) {
	d, err := keep.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open memory store: %w", err)
	}
	return &Store{path: dir, dir: d, proved: make(map[ID]string), durable: make(map[ID]bool)}, nil
}

// Temporary returns a path for a file that is to be adopted: see [keep.Dir.Temporary].
func (s *Store) Temporary() (path string, done func() error) { return s.dir.Temporary() }

// Dir is the directory of the store.
func (s *Store) Dir() string { return s.path }

// Have looks for a memory file of a size, and pins it. It reads all of it, unless this store has read or
// adopted it as it is, by its stamp. A file that is damaged is none.
func (s *Store) Have(ctx context.Context, id ID, sizeBytes int64) (_ File, ok bool, err error) {
	if err := id.Validate(); err != nil {
		return File{}, false, err
	}
	s.dir.Pin(string(id))
	f, err := s.describe(id)
	if err == nil && f.SizeBytes == sizeBytes && !s.isProved(f) {
		if err = s.verify(ctx, id); err == nil {
			s.prove(f) // whoever changes it meanwhile changes its stamp
		}
	}
	if err == nil && f.SizeBytes == sizeBytes {
		return f, true, nil
	}
	s.dir.Unpin(string(id))
	return File{}, false, ctx.Err()
}

// Path is where a memory file is.
func (s *Store) Path(id ID) string { return s.dir.Path(string(id)) }

// verify reads a memory file. Returns an error wrapping [ErrDamaged] unless it
// could not be read to its end.
func (s *Store) verify(ctx context.Context, id ID) error {
	f, err := s.OpenFile(id)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	defer f.Close() //nolint:errcheck // only read from
	got, err := hash(ctx, f)
	if err != nil {
		return fmt.Errorf("read memory file %s: %w", id, err)
	}
	if got != id {
		return fmt.Errorf("%w: %s: its content changed", ErrDamaged, id)
	}
	return nil
}

// Pin keeps files from being swept until each is unpinned as often.
func (s *Store) Pin(files []File) {
	for _, f := range files {
		s.dir.Pin(string(f.ID))
	}
}

// Unpin is the inverse of Pin, and of the pinning by Adopt.
func (s *Store) Unpin(files []File) {
	for _, f := range files {
		s.dir.Unpin(string(f.ID))
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
	// BySize looks whether the files are there and have their size and type, and reads
	// nothing: to tell in a moment what can't be used, and not what can.
	BySize
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
	if depth == BySize || depth == ByStamp && got.Stamp == want.Stamp {
		return nil
	}
	return s.verify(ctx, want.ID)
}

// OpenFile opens a memory file for reading and mapping. The caller closes it.
func (s *Store) OpenFile(id ID) (*os.File, error) {
	if err := id.Validate(); err != nil {
		return nil, err
	}
	// Opening a FIFO would wait for a writer.
	f, err := os.OpenFile(s.Path(id), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open memory file: %w", err)
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("open memory file %s: it is no regular file", id), err, f.Close())
	}
	return f, nil
}

// Mappable tells whether a process can map the files as if they were its own
// memory. On a file system that is mounted noexec it could never make the memory
// executable again (mm/mmap.c, do_mmap: no VM_MAYEXEC), which a JIT compiler does.
func (s *Store) Mappable() (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.path, &st); err != nil {
		return false, fmt.Errorf("look at memory store: %w", err)
	}
	return st.Flags&unix.MS_NOEXEC == 0, nil // ST_NOEXEC is the same bit (include/linux/statfs.h)
}

// Sweep removes every file that is neither pinned nor needed: see [keep.Dir.Sweep].
func (s *Store) Sweep(needed func() (map[ID]bool, error)) (freed int64, err error) {
	return keep.Sweep(s.dir, needed)
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
	buf := make([]byte, 256<<10) // what fits into a processor's cache is hashed faster
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
