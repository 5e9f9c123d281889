// Package keep is for directories of immutable things that several owners share. Each owner
// names the things that it needs in a record of its own. There is no count that could be
// wrong: a thing that no record names is swept. While an operation uses a thing that no record
// names yet, it pins the thing.
package keep

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// Dir is such a directory. Its methods may be called at the same time. One process
// has it.
type Dir struct {
	path string

	mu   sync.Mutex // also keeps Sweep from what is pinned while it looks
	pins map[string]int
}

// Open opens a directory, which it makes. Nothing is swept yet.
func Open(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	return &Dir{path: path, pins: make(map[string]int)}, nil
}

// Path is where the thing called name is.
func (d *Dir) Path(name string) string { return filepath.Join(d.path, name) }

// Pin keeps a thing, which need not be there yet, from being swept until it is
// unpinned as often.
func (d *Dir) Pin(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pins[name]++
}

// Unpin is the inverse of Pin.
func (d *Dir) Unpin(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.pins[name]--; d.pins[name] <= 0 {
		delete(d.pins, name)
	}
}

// Sweep is [Dir.Sweep] with names of another type.
func Sweep[Name ~string](d *Dir, needed func() (map[Name]bool, error)) (freed int64, err error) {
	return d.Sweep(func() (map[string]bool, error) {
		some, err := needed()
		names := make(map[string]bool, len(some))
		for name, is := range some {
			names[string(name)] = is
		}
		return names, err
	})
}

// Sweep removes everything that is neither pinned nor needed, and returns how many
// bytes of files that freed. needed is asked while nothing can be pinned or unpinned,
// so it may read the records; if it fails nothing is removed. The directory is ours:
// whatever else is in it goes too.
func (d *Dir) Sweep(needed func() (map[string]bool, error)) (freed int64, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	keep, err := needed()
	if err != nil {
		return 0, fmt.Errorf("sweep %s: %w", d.path, err)
	}
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return 0, fmt.Errorf("sweep: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if keep[e.Name()] || d.pins[e.Name()] > 0 {
			continue
		}
		path := d.Path(e.Name())
		freed += size(path)
		if err := os.RemoveAll(path); err != nil {
			errs = append(errs, fmt.Errorf("sweep: %w", err))
		}
	}
	return freed, errors.Join(errs...)
}

// size is how many bytes the files at or below path have.
func size(path string) (n int64) {
	_ = filepath.WalkDir(path, func(_ string, e fs.DirEntry, err error) error { // what can't be seen does not count
		if err != nil {
			return nil //nolint:nilerr // see above
		}
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			n += info.Size()
		}
		return nil
	})
	return n
}

// Pinned counts what is pinned.
func (d *Dir) Pinned() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.pins)
}
