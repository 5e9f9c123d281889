package restore

import (
	"context"
	"errors"
)

// Rehearse does all that [Run] does with images before CRIU is asked to restore them, and
// undoes it: nothing is made below binds. It returns an error if Run would, joined of all
// that it would be refused for, and is for who is about to end the app that was saved.
//
// Of o it needs Snapshot, Manifest, Place but for what only CRIU gets, and HostFiles.
// Connections, sockets and memory are none of its business.
func Rehearse(ctx context.Context, o Options) (err error) {
	plan, err := NewPlan(o.Manifest, nil)
	if err != nil {
		return err
	}
	plan.rehearsal = true
	o.Lost, o.Note = nil, nil
	missing := plan.openHostFiles(ctx, o)
	if missing == nil {
		defer plan.host.close()
	}
	_, drop, err := prepare(ctx, o, plan)
	if err == nil {
		err = drop()
	}
	return errors.Join(missing, err)
}
