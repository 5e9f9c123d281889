package app

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// Status is what an app is doing. Only Running, Held and Stopped last, and Pooled as long as
// its daemon. The others are steps of an operation: if a new daemon finds an app in one of
// them, it finishes or undoes the operation.
type Status string

// The statuses of an app.
const (
	Creating     Status = "creating"
	Running      Status = "running"
	Snapshotting Status = "snapshotting"
	Hibernating  Status = "hibernating"
	Held         Status = "held"     // hibernated: no process, its sockets held
	Waking       Status = "waking"   // its processes are being made, none runs
	Resuming     Status = "resuming" // its processes may run: there is no way back
	Restoring    Status = "restoring"
	Pooled       Status = "pooled" // made, frozen before it ever ran, without a name
	Stopped      Status = "stopped"
	Removing     Status = "removing"
)

// legal are the steps that an app may take. What a daemon left in the middle of a
// step can be removed: a clone of a request that was never over is, see package clone.
var legal = map[Status][]Status{
	"":           {Creating, Restoring},
	Creating:     {Running, Removing},
	Restoring:    {Running, Removing, Pooled},
	Pooled:       {Restoring, Stopped, Removing},
	Running:      {Snapshotting, Hibernating, Stopped, Removing},
	Snapshotting: {Running, Stopped, Removing},
	Hibernating:  {Running, Held, Stopped, Removing},
	Held:         {Waking, Stopped, Removing},
	Waking:       {Resuming, Held, Removing},
	Resuming:     {Running, Held, Stopped, Removing},
	Stopped:      {Removing},
	Removing:     {},
}

// StepError is a step that an app's status does not allow.
type StepError struct {
	App      string
	From, To Status
}

func (e *StepError) Error() string {
	if done, ok := beingDone[e.To]; ok {
		return fmt.Sprintf("app %s is %s: it can't be %s", e.App, e.From, done)
	}
	return fmt.Sprintf("app %s is %s: it can't become %s", e.App, e.From, e.To)
}

// beingDone says in users' words what a step does to an app.
var beingDone = map[Status]string{
	Hibernating: "hibernated", Snapshotting: "saved", Waking: "woken", Resuming: "woken", Stopped: "stopped", Removing: "removed",
}

// Statuses are all statuses that there are.
func Statuses() []Status {
	all := slices.Sorted(maps.Keys(legal))
	return slices.DeleteFunc(all, func(s Status) bool { return s == "" })
}

// Known tells whether there is such a status.
func (s Status) Known() bool {
	_, ok := legal[s]
	return ok && s != ""
}

// May returns a [StepError] if an app of this name and status can't take the step.
func (s Status) May(name string, to Status) error {
	if !slices.Contains(legal[s], to) {
		return &StepError{App: name, From: s, To: to}
	}
	return nil
}

// step changes the record as a step does. Returns a [StepError] if its status does not
// allow that.
func (r *Record) step(to Status, change func(*Record)) error {
	if err := r.Status.May(r.Name, to); err != nil {
		return err
	}
	r.Status, r.StatusAt = to, time.Now()
	if change != nil {
		change(r)
	}
	return nil
}
