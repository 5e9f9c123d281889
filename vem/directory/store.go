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
// would hang. A call that had no answer by then, or has no way to the store, returns an error
// wrapping [ErrUnavailable]; one whose context was cancelled, an error wrapping
// [context.Canceled]. A Commit that returned an error may have happened, or may still happen,
// unless it is a [*ConflictError] or wraps [ErrFull] or [ErrTxn]: whoever repeats it compares
// revisions, so that it happens once.
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
	// got. To delete what is not there changes nothing. A transaction that Txn.Validate refuses
	// is not done.
	Commit(ctx context.Context, t Txn) (revision int64, err error)
	// Watch tells every change of the entries whose keys begin with prefix, after a revision, in
	// their order and once each, until ctx ends or next returns an error. The caller calls next
	// until then: it waits for the next changes, which were made at one revision.
	//
	// next returns an error wrapping [ErrCompacted] if the changes after the revision are not
	// kept any more: then the caller lists again. A store that can't be reached for a while
	// makes next wait, and loses no change. next returns an error wrapping that of ctx when ctx
	// has ended.
	Watch(ctx context.Context, prefix string, after int64) (next func() ([]Change, error))
	// KeepAlive puts an entry that vanishes when nobody has kept it for some ttl (which a store
	// may lengthen), and keeps it until ctx ends; then the entry is deleted if the store can be
	// reached. If the store has dropped it, because it stood still or could not be reached, it
	// is put again as soon as possible: nothing else follows from its absence than that the host
	// was not seen. KeepAlive returns when ctx ends, with its error. Nobody else writes the
	// entry.
	KeepAlive(ctx context.Context, key string, value []byte, ttl time.Duration) error
	// Close lets go of the store. What is under way fails, and what is kept alive is not kept any
	// more. Close may be called again.
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

// Validate returns an error wrapping [ErrTxn] if no store takes the transaction: it is larger
// than [MaxTxn], or names a key twice.
func (t Txn) Validate() error {
	if n := max(len(t.If), len(t.Puts)+len(t.Deletes)); n > MaxTxn {
		return fmt.Errorf("check a transaction of %d entries: %w: at most %d", n, ErrTxn, MaxTxn)
	}
	named := make(map[string]bool, len(t.Puts)+len(t.Deletes))
	for _, p := range t.Puts {
		if named[p.Key] {
			return fmt.Errorf("check a transaction: %w: it writes %s twice", ErrTxn, p.Key)
		}
		named[p.Key] = true
	}
	for _, key := range t.Deletes {
		if named[key] {
			return fmt.Errorf("check a transaction: %w: it writes %s twice", ErrTxn, key)
		}
		named[key] = true
	}
	return nil
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

// ErrBehind is that the directory is older than what was read from it before: it was put back to an
// earlier state, for instance with its disk. Revisions would be given out a second time, so nothing
// that is known of it holds any more.
var ErrBehind = errors.New("the directory is older than what it said before")

// ErrFull is that the store takes no more entries; it still can be read, and entries can be
// deleted. Nothing was done.
var ErrFull = errors.New("the directory is full")

// ErrTxn is that a transaction is larger than [MaxTxn], or names a key twice. Nothing of it was
// done.
var ErrTxn = errors.New("no transaction of the directory")

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
