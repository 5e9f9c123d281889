package clone

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/birth"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/template"
)

// A hand-out gives a ready clone to whoever asked for a clone. It is to take no longer than
// to start a program does. What is left to do is: a name, instance.json, what the rules
// say, the thaw, and a record in the app's run directory.
//
// All else is done before, see [birth.Maker.MakeReady]. The machine id is written. The network link is
// complete but for two routes and two entries of the fast path's table, without which its
// device drops everything.
//
// Or it is done afterwards, when nobody has asked for a clone for 100 ms (or for 1 s if
// somebody always has): the record is written to the disk, and the pool is filled. To fill it
// takes both processors and the kernel's lock on all networks, for which the next hand-out
// would wait. If the host goes down before that, it has never heard of the clone.

// ErrNoneReady is a pool that is empty.
var ErrNoneReady = errors.New("no clone stands ready")

// takeFromPool takes a clone that stands ready, and its turn, if there is one and the request
// allows it. pooled tells whether it has taken one.
func (c *Clones) takeFromPool(ctx context.Context, one *cloning) (pooled bool, release func(), err error) {
	if err := ctx.Err(); err != nil {
		return false, nil, err // another one has failed
	}
	special := len(one.req.Endpoints) > 0 || one.req.Files == birth.PrivateFiles
	if one.req.Pool == NeverPool || special && one.req.Pool == UsePool {
		return false, nil, nil
	}
	if special {
		return false, nil, fmt.Errorf("%w: clones of the pool have endpoints and shared files already: ask for neither, or have others made", errdefs.ErrInvalidArgument)
	}
	release, err = c.takeReady(one)
	if release == nil && err == nil && one.req.Pool == OnlyPool {
		err = ErrNoneReady
		if pages := one.req.Policy.Pages; pages != nil {
			err = fmt.Errorf("%w with its memory %s", err, *pages)
		}
		err = app.Refusef("template %s: %w", one.t.Name, err)
	}
	return release != nil, release, err
}

// takeReady gives a ready clone the name and the number that were asked for, and takes its turn.
// It returns no release if none stands ready whose memory came back as is asked for.
func (c *Clones) takeReady(one *cloning) (release func(), err error) {
	for _, a := range c.pools.standing(one.t) {
		if pages := one.req.Policy.Pages; pages != nil && a.Pages() != *pages {
			continue
		}
		r, release, err := c.Maker.TakeReady(a, one.name(), func(rec *app.Record) {
			rec.Template, rec.Number, rec.Generation = one.t.Name, one.req.numbers[one.index], template.NewGeneration()
			rec.Batch = one.req.together.name
			one.req.Policy.Change(rec)
		})
		if err != nil {
			return nil, err
		}
		if r != nil {
			c.left(a)
			one.run = r
			return release, nil
		}
	}
	return nil, nil
}

// handOut makes an app that was taken from the pool the clone that was asked for.
// If it fails nothing is left of the clone.
func (c *Clones) handOut(ctx context.Context, one cloning, op *event.Operation) error {
	defer c.Soon()
	one.run.Tell(op)
	return one.run.Do(ctx, func(ctx context.Context) error {
		plan, err := one.plan()
		if err != nil {
			return err
		}
		if err := c.Maker.HandOut(ctx, one.run, plan); err != nil {
			return err
		}
		c.handedOut(one.run.Subject.App)
		return nil
	})
}
