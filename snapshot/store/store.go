// Package store has the saved snapshots of a state directory, each in a directory of its own
// that is called as the snapshot is.
//
// A snapshot is there for others than those who took it: an app is restored from it, a
// template is made of it. Whoever needs a snapshot to stay claims it, and says for which
// [Reason]. [Store.Remove] refuses to remove a snapshot that is claimed, and repeats the
// reason to the user. So nothing has to look through apps and templates to learn whether a
// snapshot is in use.
//
//	       Reserve            commit             Remove
//	free ----------> written ----------> saved ----------> removed: free
//	                                      ^ |
//	                    Claim, Release    +-+
//
// While a snapshot is written or removed, its name belongs to whoever does that: nobody else can
// reserve, claim or remove it. The store looks at names and keeps claims. It never has its lock
// while it reads or removes files.
//
// Claims are kept in memory alone. Whoever has a lasting reason, as a template has, claims
// the snapshot again when it is loaded.
package store

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/snapshot/memory"
)

// Options says where the snapshots of a store are, and what they share with others.
type Options struct {
	Dir       string // made if it is not there
	Memory    *memory.Store
	Layers    *layer.Store
	HostFiles *hostfile.Store
	// Freed is called when there may be memory files, layers and kept files of the host
	// that nobody needs any more. It must return at once.
	Freed func()
}

// Store is the saved snapshots of a state directory. Its methods may be called at the same
// time. One process has a store.
type Store struct {
	opt Options

	mu     sync.Mutex
	claims map[string]*claims // by the snapshot's name
	// written counts the names that somebody had for himself and has given back: a snapshot may
	// be there since.
	written int
	removed int // counts the snapshots that were removed
}

// Open opens a store, and removes what interrupted operations have left in its directory.
func Open(opt Options) (*Store, error) {
	if err := os.MkdirAll(opt.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	if err := snapshot.Sweep(opt.Dir); err != nil {
		return nil, err
	}
	return &Store{opt: opt, claims: make(map[string]*claims)}, nil
}

// Dir is where the snapshot called name is, or would be.
func (s *Store) Dir(name string) snapshot.Dir { return snapshot.Dir(filepath.Join(s.opt.Dir, name)) }

// exists tells whether there is a directory of a snapshot.
func (s *Store) exists(name string) bool {
	_, err := os.Lstat(string(s.Dir(name)))
	return err == nil
}

// Names lists the snapshots in the order of their names. Whether their manifests can be read
// is not looked at.
func (s *Store) Names() ([]string, error) {
	entries, err := os.ReadDir(s.opt.Dir)
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	var names []string
	for _, e := range entries {
		if snapshot.ValidateName(e.Name()) == nil {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Find returns the directory of a snapshot, and its manifest. It checks nothing but the
// manifest. Returns an error wrapping errdefs.ErrInvalidArgument or errdefs.ErrNotFound, or
// one that [snapshot.Dir.Manifest] returns.
func (s *Store) Find(name string) (snapshot.Dir, *snapshot.Manifest, error) {
	if err := validate(name); err != nil {
		return "", nil, err
	}
	if !s.exists(name) {
		return "", nil, notFound(name)
	}
	m, err := s.Dir(name).Manifest()
	if err != nil {
		return "", nil, fmt.Errorf("snapshot %s: %w", name, err)
	}
	return s.Dir(name), m, nil
}

func validate(name string) error {
	if err := snapshot.ValidateName(name); err != nil {
		return fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	return nil
}

func notFound(name string) error { return fmt.Errorf("snapshot %s: %w", name, errdefs.ErrNotFound) }
