// Package memory is a [directory.Store] in memory, for tests: it passes the same suite as the
// real one, and does on demand what the real one does on bad days.
//
//	Server   the entries, as an etcd cluster has them: it can be compacted, emptied, put back
//	Store    the way of one host to it: it can be cut, stalled, and lose what it is told
//
// Nothing here waits for time: what is kept alive is dropped when a test says so.
package memory

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/snapctl/snapctl/vem/directory"
)

// keepChanges is how many revisions can be watched later: older ones are compacted.
const keepChanges = 10_000

// Server has the entries that all stores which it opens have in common.
type Server struct {
	mu sync.Mutex

	now       content
	log       [][]directory.Change // of one revision each, in their order
	compacted int64                // changes up to this revision are not in log
	kept      map[string]*Store    // who keeps an entry alive, or did when it was put
	changed   chan struct{}        // closed and made anew when anything above changes
}

// content is what a server has at a revision.
type content struct {
	entries  map[string]directory.Entry
	revision int64
}

// New returns a server without entries.
func New() *Server {
	s := &Server{changed: make(chan struct{})}
	s.begin(content{entries: make(map[string]directory.Entry)})
	return s
}

// begin makes c all that the server has ever had. The caller has s.mu, or the only reference.
func (s *Server) begin(c content) {
	s.now = content{entries: maps.Clone(c.entries), revision: c.revision}
	s.log, s.compacted, s.kept = nil, c.revision, make(map[string]*Store)
	s.tell()
}

// tell wakes all that wait for a change. The caller has s.mu.
func (s *Server) tell() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Open returns a host's way to the server.
func (s *Server) Open() *Store {
	return &Store{server: s, closed: make(chan struct{}), changed: make(chan struct{})}
}

// Revision is that of the last change.
func (s *Server) Revision() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now.revision
}

// Compact forgets all changes up to now: watches that have not been told of them end.
func (s *Server) Compact() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log, s.compacted = nil, s.now.revision
	s.tell()
}

// Drop drops all entries that are kept alive, as an etcd does that has stood still. Whoever
// keeps one puts it again as soon as the server can be reached.
func (s *Server) Drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	var t directory.Txn
	for key := range s.kept {
		t.Deletes = append(t.Deletes, key)
	}
	s.apply(t)
}

// Backup is what a server had at some time.
type Backup struct{ was content }

// Backup returns what the server has now.
func (s *Server) Backup() Backup {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Backup{content{maps.Clone(s.now.entries), s.now.revision}}
}

// Ahead is the backup with a revision that is later by n: a server that is restored from it forgets no
// revision that was, as one of etcd's with --bump-revision and --mark-compacted.
func (b Backup) Ahead(n int64) Backup {
	b.was.revision += n
	return b
}

// Restore makes the server what it was when the backup was made, or an empty one for the zero
// Backup: as an etcd that was restored from its snapshot, or set up anew. Watches that know
// later revisions are told nothing until there are later ones.
func (s *Server) Restore(b Backup) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.was.entries == nil {
		b.was.entries = make(map[string]directory.Entry)
	}
	s.begin(b.was)
}

// commit does a transaction, and tells its revision.
func (s *Server) commit(t directory.Txn) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range t.If {
		if now := s.now.entries[c.Key]; now.Revision != c.Revision {
			return 0, &directory.ConflictError{Key: c.Key, Now: clone(now)}
		}
	}
	return s.apply(t), nil
}

// apply makes the changes of a transaction, at the next revision if there are any. The caller
// has s.mu.
func (s *Server) apply(t directory.Txn) int64 {
	rev := s.now.revision + 1
	var changes []directory.Change
	for _, p := range t.Puts {
		e := directory.Entry{Key: p.Key, Value: slices.Clone(p.Value), Revision: rev}
		s.now.entries[p.Key] = e
		delete(s.kept, p.Key)
		changes = append(changes, directory.Change{Entry: e})
	}
	for _, key := range t.Deletes {
		if _, ok := s.now.entries[key]; ok {
			delete(s.now.entries, key)
			delete(s.kept, key)
			changes = append(changes, directory.Change{Entry: directory.Entry{Key: key, Revision: rev}, Deleted: true})
		}
	}
	if len(changes) == 0 {
		return s.now.revision
	}
	s.now.revision = rev
	if s.log = append(s.log, changes); len(s.log) > keepChanges {
		s.compacted = s.log[0][0].Revision
		s.log = s.log[1:]
	}
	s.tell()
	return rev
}

// get returns an entry; its revision is 0 if there is none.
func (s *Server) get(key string) directory.Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return clone(s.now.entries[key])
}

func (s *Server) list(prefix string) ([]directory.Entry, int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []directory.Entry
	for key, e := range s.now.entries {
		if strings.HasPrefix(key, prefix) {
			list = append(list, clone(e))
		}
	}
	slices.SortFunc(list, func(a, b directory.Entry) int { return cmp.Compare(a.Key, b.Key) })
	return list, s.now.revision
}

// after returns the first changes below a prefix after a revision, and up to which revision
// there are no others; none: changed tells when to ask again.
func (s *Server) after(prefix string, rev int64) (changes []directory.Change, upto int64, changed <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if rev < s.compacted {
		return nil, rev, nil, fmt.Errorf("watch %s after revision %d, kept from %d on: %w", prefix, rev, s.compacted, directory.ErrCompacted)
	}
	at, _ := slices.BinarySearchFunc(s.log, rev+1, func(c []directory.Change, rev int64) int { return cmp.Compare(c[0].Revision, rev) })
	for _, all := range s.log[at:] {
		rev = all[0].Revision
		for _, c := range all {
			if strings.HasPrefix(c.Key, prefix) {
				changes = append(changes, directory.Change{Entry: clone(c.Entry), Deleted: c.Deleted})
			}
		}
		if len(changes) > 0 {
			return changes, rev, nil, nil
		}
	}
	return nil, rev, s.changed, nil
}

// keep puts an entry that st keeps alive, unless it is there already; changed tells when to ask
// again.
func (s *Server) keep(st *Store, key string, value []byte) (changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept[key] != st {
		s.apply(directory.Txn{Puts: []directory.Put{{Key: key, Value: value}}})
		s.kept[key] = st
	}
	return s.changed
}

// forget deletes an entry that st keeps alive.
func (s *Server) forget(st *Store, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept[key] == st {
		s.apply(directory.Txn{Deletes: []string{key}})
	}
}

func clone(e directory.Entry) directory.Entry {
	e.Value = slices.Clone(e.Value)
	return e
}
