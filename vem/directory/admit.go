package directory

import (
	"context"
	"errors"
	"fmt"
)

// Prefix is what all keys of an installation begin with.
func Prefix(installation string) string { return string(keysOf(installation)) }

// Admit enters a host that is not there yet, together with what t, which names no host, writes
// on its conditions. A host that is there with the same key stays as it is, and t happens.
// Returns a [*HostError] if another host has the name or it was removed, and a [*ConflictError] of
// a condition of t. It may have happened if the error wraps [ErrUnavailable].
func (d *Directory) Admit(ctx context.Context, h Host, t Txn) (Host, error) {
	key := d.keys.host(h.Name)
	put, err := d.put(key, &h)
	if err = errors.Join(h.Validate(h.Name), err); err != nil {
		return h, fmt.Errorf("enter host %.80q: %w", h.Name, err)
	}
	for {
		next, all := h, Txn{Puts: append(put.Puts, t.Puts...), Deletes: t.Deletes}
		now, err := d.Host(ctx, h.Name)
		if none := new(HostError); errors.As(err, &none) && none.Why == HostUnknown {
			err = nil
		} else if err == nil {
			next, all.Puts, err = now, t.Puts, now.mayWrite(h.Key)
		}
		if err != nil {
			return h, err
		}
		all.If = append([]Condition{{Key: key, Revision: now.Revision}}, t.If...)
		rev, err := d.store.Commit(ctx, all)
		if conflict := new(ConflictError); errors.As(err, &conflict) && conflict.Key == key {
			continue
		}
		d.saw(rev)
		if now.Revision == 0 {
			next.Revision = rev
		}
		return next, err
	}
}
