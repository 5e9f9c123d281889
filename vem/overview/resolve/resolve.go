// Package resolve answers who has an endpoint: by what a host has, by what it knows of the directory,
// and if that is not enough by the directory.
package resolve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/vem/address"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/cache"
	"github.com/snapctl/snapctl/vem/membership"
	"github.com/snapctl/snapctl/vem/overview"
)

// Host is what a host that is asked has.
type Host struct {
	Name string // empty: it is in no installation
	// Here are its own endpoints, all of them.
	Here []overview.Resolution
	// Cache is nil if there is no directory, or if it was not reached yet.
	Cache *cache.Cache
}

// Answer tells who has what is asked for. It returns an error wrapping [errdefs.ErrNotFound] if nobody
// has it, and an *[membership.Error] if that can't be known.
func Answer(ctx context.Context, h Host, q overview.Question) (overview.Answer, error) {
	r := resolver{Host: h, q: q, there: make(map[spot]bool)}
	for _, e := range h.Here {
		r.add(e)
	}
	var err error
	if r.Cache != nil {
		err = r.known(ctx)
	}
	if err == nil {
		err = r.nobody()
	}
	slices.SortFunc(r.answer.Found, func(a, b overview.Resolution) int {
		return cmp.Or(cmp.Compare(a.Network, b.Network), a.Addr4.Compare(b.Addr4))
	})
	return r.answer, err
}

// spot is an address of a network.
type spot struct {
	network string
	addr    netip.Addr
}

// resolver answers one question.
type resolver struct {
	Host
	q overview.Question

	answer overview.Answer
	there  map[spot]bool // what is in answer
}

// known answers by what this host knows of the directory, and if that is nothing asks it.
func (r *resolver) known(ctx context.Context) error {
	fresh := r.Cache.Freshness()
	r.answer.Trouble = fresh.Err
	for _, e := range r.Cache.Endpoints() {
		r.addRecord(e, overview.Cache, fresh.At)
	}
	if len(r.answer.Found) > 0 {
		return nil
	}
	var look []func() (directory.Endpoint, error)
	if r.q.App != "" {
		look = append(look, func() (directory.Endpoint, error) { return r.Cache.LookupApp(ctx, r.q.App) })
	}
	for _, n := range r.Cache.Networks() {
		if _, in := n.IPv4(r.q.Addr); in && (r.q.Network == "" || r.q.Network == n.Name) {
			look = append(look, func() (directory.Endpoint, error) { return r.Cache.Lookup(ctx, n.Name, r.q.Addr) })
		}
	}
	for _, l := range look {
		e, err := l()
		switch {
		case err == nil:
			r.addRecord(e, overview.Directory, time.Now())
		case !errors.Is(err, directory.ErrNotFound):
			return &membership.Error{
				Text: "this host does not know who has " + r.asked(), Err: err, Remedy: "wait until the directory can be reached; snapctl doctor tells what is in the way",
			}
		}
	}
	return nil
}

// nobody is that nothing was found of what was asked for.
func (r *resolver) nobody() error {
	switch {
	case r.Name != "" && r.Cache == nil:
		r.answer.Trouble = directory.ErrUnavailable
		if len(r.answer.Found) == 0 {
			return &membership.Error{
				Text: "this host does not know who has " + r.asked(), Err: directory.ErrUnavailable,
				Remedy: "it has not reached the directory since snapctld began; snapctl doctor tells what is in the way",
			}
		}
	case len(r.answer.Found) == 0 && (r.q.App != "" || r.q.Addr.IsValid()):
		return fmt.Errorf("nobody has %s: %w", r.asked(), errdefs.ErrNotFound)
	}
	return nil
}

func (r *resolver) asked() string {
	text := "an endpoint"
	switch {
	case r.q.App != "":
		return "an app " + r.q.App
	case r.q.Addr.IsValid():
		text = "address " + r.q.Addr.String()
	}
	if r.q.Network != "" {
		text += " of network " + r.q.Network
	}
	return text
}

func (r *resolver) addRecord(e directory.Endpoint, from overview.Source, at time.Time) {
	var space address.Space
	if n, err := r.Cache.Network(e.Network); err == nil {
		space = n.Space()
	}
	self := e.Owner == r.Name
	r.add(overview.Resolution{
		Network: e.Network, App: e.App, Addr4: e.Addr, Addr6: space.Pair(e.Addr), Host: e.Owner, Self: self,
		Epoch: e.Epoch, State: string(e.State), Target: e.Target, Alive: self || r.Cache.Seen(e.Owner), Source: from, AsOf: at,
	})
}

// add adds an endpoint to the answer if it was asked for, and is not there yet.
func (r *resolver) add(e overview.Resolution) {
	at, q := spot{e.Network, e.Addr4}, &r.q
	isAddr := !q.Addr.IsValid() || q.Addr == e.Addr4 || q.Addr == e.Addr6
	if r.there[at] || q.Network != "" && q.Network != e.Network || q.App != "" && q.App != e.App || !isAddr {
		return
	}
	r.there[at] = true
	r.answer.Found = append(r.answer.Found, e)
}
