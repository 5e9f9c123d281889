package daemon

import (
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/vem/hold"
)

// policy is what a request to make apps of a snapshot says of when they sleep and
// wake, and how. What it does not say is as it was saved.
type policy struct {
	wake  *hold.WakePolicy
	after *time.Duration
	pages *restore.Pages
	// acceptChanged is as in restore.Options.
	acceptChanged *bool
}

// policyRequest is a request to make apps of a snapshot.
type policyRequest interface {
	GetWake() *api.WakePolicy
	GetHibernateAfter() *durationpb.Duration
	GetRestoreMemory() api.RestoreMemory
}

// newPolicy reads a request. acceptChanged is nil if the request says nothing of it.
func newPolicy(req policyRequest, acceptChanged *bool) (p policy, err error) {
	p.acceptChanged = acceptChanged
	wake, after := req.GetWake(), req.GetHibernateAfter()
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
	if m := req.GetRestoreMemory(); m != api.RestoreMemory_RESTORE_MEMORY_UNSPECIFIED {
		pages := pagesOf(m)
		p.pages = &pages
	}
	return p, nil
}

func (p policy) change(r *app.Record) {
	if p.wake != nil {
		r.Wake = *p.wake
	}
	if p.after != nil {
		r.HibernateAfter = *p.after
	}
	if p.pages != nil {
		r.RestoreMemory = *p.pages
	}
	if p.acceptChanged != nil {
		r.AcceptChanged = *p.acceptChanged
	}
}

func pagesOf(m api.RestoreMemory) restore.Pages {
	if m == api.RestoreMemory_RESTORE_MEMORY_COPIED {
		return restore.Copy
	}
	return restore.Map
}

func showPages(p restore.Pages) api.RestoreMemory {
	if p == restore.Copy {
		return api.RestoreMemory_RESTORE_MEMORY_COPIED
	}
	return api.RestoreMemory_RESTORE_MEMORY_MAPPED
}
