package directory

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Store keeps the entries of the directory: values of a few hundred bytes by key, in an order
// of revisions that is the same for all hosts. Its methods may be called at the same time.
//
// A context without a deadline gets the store's own, since a call to a store that stands still
// would hang. A call that returned an error that is no [ConflictError] may have happened, or may
// still happen: whoever repeats it compares revisions, so that it happens once.
//
// All implementations pass the suite of package directorytest.
type Store interface {
	// Get returns the entry of a key, or an error wrapping [ErrNotFound].
	Get(ctx context.Context, key string) (Entry, error)
	// List returns all entries whose keys begin with prefix, in the order of keys, as they were
	// at one revision, which Watch goes on from.
	List(ctx context.Context, prefix string) (entries []Entry, revision int64, err error)
	// Commit does all of a transaction if all of its conditions hold, and nothing of it
	// otherwise: then it returns a *ConflictError. It returns the revision that the entries have
	// got.
	Commit(ctx context.Context, t Txn) (revision int64, err error)
	// Watch tells every change of the entries whose keys begin with prefix, after a revision, in
	// their order and once each, until ctx ends or next returns an error. The caller calls next
	// until then: it waits for the next changes, which were made at one revision.
	//
	// next returns an error wrapping [ErrCompacted] if the changes after the revision are not
	// kept any more: then the caller lists again. A store that can't be reached for a while
	// makes next wait, and loses no change.
	Watch(ctx context.Context, prefix string, after int64) (next func() ([]Change, error))
	// KeepAlive puts an entry that vanishes when nobody has kept it for some ttl (which a store
	// may lengthen), and keeps it until ctx ends; then the entry is deleted if the store can be
	// reached. If the store has dropped it, because it stood still or could not be reached, it
	// is put again as soon as possible: nothing else follows from its absence than that the host
	// was not seen. KeepAlive returns when ctx ends.
	KeepAlive(ctx context.Context, key string, value []byte, ttl time.Duration) error
	// Close lets go of the store. It fails what is under way.
	Close() error
}

// Entry is a key with its value.
type Entry struct {
	Key   string
	Value []byte // the caller's
	// Revision is that of the last change of this entry: a condition of a transaction names it.
	Revision int64
}

// Change is an entry that was put, or deleted.
type Change struct {
	Entry
	Deleted bool // Value is empty
}

// Txn is a transaction. It names no key twice in Puts and Deletes together.
type Txn struct {
	If      []Condition
	Puts    []Put
	Deletes []string
}

// Condition holds if the entry of the key has this revision; 0: if there is no such entry.
type Condition struct {
	Key      string
	Revision int64
}

// Put gives a key a value.
type Put struct {
	Key   string
	Value []byte
}

// MaxTxn is how many conditions, and how many puts and deletes together, a transaction may have:
// what etcd takes unless its operator has allowed more (its option max-txn-ops, 128).
const MaxTxn = 128

// ErrNotFound is that there is no entry of a key.
var ErrNotFound = errors.New("no such entry in the directory")

// ErrCompacted is that the changes after a revision are not kept any more.
var ErrCompacted = errors.New("the directory does not keep changes that old any more")

// ErrFull is that the store takes no more entries; it still can be read, and entries can be
// deleted.
var ErrFull = errors.New("the directory is full")

// ErrUnavailable is that the store can't be reached, or did not answer in time. What was to be
// done may still happen.
var ErrUnavailable = errors.New("the directory can't be reached")

// ConflictError is a transaction of which a condition does not hold. Nothing of it was done.
type ConflictError struct {
	// Key is that of the first condition that does not hold.
	Key string
	// Now is the entry as it is; its revision is 0 if there is none.
	Now Entry
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("directory entry %s was changed meanwhile", e.Key)
}
