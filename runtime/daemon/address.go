package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/vem/address"
)

// A ready clone has an address that it does not use yet. If a new app asks for this
// address, or if no other address is free, the ready clone is removed and its address goes
// to the new app. Until then the address is reserved: the pool is refilled at the same time
// and would take it again.

// netAddress is an address in a network.
type netAddress struct {
	network string
	addr    netip.Addr
}

// pooledError is an address that could be had if a ready clone gave it up. The address is
// reserved for whoever got the error, until vacate has enrolled the new app or has failed.
type pooledError struct {
	app *App
	netAddress
}

func (e *pooledError) Error() string {
	return fmt.Sprintf("a clone that stands ready has %s", e.addr)
}

// addressError is an address that another app has. It is an errdefs.ErrAlreadyExists.
type addressError struct {
	app string
	netAddress
}

func (e *addressError) Error() string {
	return fmt.Sprintf("app %s has endpoint %s of network %s", e.app, e.addr, e.network)
}

func (e *addressError) Is(target error) bool { return target == errdefs.ErrAlreadyExists }

// chooseEndpoint fills in or checks the addresses of a new app. Returns a *pooledError if a
// ready clone has to give its address up first.
//
// The caller holds d.mu.
func (d *Daemon) chooseEndpoint(rec *app.Record) error {
	rec.Network = cmp.Or(rec.Network, DefaultNetwork)
	space, err := d.space(rec.Network)
	if err != nil {
		return err
	}
	used := make(map[netip.Addr]string)
	var ready *pooledError
	for _, a := range d.apps.List() {
		r, _ := a.Read()
		if r.Network != rec.Network {
			continue
		}
		used[r.Addr4] = r.Name
		at := netAddress{r.Network, r.Addr4}
		switch {
		case r.Pool == "" || rec.Pool != "": // one that stands ready is in the way of none of its kind
		case rec.Addr4 == r.Addr4, !rec.Addr4.IsValid() && d.reserved[at] == 0 && better(r, ready):
			ready = &pooledError{app: a, netAddress: at}
		}
	}
	inUse := func(a netip.Addr) bool { return used[a] != "" }
	if !rec.Addr4.IsValid() {
		rec.Addr4, err = space.Next(func(a netip.Addr) bool { return inUse(a) || d.reserved[netAddress{rec.Network, a}] > 0 })
	} else {
		err = space.Check(rec.Addr4, inUse)
	}
	switch {
	case ready != nil && (errors.Is(err, address.ErrInUse) || errors.Is(err, address.ErrExhausted)):
		d.reserved[ready.netAddress]++
		return ready
	case errors.Is(err, address.ErrInUse):
		return &addressError{app: used[rec.Addr4], netAddress: netAddress{rec.Network, rec.Addr4}}
	case errors.Is(err, address.ErrExhausted):
		return fmt.Errorf("choose endpoint in network %s: %w", rec.Network, err)
	case err != nil:
		return fmt.Errorf("endpoint in network %s (%s): %w: %w", rec.Network, space.Prefix4, errdefs.ErrInvalidArgument, err)
	}
	rec.Addr6 = space.Pair(rec.Addr4)
	return nil
}

// better tells whether a ready clone is to be given up rather than the best one that was
// found so far. A clone that is complete is better than one that is still being made, for
// which the new app would have to wait.
func better(r app.Record, best *pooledError) bool {
	return best == nil || r.Status == app.Pooled && best.app.Status() != app.Pooled
}

// vacate removes the ready clone that has the address, and enrolls the app of rec with the
// address.
func (d *Daemon) vacate(ctx context.Context, from *pooledError, rec *app.Record, first app.Status) (_ *App, release func(), err error) {
	defer d.poolSoon()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.reserved[from.netAddress]--; d.reserved[from.netAddress] == 0 {
			delete(d.reserved, from.netAddress)
		}
	}()
	if err := d.dropPooled(ctx, from.app); err != nil {
		return nil, nil, err
	}
	rec.Addr4 = from.addr
	return d.enrollAs(ctx, rec, first, nil)
}
