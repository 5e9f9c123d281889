package directory

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/snapctl/snapctl/vem/directory/codec"
)

// ErrUnsure is that a write may have happened, or not, and that the directory could not be asked
// which. To call the same method again, when the directory can be reached, gives the answer.
var ErrUnsure = errors.New("it is not known whether this happened: do it again when the directory can be reached")

// ErrDisplaced is that another session of the same host has begun: this one writes nothing any
// more.
var ErrDisplaced = errors.New("another snapctld with this host's name and key is at work: is this machine a copy of another one?")

// Session is what one host may write, from [Directory.Begin] on. There is one session of a host
// at a time. Its methods may be called at the same time.
//
// What a method says is exact, also if an answer of the store gets lost: the session makes void
// what it has sent, and reads what there is. If even that can't be done, the error wraps
// [ErrUnsure], and the session does it before anything else.
type Session struct {
	d    *Directory
	host string
	id   string

	turn   chan struct{} // who has it may write the session's entry
	making chan struct{} // who has it may make something new, and reads and writes made
	made   int64         // revision of the entry that is written with it, as far as is known

	mu       sync.Mutex
	revision int64 // of the session's entry
	doubted  int64 // the last revision on whose condition something was sent that may still happen
}

// sessionRecord is the entry of a session. Its revision is a condition of all that it writes.
type sessionRecord struct {
	Host    string    `json:"host"`
	ID      string    `json:"id"` // random
	BegunAt time.Time `json:"begun_at"`
}

func (r *sessionRecord) Validate(name string) error {
	if r.Host != name || r.ID == "" {
		return fmt.Errorf("it is session %q of host %q", r.ID, r.Host)
	}
	return nil
}

// attempts is how often the entry of a session is written before the store counts as one that
// can't be reached.
const attempts = 5

// Begin begins a session of a host, which [Directory.PutHost] has entered with this key. All
// that earlier sessions of the host have sent, and that has not happened, never happens. It
// returns a [*HostError] if the host is not there, has another key, or was removed.
func (d *Directory) Begin(ctx context.Context, host, key string, now time.Time) (*Session, error) {
	s := &Session{d: d, host: host, id: rand.Text(), turn: make(chan struct{}, 1), making: make(chan struct{}, 1)}
	value, err := codec.Encode(&sessionRecord{Host: host, ID: s.id, BegunAt: now.UTC().Truncate(time.Second)})
	if err != nil {
		return nil, err
	}
	for range attempts {
		var h Host
		if h, err = d.Host(ctx, host); err == nil {
			err = h.mayWrite(key)
		}
		if err != nil {
			break
		}
		var r sessionRecord
		var e Entry
		if e, err = d.get(ctx, d.keys.session(host), &r); err != nil {
			break
		}
		if r.ID == s.id { // it happened
			s.revision = e.Revision
			return s, nil
		}
		s.revision, err = d.store.Commit(ctx, Txn{
			If:   []Condition{{Key: d.keys.host(host), Revision: h.Revision}, {Key: e.Key, Revision: e.Revision}},
			Puts: []Put{{Key: e.Key, Value: value}},
		})
		if err == nil {
			d.saw(s.revision)
			return s, nil
		}
	}
	return nil, fmt.Errorf("begin a session of host %s: %w", host, err)
}

// mayWrite tells why the host with this key can't write.
func (h *Host) mayWrite(key string) error {
	switch {
	case h.Key != key:
		return &HostError{h.Name, HostOther}
	case h.Removed:
		return &HostError{h.Name, HostRemoved}
	}
	return nil
}

// Host returns the name of the host.
func (s *Session) Host() string { return s.host }

// change writes what decide makes of some entries, once, and returns the revision of that. now
// is what the caller believes of these entries; a key that is not in it has none. If now is nil,
// they are read.
//
// decide is called with what is known of the entries, and called again if that was not so. A
// transaction of it that writes nothing means that all is as wanted: that, and an error of it,
// is returned only if the entries were just so at one time.
func (s *Session) change(ctx context.Context, keys []string, now map[string]Entry, decide decision) (int64, error) {
	now = maps.Clone(now)
	sent := false // something was sent that may have happened
	for failed := 0; ; {
		if err := s.settle(ctx); err != nil {
			return 0, unsure(sent, err)
		}
		if now == nil {
			var err error
			if now, err = s.d.read(ctx, keys); err != nil {
				return 0, unsure(sent, err)
			}
		}
		t, refused := decide(maps.Clone(now))
		if refused != nil {
			t = Txn{}
		}
		for _, key := range keys {
			t.If = append(t.If, Condition{Key: key, Revision: now[key].Revision})
		}
		rev, sure, err := s.commit(ctx, t)
		conflict, others := errors.AsType[*ConflictError](err)
		switch {
		case others:
			now[conflict.Key] = conflict.Now // of no use to anybody if it is the session's own
		case err == nil && t.writes():
			return rev, nil
		case err == nil:
			return 0, refused
		case sure:
			return 0, err
		default:
			sent, now = sent || t.writes(), nil
			if failed++; failed == attempts {
				return 0, unsure(sent, err)
			}
		}
	}
}

// writes tells whether the transaction is to change anything.
func (t Txn) writes() bool { return len(t.Puts)+len(t.Deletes) > 0 }

// create is change for what makes an entry that was not there, on the condition that it is not
// there. That may be so once more later, when the entry was deleted; therefore the host's made
// entry is written with it, and its revision is another condition. So a transaction of this kind
// never happens twice, also if it is delivered twice. A host makes one thing after the other.
// now is not nil.
func (s *Session) create(ctx context.Context, keys []string, now map[string]Entry, decide decision) (int64, error) {
	if err := enter(ctx, s.making); err != nil {
		return 0, err
	}
	defer func() { <-s.making }()
	key := s.d.keys.made(s.host)
	made, err := s.d.put(key, &mark{Host: s.host})
	if err != nil {
		return 0, err
	}
	now = maps.Clone(now)
	now[key] = Entry{Key: key, Revision: s.made}
	rev, err := s.change(ctx, append(slices.Clone(keys), key), now, func(now map[string]Entry) (Txn, error) {
		t, err := decide(now)
		if err == nil && len(t.Puts) > 0 {
			t.Puts = append(t.Puts, made.Puts...)
		}
		return t, err
	})
	if err == nil && rev > 0 {
		s.made = rev
	}
	return rev, err
}

// enter waits for its turn until ctx ends.
func enter(ctx context.Context, turn chan struct{}) error {
	select {
	case turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for another write: %w: %w", ErrUnavailable, ctx.Err())
	}
}

// unsure is the error of a change that could not be completed.
func unsure(sent bool, err error) error {
	if sent && !errors.Is(err, ErrDisplaced) {
		return fmt.Errorf("%w: %w", ErrUnsure, err)
	}
	return err
}

// read returns the entries of keys; those that are not there are missing.
func (d *Directory) read(ctx context.Context, keys []string) (map[string]Entry, error) {
	now := make(map[string]Entry, len(keys))
	for _, key := range keys {
		e, err := d.store.Get(ctx, key)
		switch {
		case err == nil:
			d.saw(e.Revision)
			now[key] = e
		case !errors.Is(err, ErrNotFound):
			return nil, err
		}
	}
	return now, nil
}

// commit does a transaction as long as the session is the host's. If it is not sure, it may
// happen later.
func (s *Session) commit(ctx context.Context, t Txn) (rev int64, sure bool, err error) {
	key, mine, seen := s.d.keys.session(s.host), s.current(), s.d.Known()
	t.If = append([]Condition{{Key: key, Revision: mine}}, t.If...)
	// Half of the time is left to find out what happened, if no answer comes.
	commit, cancel := half(ctx)
	defer cancel()
	rev, err = s.d.store.Commit(commit, t)
	var conflict *ConflictError
	switch {
	case err == nil && rev < seen.Revision:
		return 0, true, s.d.lost(seen, Known{ID: seen.ID, Revision: rev})
	case err == nil:
		s.d.saw(rev)
	case errors.As(err, &conflict) && conflict.Key == key:
		if failed := s.adopt(conflict.Now); failed != nil {
			return 0, true, failed
		}
	case errors.As(err, &conflict), errors.Is(err, ErrFull), errors.Is(err, ErrTxn):
	default:
		if t.writes() {
			s.doubt(mine)
		}
		return 0, false, err
	}
	return rev, true, err
}

// half is a context that ends when half of the time of ctx has passed.
func half(ctx context.Context) (context.Context, context.CancelFunc) {
	until, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(until)/2)
}

func (s *Session) current() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.revision
}

// doubt notes that something that was sent may still happen, on the condition that the session's
// entry has a revision.
func (s *Session) doubt(rev int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doubted = max(s.doubted, rev)
}

// doubtful tells whether something that was sent may still happen.
func (s *Session) doubtful() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.doubted == s.revision
}

// moved notes that the session's entry has a new revision.
func (s *Session) moved(rev int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision = max(s.revision, rev)
}

// adopt takes the session's entry as it is, if it is the session's own.
func (s *Session) adopt(e Entry) error {
	var r sessionRecord
	if e.Revision == 0 {
		return fmt.Errorf("session of host %s: %w", s.host, &HostError{s.host, HostRemoved})
	}
	if err := s.d.decode(e, &r); err != nil {
		return err
	}
	switch {
	case r.ID != s.id:
		return fmt.Errorf("session of host %s: %w", s.host, ErrDisplaced)
	case e.Revision < s.current():
		return fmt.Errorf("session of host %s: %w", s.host, ErrForgotten)
	}
	s.moved(e.Revision)
	return nil
}

// settle makes void what was sent and may still happen: what is read after that stays as it is
// unless somebody else changes it.
func (s *Session) settle(ctx context.Context) error {
	if !s.doubtful() {
		return nil
	}
	if err := enter(ctx, s.turn); err != nil {
		return err
	}
	defer func() { <-s.turn }()
	if !s.doubtful() {
		return nil
	}
	key := s.d.keys.session(s.host)
	err := ErrUnavailable
	for range attempts {
		e, failed := s.d.store.Get(ctx, key)
		if failed != nil && !errors.Is(failed, ErrNotFound) {
			return failed
		}
		if failed := s.adopt(e); failed != nil {
			return failed
		}
		if !s.doubtful() { // an earlier attempt has happened
			return nil
		}
		var rev int64
		rev, err = s.d.store.Commit(ctx, Txn{If: []Condition{{Key: key, Revision: e.Revision}}, Puts: []Put{{Key: key, Value: e.Value}}})
		if err == nil {
			s.moved(rev)
			return nil
		}
	}
	return err
}
