package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/snapctl/snapctl/vem/directory/codec"
)

// ErrForgotten is that the directory was put back from a backup that is older than what this session
// has written: the host begins another one.
var ErrForgotten = errors.New("the directory was put back from a backup, which has not what this host wrote last")

// Restoration is that the directory was put back from a backup. What it was told after the backup it
// has forgotten. The record is written before any host is let in again.
type Restoration struct {
	ID string    `json:"id"` // random
	At time.Time `json:"at"`
	By string    `json:"by"` // host
}

// Validate implements [codec.Record].
func (r *Restoration) Validate(string) error {
	return errors.Join(codec.CheckName("restoration", r.ID), codec.CheckName("host", r.By))
}

// Put returns the key and the record of a restoration of an installation's directory, for the store.
func (r *Restoration) Put(installation string) (Put, error) {
	value, err := codec.Encode(r)
	return Put{Key: keysOf(installation).of(KindRestored, ""), Value: value}, err
}

// Restored returns the last restoration of the directory; the zero Restoration if there was none.
func (d *Directory) Restored(ctx context.Context) (Restoration, error) {
	r, _, err := d.restored(ctx)
	if err != nil {
		return r, fmt.Errorf("read when the directory was restored: %w", err)
	}
	return r, nil
}

func (d *Directory) restored(ctx context.Context) (r Restoration, e Entry, err error) {
	e, err = d.get(ctx, d.keys.of(KindRestored, ""), &r)
	return r, e, err
}

// Reclaim makes endpoints this host's again that a restored directory has forgotten, or of which it has
// an earlier epoch: with the next epoch after mine. To reclaim again what was reclaimed is right.
//
// Each of mine is as the directory had it last, and this host is sure that it had: see
// [Verdict]. An outcome's error is a [*TakenError] if another endpoint has the address by now, or another
// host has the endpoint with as late an epoch, and else as that of Claim.
func (s *Session) Reclaim(ctx context.Context, mine []Endpoint) []Outcome {
	out := make([]Outcome, len(mine))
	var open []*Outcome
	for i, e := range mine {
		e.Owner, e.State, e.Target, e.Revision = s.host, Running, "", 0
		out[i] = Outcome{Endpoint: e, Err: s.claimable(ctx, e)}
		if out[i].Err == nil {
			open = append(open, &out[i])
		}
	}
	write := func(ctx context.Context, keys []string, decide decision) (int64, error) {
		return s.create(ctx, keys, map[string]Entry{}, decide)
	}
	for some := range slices.Chunk(open, claimsAtOnce) {
		s.each(ctx, some, "reclaim", write, func(e *Endpoint, now map[string]Entry) (Txn, error) {
			return s.enterApp(e, now, decideReclaim)
		})
	}
	return out
}
