package app

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/snapshot"
)

// Entry is an *App, or what embeds one.
type Entry interface {
	comparable
	self() *App
}

// self is the app itself, also of what embeds it.
func (a *App) self() *App { return a }

// Registry has the apps of a daemon by their names, and the names of apps that are going
// to be made. E is what the daemon has of each app. The zero Registry is empty.
//
// A new app has its name reserved before anything is made, and is added once its record is
// on the disk.
type Registry[E Entry] struct {
	mu       sync.Mutex // guards what follows
	apps     []named[E] // ordered by name
	reserved map[string]bool
}

// named is an app by its name, which is the same as in its record.
type named[E Entry] struct {
	name string
	app  E
}

// find tells where the app of a name is in r.apps, or is to be put.
//
// The caller holds r.mu.
func (r *Registry[E]) find(name string) (at int, ok bool) {
	return slices.BinarySearchFunc(r.apps, name, func(n named[E], name string) int { return strings.Compare(n.name, name) })
}

// put gives an app a name.
//
// The caller holds r.mu.
func (r *Registry[E]) put(name string, e E) {
	at, _ := r.find(name)
	r.apps = slices.Insert(r.apps, at, named[E]{name, e})
}

// drop takes the name away from an app that has it.
//
// The caller holds r.mu.
func (r *Registry[E]) drop(name string, e E) {
	if at, ok := r.find(name); ok && r.apps[at].app == e {
		r.apps = slices.Delete(r.apps, at, at+1)
	}
}

// Reserve keeps names for apps that are going to be made: nobody else gets any of them
// until free is called, once. Returns an errdefs.ErrAlreadyExists, and reserves none, if
// one of them is an app's or reserved.
func (r *Registry[E]) Reserve(names ...string) (free func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range names {
		if _, ok := r.find(name); ok {
			return nil, fmt.Errorf("app %s: %w", name, errdefs.ErrAlreadyExists)
		}
		if r.reserved[name] {
			return nil, fmt.Errorf("app %s: %w: an app of this name is being made", name, errdefs.ErrAlreadyExists)
		}
	}
	if r.reserved == nil {
		r.reserved = make(map[string]bool)
	}
	for _, name := range names {
		r.reserved[name] = true
	}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, name := range names {
			delete(r.reserved, name)
		}
	}, nil
}

// Taken tells whether a name is an app's, or reserved for one.
func (r *Registry[E]) Taken(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.find(name)
	return ok || r.reserved[name]
}

// Add makes an app known by its name, which the caller has reserved.
func (r *Registry[E]) Add(e E) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.put(e.self().Name(), e)
}

// Rename gives an app another name, which the caller has reserved, and amends its record with
// that, see [App.Amend]. The caller has the app's turn. Whoever asks for the app by its name
// finds it by the old one or by the new one.
func (r *Registry[E]) Rename(e E, name string, change func(*Record)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := e.self().Name()
	e.self().Amend(func(rec *Record) {
		change(rec)
		rec.Name = name
	})
	r.drop(old, e)
	r.put(name, e)
}

// Remove forgets an app of which nothing is left. The caller has its turn.
func (r *Registry[E]) Remove(e E) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(e.self().Name(), e)
	e.self().gone = true
}

// Has tells whether an app is known: it was added, and not removed since.
func (r *Registry[E]) Has(e E) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, ok := r.find(e.self().Name())
	return ok && r.apps[at].app == e
}

// Get returns the app of a name. Returns an errdefs.ErrNotFound if there is none, or an
// errdefs.ErrInvalidArgument if it is no name.
func (r *Registry[E]) Get(name string) (E, error) {
	var none E
	if err := snapshot.ValidateName(name); err != nil {
		return none, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if at, ok := r.find(name); ok {
		return r.apps[at].app, nil
	}
	return none, fmt.Errorf("app %s: %w", name, errdefs.ErrNotFound)
}

// List returns all apps, ordered by name.
func (r *Registry[E]) List() []E {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]E, len(r.apps))
	for i := range r.apps {
		all[i] = r.apps[i].app
	}
	return all
}

// ChooseName finds a free name for an app that was given none.
func (r *Registry[E]) ChooseName(program string) string {
	base := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, program)
	base = cmp.Or(strings.Trim(base[:min(len(base), 40)], "-"), "app")
	name := base
	for i := 2; r.Taken(name); i++ {
		name = fmt.Sprintf("%s-%d", base, i)
	}
	return name
}
