package store

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/snapshot"
)

// Reason says in words for users why a snapshot is not to be removed.
type Reason struct {
	Why    string // "an app is being restored from it"
	Remedy string // "try again when that is done"
}

// InUseError is a snapshot that can't be removed, because somebody claims it. It is an
// errdefs.ErrFailedPrecondition.
type InUseError struct {
	Name   string // of the snapshot
	Reason Reason // one of those for which it is claimed
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("snapshot %s is needed: %s; %s", e.Name, e.Reason.Why, e.Reason.Remedy)
}

// Is makes the error an errdefs.ErrFailedPrecondition.
func (e *InUseError) Is(target error) bool { return target == errdefs.ErrFailedPrecondition }

// claims are those of one snapshot.
type claims struct {
	busy    bool // somebody writes or removes it
	reasons map[Reason]int
}

// of returns the claims of a snapshot. The caller holds s.mu.
func (s *Store) of(name string) *claims {
	c, ok := s.claims[name]
	if !ok {
		c = &claims{reasons: make(map[Reason]int)}
		s.claims[name] = c
	}
	return c
}

// tidy forgets the claims of a snapshot that has none. The caller holds s.mu.
func (s *Store) tidy(name string) {
	if c := s.claims[name]; !c.busy && len(c.reasons) == 0 {
		delete(s.claims, name)
	}
}

// Claim keeps a snapshot from being removed. It has a reason until it is released.
type Claim struct {
	store   *Store
	name    string
	reason  Reason
	release func()
}

// Claim claims a snapshot until the claim is released. Whether the snapshot is there is not
// looked at. Returns an error wrapping errdefs.ErrNotFound if the snapshot is being written
// or removed.
func (s *Store) Claim(name string, r Reason) (*Claim, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.claims[name]; c != nil && c.busy {
		return nil, notFound(name)
	}
	return s.add(name, r), nil
}

// Expect claims a snapshot that is going to be there, whoever writes it: nobody can remove it
// from the moment on in which it is there.
func (s *Store) Expect(name string, r Reason) *Claim {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.add(name, r)
}

// add adds a claim. The caller holds s.mu.
func (s *Store) add(name string, r Reason) *Claim {
	s.of(name).reasons[r]++
	return &Claim{store: s, name: name, reason: r, release: sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		all := s.of(name).reasons
		if all[r]--; all[r] == 0 {
			delete(all, r)
		}
		s.tidy(name)
	})}
}

// Release gives the claim up. It may be called more than once.
func (c *Claim) Release() { c.release() }

// Exclude keeps all others from claiming the snapshot, until undo is called, once or more.
// Returns an [*InUseError] if somebody else claims the snapshot already, and an error wrapping
// errdefs.ErrNotFound if somebody else is writing or removing it.
func (c *Claim) Exclude() (undo func(), err error) { return c.store.exclude(c.name, &c.reason) }

// Remove removes the snapshot, and releases the claim even if that fails. Whoever else uses the
// snapshot loses it, unless [Claim.Exclude] was called before. A missing snapshot is no error.
func (c *Claim) Remove() error {
	defer c.Release()
	return c.store.remove(c.name)
}

// exclude makes a snapshot busy if there is no claim of it, but for one with the reason own.
func (s *Store) exclude(name string, own *Reason) (undo func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.of(name)
	defer s.tidy(name)
	if c.busy {
		return nil, notFound(name)
	}
	others := maps.Clone(c.reasons)
	if own != nil {
		if others[*own]--; others[*own] == 0 {
			delete(others, *own)
		}
	}
	if len(others) > 0 {
		// The first in order, so that the answer is the same each time.
		r := slices.SortedFunc(maps.Keys(others), func(a, b Reason) int { return strings.Compare(a.Why, b.Why) })[0]
		return nil, &InUseError{Name: name, Reason: r}
	}
	c.busy = true
	return s.freeing(name), nil
}

// freeing returns a function that ends that a snapshot is busy.
func (s *Store) freeing(name string) func() {
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.claims[name].busy = false
		s.written++
		s.tidy(name)
	})
}

// Remove removes a snapshot. Returns an [*InUseError] if somebody claims it, and an error
// wrapping errdefs.ErrInvalidArgument or errdefs.ErrNotFound.
func (s *Store) Remove(name string) error {
	if err := validate(name); err != nil {
		return err
	}
	if !s.exists(name) {
		return notFound(name)
	}
	undo, err := s.exclude(name, nil)
	if err != nil {
		return err
	}
	defer undo()
	return s.remove(name)
}

// remove removes the directory of a snapshot.
func (s *Store) remove(name string) error {
	defer s.opt.Freed()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.removed++
	}()
	return s.Dir(name).Remove()
}

// countRemoved tells how many snapshots have been removed since the store was opened.
func (s *Store) countRemoved() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.removed
}

// Reserve gives a snapshot that is to be written its name, until free is called, once or more.
// If name is "" it is chosen: app-1, or the next number that is free. Returns an error wrapping
// errdefs.ErrInvalidArgument, or errdefs.ErrAlreadyExists if there is a snapshot of that name, or
// somebody writes or removes one.
func (s *Store) Reserve(name, app string) (_ snapshot.Dir, free func(), err error) {
	chosen := name == ""
	for i := 1; ; i++ {
		if chosen {
			name = fmt.Sprintf("%s-%d", app, i)
		}
		if err := validate(name); err != nil {
			return "", nil, err
		}
		if free, ok := s.take(name); ok {
			return s.Dir(name), free, nil
		}
		if !chosen {
			return "", nil, fmt.Errorf("snapshot %s: %w", name, errdefs.ErrAlreadyExists)
		}
	}
}

// take takes a name that is free.
func (s *Store) take(name string) (free func(), ok bool) {
	for {
		s.mu.Lock()
		written := s.written
		s.mu.Unlock()
		if s.exists(name) {
			return nil, false
		}
		if free, settled := s.takeUnless(name, written); settled {
			return free, free != nil
		}
	}
}

// takeUnless takes the name of a snapshot that was not there when s.written was as given. It is not
// settled whether the name is free if somebody has ended to write a snapshot since. If the name
// is taken, free is nil.
func (s *Store) takeUnless(name string, written int) (free func(), settled bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.of(name)
	defer s.tidy(name)
	switch {
	case c.busy:
		return nil, true
	case s.written != written:
		return nil, false
	}
	c.busy = true
	return s.freeing(name), true
}
