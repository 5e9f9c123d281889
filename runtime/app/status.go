package app

import (
	"fmt"
	"slices"

	"github.com/snapctl/snapctl/runtime/journal"
)

// Status is what an app is doing.
type Status string

// Running, Held and Stopped last, and Pooled as long as its daemon: these are in the record.
// The others are those of an operation that is open, see [Record.Now].
const (
	Creating     Status = "creating"
	Running      Status = "running"
	Snapshotting Status = "snapshotting"
	Hibernating  Status = "hibernating"
	Held         Status = "held"     // hibernated: no process, its sockets held
	Waking       Status = "waking"   // its processes are being made, none runs
	Resuming     Status = "resuming" // its processes may run: if they do, there is no way back
	Restoring    Status = "restoring"
	Moving       Status = "moving" // to another host, or from one
	Pooled       Status = "pooled" // made, frozen before it ever ran, without a name
	Stopped      Status = "stopped"
	Removing     Status = "removing"
)

// Statuses are all statuses that there are.
func Statuses() []Status {
	return []Status{Creating, Running, Snapshotting, Hibernating, Held, Waking, Resuming, Restoring, Moving, Pooled, Stopped, Removing}
}

// Known tells whether there is such a status.
func (s Status) Known() bool { return slices.Contains(Statuses(), s) }

// lasting tells whether a record may have the status. An app that is being made has none.
func (s Status) lasting() bool {
	return s == "" || s == Running || s == Held || s == Stopped || s == Pooled
}

// Now is what the app is doing: what its open operation says, or else its lasting status.
func (r *Record) Now() Status {
	if r.Operation.Doing != "" {
		return Status(r.Operation.Doing)
	}
	return r.Status
}

// StatusError is an operation that an app's status does not allow.
type StatusError struct {
	App    string
	Status Status
	Done   string // what it would do to the app, as a participle
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("app %s is %s: it can't be %s", e.App, e.Status, e.Done)
}

// older are the statuses by which records of snapctl before there were entries tell which
// operation was open, and how far it had come.
var older = map[Status]State{
	Creating:     {Operation: journal.Entry{Kind: "run", Step: "begun"}},
	Restoring:    {Operation: journal.Entry{Kind: "restore", Step: "begun"}},
	Snapshotting: {Status: Running, Operation: journal.Entry{Kind: "snapshot", Step: "begun"}},
	Hibernating:  {Status: Running, Operation: journal.Entry{Kind: "hibernate", Step: "begun"}},
	Waking:       {Status: Held, Operation: journal.Entry{Kind: "wake", Step: "begun"}},
	Resuming:     {Status: Held, Operation: journal.Entry{Kind: "wake", Step: "resuming"}},
	Removing:     {Operation: journal.Entry{Kind: "remove", Step: "begun"}},
}

// upgrade makes a record of an older snapctl one of this.
func (r *Record) upgrade() {
	if s, ok := older[r.Status]; ok {
		s.Operation.Doing = string(r.Status)
		r.Status, r.Operation = s.Status, s.Operation
	}
	if !r.Operation.Open() && (r.Restacking != nil || r.Relinking) {
		r.Operation = journal.Entry{Kind: "restack", Step: "begun"}
	}
}
