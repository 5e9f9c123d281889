package engine

import (
	"time"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/vem/wake"
)

// Policy is what a request to make apps of a snapshot says of when they sleep and
// wake, and how. What it does not say is as it was saved.
type Policy struct {
	Wake  *wake.Policy
	After *time.Duration
	Pages *restore.Pages
	// acceptChanged is as in restore.Options.
	AcceptChanged *bool
}

// Change enters what the request says into the record of an app that is to be made.
func (p Policy) Change(r *app.Record) {
	if p.Wake != nil {
		r.Wake = *p.Wake
	}
	if p.After != nil {
		r.HibernateAfter = *p.After
	}
	if p.Pages != nil {
		r.RestoreMemory = *p.Pages
	}
	if p.AcceptChanged != nil {
		r.AcceptChanged = *p.AcceptChanged
	}
}
