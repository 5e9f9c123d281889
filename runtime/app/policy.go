package app

import (
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/alarm"
	"github.com/snapctl/snapctl/snapshot/preflight"
	"github.com/snapctl/snapctl/template"
	"github.com/snapctl/snapctl/vem/wake"
)

// SavedPolicy is what a snapshot keeps of when an app sleeps and wakes, and how.
func (r *Record) SavedPolicy() *snapshot.Policy {
	p := &snapshot.Policy{
		Wake: r.Wake.Mode.String(), MinBytes: r.Wake.MinBytes, Ignore: slices.Clone(r.Wake.Ignore), SilentAfter: r.Wake.SilentAfter, Timers: r.Wake.Timers, WakeElsewhere: r.WakeElsewhere,
		HibernateAfter: r.HibernateAfter, AcceptLost: ProtectionNames(r.AcceptLost), AcceptChangedFiles: r.AcceptChanged,
	}
	if r.RestoreMemory != restore.Map {
		p.RestoreMemory = r.RestoreMemory.String()
	}
	return p
}

// HeedPolicy gives an app that is made of a snapshot what the saved one was told.
// A snapshot of an older snapctl has nothing of it.
func (r *Record) HeedPolicy(p *snapshot.Policy) error {
	if p == nil {
		return nil
	}
	w := wake.Policy{MinBytes: p.MinBytes, Ignore: slices.Clone(p.Ignore), SilentAfter: p.SilentAfter, Timers: p.Timers}
	if err := w.Mode.UnmarshalText([]byte(p.Wake)); err != nil {
		return err
	}
	if err := w.Validate(); err != nil {
		return err
	}
	r.WakeElsewhere = p.WakeElsewhere
	r.Wake, r.HibernateAfter, r.AcceptChanged = w, max(0, p.HibernateAfter), p.AcceptChangedFiles
	accept, err := Protections(p.AcceptLost)
	if err != nil {
		return err
	}
	r.AcceptLost = accept
	if p.RestoreMemory == "" {
		return nil
	}
	return r.RestoreMemory.UnmarshalText([]byte(p.RestoreMemory))
}

// Protections reads the names of protections that may be lost.
func Protections(names []string) ([]preflight.Protection, error) {
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

// ProtectionNames are the names of protections that may be lost.
func ProtectionNames(all []preflight.Protection) []string {
	var out []string
	for _, p := range all {
		out = append(out, string(p))
	}
	return out
}

// HeedRules does the same for what the rules of a template say.
func (r *Record) HeedRules(rules *template.Rules) error {
	if rules.Memory == template.MemoryDefault {
		return nil
	}
	return r.RestoreMemory.UnmarshalText([]byte(rules.Memory))
}

// ForgetMemory takes the memory files off the record of an app that is going to be made of
// a snapshot, if its memory is copied: it does not need them later.
func (r *Record) ForgetMemory(pages restore.Pages) {
	if pages == restore.Copy {
		r.Memory = nil
	}
}

// Ringing tells whether the timer for which a running app was woken is about to expire.
func (r *Record) Ringing(now time.Time) bool {
	if !r.Wake.Timers || r.Alarm == nil || r.Alarm.Wake().After(r.StatusAt) {
		return false
	}
	at := r.Alarm.At
	if at.Before(r.StatusAt) {
		at = r.StatusAt
	}
	return now.Before(at.Add(alarm.Lead))
}

// PolicyChange is what a request to make apps of a snapshot says of when they sleep and
// wake, and how. What it does not say is as it was saved.
type PolicyChange struct {
	Wake *wake.Policy
	// Elsewhere is told with Wake, see [Policy].
	Elsewhere string
	After     *time.Duration
	Pages     *restore.Pages
	// AcceptChanged is as in restore.Options.
	AcceptChanged *bool
}

// Change enters what the request says into the record of an app that is to be made.
func (p PolicyChange) Change(r *Record) {
	if p.Wake != nil {
		r.Wake, r.WakeElsewhere = *p.Wake, p.Elsewhere
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
