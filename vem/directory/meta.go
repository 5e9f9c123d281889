package directory

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/snapctl/snapctl/vem/directory/codec"
)

// Meta is what the directory says of itself. It is written once, by [Init].
type Meta struct {
	// ID is random: an installation that is set up anew has another one, whatever it is called.
	ID     string    `json:"id"`
	MadeAt time.Time `json:"made_at"`
	MadeBy string    `json:"made_by"` // host
}

// Validate implements [codec.Record].
func (m *Meta) Validate(string) error {
	if m.ID == "" {
		return errors.New("it has no id")
	}
	return codec.CheckName("host", m.MadeBy)
}

// Known is what a host remembers of the directory, in a file of its own: enough to notice that
// the directory came back without what it had. The zero Known is that of a host that has never
// seen it.
type Known struct {
	ID       string `json:"id"` // of Meta
	Revision int64  `json:"revision"`
}

// ErrNoInstallation is that a directory has nothing of an installation.
var ErrNoInstallation = errors.New("the directory has no such installation")

// ErrInstalled is that an installation is there already.
var ErrInstalled = errors.New("the installation is in the directory already")

// LostError is a directory that does not have what this host has seen in it. Nothing is read
// from it, and nothing written: apps go on, and so do the ways to other hosts that are known.
type LostError struct {
	Installation string
	Seen         Known // what this host has seen
	Found        Known // what there is now; zero: nothing
}

func (e *LostError) Error() string {
	what := fmt.Sprintf("it is older than what this host has seen (revision %d, seen %d)", e.Found.Revision, e.Seen.Revision)
	switch {
	case e.Found.ID == "":
		what = "it came back empty"
	case e.Found.ID != e.Seen.ID:
		what = "it was set up anew"
	}
	return fmt.Sprintf("refuse the directory of installation %s: %s. Restore it from its newest snapshot. "+
		"Only if what is missing is lost for good: let each host forget what it has seen of the directory, and begin again with what there is",
		e.Installation, what)
}

// Directory is the directory of one installation. Its methods may be called at the same time.
// It does not close its store.
//
// A method that needs the store, and can't reach it, returns an error wrapping [ErrUnavailable].
type Directory struct {
	store        Store
	installation string
	keys         keys
	meta         Meta
	metaRevision int64 // of its entry, which does not change

	mu       sync.Mutex
	revision int64              // the highest that was seen
	networks map[string]Network // those that were looked up
}

// Init makes an installation in a store that has none of this name, and opens it. It returns an
// error wrapping [ErrInstalled] if there is one, and one wrapping [ErrUnsure] if it is not known
// whether it was made: then Open tells.
func Init(ctx context.Context, store Store, installation, host string, now time.Time) (*Directory, error) {
	if err := errors.Join(codec.CheckName("installation", installation), codec.CheckName("host", host)); err != nil {
		return nil, err
	}
	meta := Meta{ID: rand.Text(), MadeAt: now.UTC().Truncate(time.Second), MadeBy: host}
	value, err := codec.Encode(&meta)
	if err != nil {
		return nil, err
	}
	k := keysOf(installation)
	entries, rev, err := store.List(ctx, string(k))
	if err == nil && len(entries) > 0 {
		err = ErrInstalled
	}
	if err == nil {
		key := k.of(KindMeta, "")
		rev, err = store.Commit(ctx, Txn{If: []Condition{{Key: key}}, Puts: []Put{{Key: key, Value: value}}})
		err = initiated(err)
	}
	if err != nil {
		return nil, fmt.Errorf("set up installation %s: %w", installation, err)
	}
	return &Directory{store: store, installation: installation, keys: k, meta: meta, metaRevision: rev, revision: rev}, nil
}

func initiated(err error) error {
	var conflict *ConflictError
	switch {
	case errors.As(err, &conflict):
		return ErrInstalled
	case err == nil, errors.Is(err, ErrFull):
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnsure, err)
}

// Open returns the directory of an installation. It returns an error wrapping
// [ErrNoInstallation] if there is none and this host has never seen it, and a [*LostError] if
// the directory does not have what this host has seen.
func Open(ctx context.Context, store Store, installation string, known Known) (*Directory, error) {
	if err := codec.CheckName("installation", installation); err != nil {
		return nil, err
	}
	d := &Directory{store: store, installation: installation, keys: keysOf(installation), revision: known.Revision}
	d.meta.ID = known.ID
	meta, entry, rev, err := d.readMeta(ctx)
	if err != nil {
		return nil, fmt.Errorf("open the directory: %w", err)
	}
	d.meta, d.metaRevision = meta, entry
	d.saw(rev)
	return d, nil
}

// Check asks the store whether it still has what this host has seen, and returns a [*LostError]
// if not, else the revision of what it has.
func (d *Directory) Check(ctx context.Context) (revision int64, err error) {
	_, _, revision, err = d.readMeta(ctx)
	if err != nil {
		return 0, fmt.Errorf("check the directory: %w", err)
	}
	d.saw(revision)
	return revision, nil
}

// readMeta reads what the directory says of itself, the revision of that, and the revision of
// all of the directory.
func (d *Directory) readMeta(ctx context.Context) (meta Meta, entry, rev int64, err error) {
	seen := d.Known()
	entries, rev, err := d.store.List(ctx, d.keys.of(KindMeta, ""))
	if err != nil {
		return meta, 0, 0, err
	}
	meta, entry, err = d.vouch(seen, entries, rev)
	return meta, entry, rev, err
}

// vouch makes sure that entries which were read at a revision are those of the directory that
// this host has seen. It returns the entry of what the directory says of itself.
func (d *Directory) vouch(seen Known, entries []Entry, rev int64) (meta Meta, entry int64, err error) {
	key := d.keys.of(KindMeta, "")
	for _, e := range entries {
		if e.Key != key {
			continue
		}
		entry = e.Revision
		if err := codec.Decode(key, e.Value, &meta); err != nil {
			return meta, 0, err
		}
	}
	switch {
	case meta.ID == "" && seen.ID == "":
		err = fmt.Errorf("installation %s: %w: is it the directory of this installation, and was it set up?", d.installation, ErrNoInstallation)
	case seen.ID == "":
	case meta.ID == "":
		err = d.lost(seen, Known{})
	case meta.ID != seen.ID, rev < seen.Revision:
		err = d.lost(seen, Known{ID: meta.ID, Revision: rev})
	}
	return meta, entry, err
}

func (d *Directory) lost(seen, found Known) *LostError {
	return &LostError{Installation: d.installation, Seen: seen, Found: found}
}

// Known returns what this host is to remember: the caller stores it now and then, and before it
// ends. What is written after the last time can be lost without this host noticing.
func (d *Directory) Known() Known {
	d.mu.Lock()
	defer d.mu.Unlock()
	return Known{ID: d.meta.ID, Revision: d.revision}
}

// Meta returns what the directory says of itself.
func (d *Directory) Meta() Meta { return d.meta }

// Installation returns the name of the installation.
func (d *Directory) Installation() string { return d.installation }

// saw notes a revision.
func (d *Directory) saw(rev int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.revision = max(d.revision, rev)
}

// get reads the record of a key. It returns the zero Entry, and leaves r alone, if there is none.
func (d *Directory) get(ctx context.Context, key string, r codec.Record) (Entry, error) {
	e, err := d.store.Get(ctx, key)
	if errors.Is(err, ErrNotFound) {
		return Entry{Key: key}, nil
	}
	if err == nil {
		d.saw(e.Revision)
		err = d.decode(e, r)
	}
	return e, err
}

// decode reads the record of an entry.
func (d *Directory) decode(e Entry, r codec.Record) error {
	_, name, ok := d.keys.parse(e.Key)
	if !ok {
		return fmt.Errorf("read directory record %s: %w", e.Key, codec.ErrRecord)
	}
	return codec.Decode(name, e.Value, r)
}

// records reads all records whose keys are of a kind and begin with name, and calls each with
// an entry of them.
func (d *Directory) records(ctx context.Context, kind Kind, name string, each func(Entry) error) error {
	entries, rev, err := d.store.List(ctx, d.keys.of(kind, name))
	if err != nil {
		return err
	}
	d.saw(rev)
	for _, e := range entries {
		if err := each(e); err != nil {
			return err
		}
	}
	return nil
}
