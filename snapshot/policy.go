package snapshot

import (
	"net/netip"
	"time"
)

// Policy says what wakes an app, when it is put to sleep, and how it gets its memory
// back. An app that is made of
// a snapshot has it from the one that was saved, unless it is told otherwise.
type Policy struct {
	Wake           string         `json:"wake"` // the mode; the VEM knows which there are
	MinBytes       int            `json:"wake_min_bytes,omitempty"`
	Ignore         []netip.Prefix `json:"wake_ignore,omitempty"`
	SilentAfter    time.Duration  `json:"wake_silent_after_ns,omitempty"` // 0: the VEM's default; negative: never
	Timers         bool           `json:"wake_timers,omitempty"`          // its own timers wake it, too
	WakeElsewhere  string         `json:"wake_elsewhere,omitempty"`       // a host, or any
	HibernateAfter time.Duration  `json:"hibernate_after_ns,omitempty"`   // of no traffic; 0: never
	AcceptLost     []string       `json:"accept_lost,omitempty"`          // protections, see package preflight
	RestoreMemory  string         `json:"restore_memory,omitempty"`       // empty: mapped; the restore knows which there are
	// AcceptChangedFiles has files below binds made, empty, that are gone and that the app
	// could only read.
	AcceptChangedFiles bool `json:"accept_changed_files,omitempty"`
}
