package daemon

import (
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/vem/hold"
)

// savedPolicy is what a snapshot keeps of when an app sleeps and wakes.
func (r *record) savedPolicy() *snapshot.Policy {
	return &snapshot.Policy{
		Wake: r.Wake.Mode.String(), MinBytes: r.Wake.MinBytes, Ignore: slices.Clone(r.Wake.Ignore), HibernateAfter: r.HibernateAfter,
	}
}

// heedPolicy gives an app that is made of a snapshot what the saved one was told.
// A snapshot of an older snapctl has nothing of it.
func (r *record) heedPolicy(p *snapshot.Policy) error {
	if p == nil {
		return nil
	}
	w := hold.WakePolicy{MinBytes: p.MinBytes, Ignore: slices.Clone(p.Ignore)}
	if err := w.Mode.UnmarshalText([]byte(p.Wake)); err != nil {
		return err
	}
	if err := w.Validate(); err != nil {
		return err
	}
	r.Wake, r.HibernateAfter = w, max(0, p.HibernateAfter)
	return nil
}

// policy is what a request to make apps of a snapshot says of when they sleep and
// wake. What it does not say is as it was saved.
type policy struct {
	wake  *hold.WakePolicy
	after *time.Duration
}

func newPolicy(wake *api.WakePolicy, after *durationpb.Duration) (p policy, err error) {
	if wake != nil {
		w, err := wakePolicy(wake)
		if err != nil {
			return p, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
		}
		p.wake = &w
	}
	if after != nil {
		d := after.AsDuration()
		if d < 0 {
			return p, fmt.Errorf("%w: hibernate after %s: want a time that is not negative", errdefs.ErrInvalidArgument, d)
		}
		p.after = &d
	}
	return p, nil
}

func (p policy) change(r *record) {
	if p.wake != nil {
		r.Wake = *p.wake
	}
	if p.after != nil {
		r.HibernateAfter = *p.after
	}
}
