package directory

import (
	"context"
	"errors"
	"fmt"
)

// Prefix is what all keys of an installation begin with.
func Prefix(installation string) string { return string(keysOf(installation)) }

// Admit enters a host that is not there yet, together with what t writes, and on the conditions
// of t. A host that is there with the same key stays as it is, and t happens. It returns a
// [*HostError] if another host has the name or the host was removed, and a [*ConflictError] if a
// condition of t does not hold. t names no host.
//
// It may have happened if the error wraps [ErrUnavailable].
func (d *Directory) Admit(ctx context.Context, h Host, t Txn) (Host, error) {
	key := d.keys.host(h.Name)
	if err := h.validate(h.Name); err != nil {
		return h, fmt.Errorf("enter host %.80q: %w", h.Name, err)
	}
	for {
		now, err := d.Host(ctx, h.Name)
		var none *HostError
		switch {
		case errors.As(err, &none) && none.Why == HostUnknown:
		case err != nil:
			return h, err
		default:
			if err := now.mayWrite(h.Key); err != nil {
				return h, err
			}
		}
		all := Txn{If: append([]Condition{{Key: key, Revision: now.Revision}}, t.If...), Puts: t.Puts, Deletes: t.Deletes}
		if now.Revision == 0 {
			put, err := d.put(key, &h)
			if err != nil {
				return h, err
			}
			all.Puts = append(put.Puts, t.Puts...)
		}
		rev, err := d.store.Commit(ctx, all)
		var conflict *ConflictError
		switch {
		case errors.As(err, &conflict) && conflict.Key == key:
			continue
		case err != nil:
			return h, fmt.Errorf("enter host %s: %w", h.Name, err)
		case now.Revision != 0:
			return now, nil
		}
		d.saw(rev)
		h.Revision = rev
		return h, nil
	}
}
