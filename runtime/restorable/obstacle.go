package restorable

import (
	"context"
	"errors"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/snapshot/preflight"
)

// Obstacle is something that keeps a saved app from coming back.
type Obstacle struct {
	Path   string // of the file that it is about, if it is about one
	Reason string
	Remedy string // may be empty
	// Err is the error, if that says no more than the reason; else nil.
	Err error
}

// ObstaclesOf are the obstacles of which errors tell. Errors may be nil.
func ObstaclesOf(errs ...error) []Obstacle {
	var all []Obstacle
	for _, err := range errs {
		if err == nil || errors.Is(err, context.Canceled) {
			continue
		}
		if f, ok := errors.AsType[*restore.FileError](err); ok {
			all = append(all, Obstacle{Path: f.Path, Reason: f.Reason, Remedy: f.Remedy})
			continue
		}
		if u, ok := errors.AsType[*preflight.UnsupportedError](err); ok {
			all = append(all, Obstacle{Reason: u.Reason(), Remedy: u.Remedy})
			continue
		}
		all = append(all, Obstacle{Reason: err.Error(), Err: err})
	}
	return all
}

// flatten is all errors that are joined in one.
func flatten(err error) []error {
	if err == nil {
		return nil
	}
	several, ok := err.(interface{ Unwrap() []error })
	if !ok || errors.Join(several.Unwrap()...).Error() != err.Error() { // it says more than they do
		return []error{err}
	}
	var all []error
	for _, one := range several.Unwrap() {
		all = append(all, flatten(one)...)
	}
	return all
}
