package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/snapctl/snapctl/runtime/checkpoint/early"
	"github.com/snapctl/snapctl/snapshot/criu"
)

// ErrShortcut is an app that could not be saved with [Shortcuts], through no fault of anybody but CRIU
// or them: without, it may be.
var ErrShortcut = errors.New("CRIU failed where the app was to stand still for less time")

// A Care says how an app is saved that could not be in the usual way. The zero value is the usual way.
type Care struct {
	// Thorough looks for what leads out of the app in a way that misses nothing, and takes
	// longer. A copy is always made so.
	Thorough bool
	// Plain makes no use of shortcuts.
	Plain bool
}

// Heed takes more care after an error, and tells whether there is more to take: then it is worth while
// to try again. It is so once for each cause.
func (c *Care) Heed(err error) bool {
	before := *c
	c.Thorough = c.Thorough || errors.Is(err, ErrChanged)
	c.Plain = c.Plain || errors.Is(err, ErrShortcut)
	return *c != before
}

// errHidden is a dump to which what was hidden from CRIU can't be added.
var errHidden = errors.New("what was hidden from CRIU can't be added to the images")

// blame wraps [ErrShortcut] around an error whose cause may be that CRIU was shown less than there is. Ours,
// and those of whoever has called off the operation, are not among these.
func (o *taking) blame(ctx context.Context, err error) error {
	failed, ok := errors.AsType[*criu.Error](err)
	alone := ok && failed.Alone || errors.Is(err, early.ErrUnfit) || errors.Is(err, errHidden)
	if o.criu == 0 || !alone || ctx.Err() != nil {
		return err
	}
	o.t.Log.WarnContext(ctx, "CRIU failed, so the app is saved once more, without shortcuts: with its memory and connections by CRIU alone",
		slog.String("app", o.s.Name), slog.Any("error", err))
	return fmt.Errorf("%w: %w", ErrShortcut, err)
}

// remarkPlain tells that shortcuts failed, and what they cost.
func (o *taking) remarkPlain() {
	o.s.Note("CRIU failed at first, and saved the app without shortcuts: it stood still for longer",
		"look for the cause in the daemon's log; snapctld --copy-ahead 0 --hide-connections 0 has no app saved with shortcuts")
}
