package tree

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Filler makes the files of a tree of entries that come from another host. Entries are not trusted:
// nothing is made outside of the tree, and nothing is followed. A Filler is used by one goroutine.
type Filler struct {
	dir  string
	made map[string]bool // the paths of entries that others may be links to; false: a directory
	dirs []*Entry        // which get their times when they are full
}

// NewFiller returns a Filler for a directory, in which there may be empty directories already, and
// nothing else.
func NewFiller(dir string) *Filler { return &Filler{dir: dir, made: make(map[string]bool)} }

// Make makes the file of an entry, and returns it open, and of its size, if it has bytes: they are for
// the caller to write. The caller calls Complete then. Returns an error wrapping [ErrDamaged] if the
// entry can't be part of the tree.
func (f *Filler) Make(e *Entry) (*os.File, error) {
	if err := e.Validate(); err != nil {
		return nil, err
	}
	name := string(e.Path)
	if _, twice := f.made[name]; twice {
		return nil, fmt.Errorf("%w: %q: it is there twice", ErrDamaged, name)
	}
	if (name == ".") != (len(f.made) == 0) {
		return nil, fmt.Errorf("%w: %q: a tree begins with its directory", ErrDamaged, name)
	}
	if parent, there := f.made[path.Dir(name)]; name != "." && (!there || parent) {
		return nil, fmt.Errorf("%w: %q: it is in no directory of its tree", ErrDamaged, name)
	}
	to := f.at(e.Path)
	f.made[name] = e.Mode&unix.S_IFMT != unix.S_IFDIR
	if e.Other != nil {
		if linkable := f.made[string(e.Other)]; !linkable || string(e.Other) == name {
			return nil, fmt.Errorf("%w: %q: it is a link to nothing", ErrDamaged, name)
		}
		return nil, failed(name, os.Link(f.at(e.Other), to))
	}
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		err := os.Mkdir(to, 0o700)
		if info, serr := os.Lstat(to); errors.Is(err, os.ErrExist) && serr == nil && info.IsDir() {
			err = nil // the caller has made it
		}
		return nil, failed(name, err)
	case unix.S_IFLNK:
		return nil, failed(name, os.Symlink(string(e.Target), to))
	case unix.S_IFREG:
		file, err := os.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, failed(name, err)
		}
		if err = file.Truncate(e.SizeBytes); err != nil || !e.HasData() {
			return nil, failed(name, errors.Join(err, file.Close()))
		}
		return file, nil
	default:
		return nil, failed(name, unix.Mknod(to, e.Mode, int(e.Device))) //nolint:gosec // 32 bits
	}
}

// Complete closes the file that Make has returned, and gives it its attributes.
func (f *Filler) Complete(e *Entry, file *os.File) error {
	if file != nil {
		if err := file.Close(); err != nil {
			return failed(string(e.Path), err)
		}
	}
	if e.Other != nil {
		return nil
	}
	to := f.at(e.Path)
	// In this order: a change of owner takes set-id bits and capabilities away.
	if err := os.Lchown(to, int(e.UID), int(e.GID)); err != nil {
		return failed(string(e.Path), err)
	}
	if e.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Chmod(to, e.Mode&0o7777); err != nil {
			return failed(string(e.Path), err)
		}
	}
	if err := errors.Join(setAttributes(to, e.Attributes), e.marks().Set(to)); err != nil {
		return err
	}
	if e.Mode&unix.S_IFMT == unix.S_IFDIR {
		f.dirs = append(f.dirs, e)
		return nil
	}
	return f.setTimes(e)
}

// Close gives the directories their times, when all files are made.
func (f *Filler) Close() error {
	if len(f.made) == 0 {
		return fmt.Errorf("%w: a tree without its directory", ErrDamaged)
	}
	for _, e := range slices.Backward(f.dirs) {
		if err := f.setTimes(e); err != nil {
			return err
		}
	}
	return nil
}

func (f *Filler) setTimes(e *Entry) error {
	when := unix.Timespec{Sec: e.Seconds, Nsec: e.Nanoseconds}
	return SetTimes(f.at(e.Path), &unix.Stat_t{Atim: when, Mtim: when})
}

func (f *Filler) at(name []byte) string { return filepath.Join(f.dir, string(name)) }

// failed says which file an error is about.
func failed(name string, err error) error {
	if err != nil {
		return fmt.Errorf("make %s: %w", name, err)
	}
	return nil
}
