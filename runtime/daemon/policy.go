package daemon

import (
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/preflight"
	"github.com/snapctl/snapctl/template"
	"github.com/snapctl/snapctl/vem/hold"
)

// savedPolicy is what a snapshot keeps of when an app sleeps and wakes, and how.
func (r *record) savedPolicy() *snapshot.Policy {
	p := &snapshot.Policy{
		Wake: r.Wake.Mode.String(), MinBytes: r.Wake.MinBytes, Ignore: slices.Clone(r.Wake.Ignore), SilentAfter: r.Wake.SilentAfter, Timers: r.Wake.Timers,
		HibernateAfter: r.HibernateAfter, AcceptLost: protectionNames(r.AcceptLost), AcceptChangedFiles: r.AcceptChanged,
	}
	if r.RestoreMemory != restore.Map {
		p.RestoreMemory = r.RestoreMemory.String()
	}
	return p
}

// heedPolicy gives an app that is made of a snapshot what the saved one was told.
// A snapshot of an older snapctl has nothing of it.
func (r *record) heedPolicy(p *snapshot.Policy) error {
	if p == nil {
		return nil
	}
	w := hold.WakePolicy{MinBytes: p.MinBytes, Ignore: slices.Clone(p.Ignore), SilentAfter: p.SilentAfter, Timers: p.Timers}
	if err := w.Mode.UnmarshalText([]byte(p.Wake)); err != nil {
		return err
	}
	if err := w.Validate(); err != nil {
		return err
	}
	r.Wake, r.HibernateAfter, r.AcceptChanged = w, max(0, p.HibernateAfter), p.AcceptChangedFiles
	accept, err := protections(p.AcceptLost)
	if err != nil {
		return err
	}
	r.AcceptLost = accept
	if p.RestoreMemory == "" {
		return nil
	}
	return r.RestoreMemory.UnmarshalText([]byte(p.RestoreMemory))
}

// protections reads the names of protections that may be lost.
func protections(names []string) ([]preflight.Protection, error) {
	var out []preflight.Protection
	for _, name := range names {
		p, err := preflight.ParseProtection(name)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
		}
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out, nil
}

func protectionNames(all []preflight.Protection) []string {
	var out []string
	for _, p := range all {
		out = append(out, string(p))
	}
	return out
}

// heedRules does the same for what the rules of a template say.
func (r *record) heedRules(rules *template.Rules) error {
	if rules.Memory == template.MemoryDefault {
		return nil
	}
	return r.RestoreMemory.UnmarshalText([]byte(rules.Memory))
}

// needed is the record of an app that is going to be made of a snapshot: memory that is
// copied is not needed later.
func (r *record) needed(pages restore.Pages) {
	if pages == restore.Copy {
		r.Memory = nil
	}
}

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

func (p policy) change(r *record) {
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
