package ownership

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// Ledger has the copies of this host, in a file. Its methods may be called at the same time.
type Ledger struct {
	path string

	changing sync.Mutex // held while the file is written: one change after the other

	mu  sync.Mutex // guards what follows
	all map[Spot]Copy
}

// Open reads the ledger in a directory, which need not be there until something is changed. An
// empty one is opened if there is none.
func Open(dir string) (*Ledger, error) {
	l := &Ledger{path: filepath.Join(dir, "endpoints.json"), all: make(map[Spot]Copy)}
	b, err := os.ReadFile(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	var list []Copy
	if err == nil {
		err = json.Unmarshal(b, &list)
	}
	if err != nil {
		return nil, fmt.Errorf("read which endpoints this host has: %w", err)
	}
	for _, c := range list {
		l.all[c.Spot()] = c
	}
	return l, nil
}

// Get returns the copy at a spot.
func (l *Ledger) Get(at Spot) (Copy, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, ok := l.all[at]
	return c, ok
}

// All returns all copies, in the order of networks and addresses.
func (l *Ledger) All() []Copy {
	l.mu.Lock()
	defer l.mu.Unlock()
	return sorted(l.all)
}

func sorted(all map[Spot]Copy) []Copy {
	return slices.SortedFunc(maps.Values(all), func(a, b Copy) int {
		return cmp.Or(cmp.Compare(a.Endpoint.Network, b.Endpoint.Network), a.Endpoint.Addr.Compare(b.Endpoint.Addr))
	})
}

// Change changes copies: change gets all of them, and calls no method of the ledger. The new ones
// are on the disk when Change returns; if it fails nothing has changed.
func (l *Ledger) Change(change func(all map[Spot]Copy)) error {
	l.changing.Lock()
	defer l.changing.Unlock()
	l.mu.Lock()
	all := maps.Clone(l.all)
	l.mu.Unlock()
	change(all)
	if maps.Equal(all, l.all) { // nobody else changes it
		return nil
	}
	if err := l.write(all); err != nil {
		return fmt.Errorf("write which endpoints this host has: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = all
	return nil
}

// Put changes, or adds, some copies: see Change.
func (l *Ledger) Put(list ...Copy) error {
	return l.Change(func(all map[Spot]Copy) {
		for _, c := range list {
			all[c.Spot()] = c
		}
	})
}

// Drop removes what is at some spots: see Change.
func (l *Ledger) Drop(list ...Spot) error {
	return l.Change(func(all map[Spot]Copy) {
		for _, at := range list {
			delete(all, at)
		}
	})
}

// Remove forgets all copies, and removes the file.
func (l *Ledger) Remove() error {
	l.changing.Lock()
	defer l.changing.Unlock()
	if err := os.Remove(l.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = make(map[Spot]Copy)
	return nil
}

// write writes the file aside and renames it: a daemon that is killed leaves the old one or the
// new one.
func (l *Ledger) write(all map[Spot]Copy) error {
	b, err := json.MarshalIndent(sorted(all), "", "  ")
	if err != nil {
		return err
	}
	aside := l.path + ".new"
	f, err := os.OpenFile(aside, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(aside, l.path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(aside))
	}
	dir, err := os.Open(filepath.Dir(l.path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close()) // fsync(2), NOTES
}
