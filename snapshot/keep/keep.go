// Package keep is for directories of immutable things that several owners share. Each owner
// names the things that it needs in a record of its own. There is no count that could be
// wrong: a thing that no record names is swept. While an operation uses a thing that no record
// names yet, it pins the thing.
//
// A sweep has no lock while it reads the records and removes what nobody needs. It notes what is
// pinned meanwhile, and spares that too.
package keep

import (
	"crypto/rand"
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
	turn chan struct{} // has a token while a sweep goes on

	mu   sync.Mutex
	pins map[string]int
	// since has what was pinned at any time since the sweep began; nil if none goes on.
	since map[string]bool
	// doomed has what the sweep is removing: each channel is closed when the thing is gone.
	doomed map[string]chan struct{}
}

// Open opens a directory, which it makes. Nothing is swept yet.
func Open(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	return &Dir{path: path, turn: make(chan struct{}, 1), pins: make(map[string]int), doomed: make(map[string]chan struct{})}, nil
}

// Path is where the thing called name is.
func (d *Dir) Path(name string) string { return filepath.Join(d.path, name) }

// Pin keeps a thing, which need not be there yet, from being swept until it is
// unpinned as often. If the thing is being removed at this moment, Pin returns when it is gone.
func (d *Dir) Pin(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for gone := d.doomed[name]; gone != nil; gone = d.doomed[name] {
		d.mu.Unlock()
		<-gone
		d.mu.Lock()
	}
	d.pins[name]++
	if d.since != nil {
		d.since[name] = true
	}
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
// bytes of files that freed. needed may read the records. If it fails nothing is removed. What is
// pinned while needed is asked stays, even if it is unpinned at once: it may be in a record that
// needed has read before. The directory is ours: whatever else is in it goes too.
func (d *Dir) Sweep(needed func() (map[string]bool, error)) (freed int64, err error) {
	d.turn <- struct{}{}
	defer func() { <-d.turn }()
	d.watchPins()
	defer d.ignorePins()
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
		if keep[e.Name()] {
			continue
		}
		some, err := d.removeUnpinned(e.Name())
		freed += some
		errs = append(errs, err)
	}
	return freed, errors.Join(errs...)
}

// watchPins begins to note what is pinned.
func (d *Dir) watchPins() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.since = make(map[string]bool, len(d.pins))
	for name := range d.pins {
		d.since[name] = true
	}
}

// ignorePins is the inverse of watchPins.
func (d *Dir) ignorePins() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.since = nil
}

// removeUnpinned removes a thing unless it was pinned since the sweep began.
func (d *Dir) removeUnpinned(name string) (freed int64, err error) {
	gone, ok := d.doom(name)
	if !ok {
		return 0, nil
	}
	defer gone()
	path := d.Path(name)
	freed = size(path)
	if err := os.RemoveAll(path); err != nil {
		return freed, fmt.Errorf("sweep: %w", err)
	}
	return freed, nil
}

// doom has Pin of a thing wait until gone is called, unless it was pinned since the sweep began.
func (d *Dir) doom(name string) (gone func(), ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.since[name] {
		return nil, false
	}
	wait := make(chan struct{})
	d.doomed[name] = wait
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.doomed, name)
		close(wait)
	}, true
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

// temporary begins the names of things that are being made.
const temporary = ".partial-"

// Temporary returns a path in the directory, at which nothing is, for a thing that is being made. It
// is not swept before done is called, which also removes what is at the path; a path that was
// renamed is none of done's business. What a killed process has left there the next sweep removes.
func (d *Dir) Temporary() (path string, done func() error) {
	name := temporary + rand.Text()
	d.Pin(name)
	return d.Path(name), sync.OnceValue(func() error {
		defer d.Unpin(name)
		if err := os.RemoveAll(d.Path(name)); err != nil {
			return fmt.Errorf("remove what was being made: %w", err)
		}
		return nil
	})
}
