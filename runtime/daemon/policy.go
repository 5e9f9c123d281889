package daemon

import (
	"time"

	"github.com/snapctl/snapctl/restore"
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
