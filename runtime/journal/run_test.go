package journal_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/runtime/journal"
)

// move moves a thing: it is taken, and then put, after which there is no way back.
var move = journal.Table{
	Name: "move", Doing: "moving", From: []string{"here"},
	Steps: []journal.Step{
		{Name: "begun", Means: "the intent is recorded", Keep: journal.UntilReboot},
		{Name: "taken", Means: "it is nowhere", Then: "put it"},
		{Name: "put", Means: "it is there", Commits: true, Doing: "arriving"},
		{Name: "recorded", Means: "it is recorded", Keep: journal.Forever, Ends: "there"},
		{Name: "told", Means: "everybody knows"},
	},
}

// thing is what is moved: where it is, and what its record says of that.
type thing struct {
	where string
	now   record // in memory
	disk  record // on the disk
	full  bool   // the disk
	told  []error
	ends  []string // how operations ended
}

type record struct {
	status string
	open   journal.Entry
}

func (x *thing) Mark(m journal.Mark) error {
	next := record{x.now.status, m.Entry}
	if m.Ends != "" && m.Ends != journal.Same {
		next.status = m.Ends
	}
	if m.Keep != journal.Nothing {
		if x.full {
			return errFull
		}
		x.disk = next
	}
	x.now = next
	return nil
}

func (x *thing) Name() string   { return "thing" }
func (x *thing) Note(err error) { x.told = append(x.told, err) }

var errFull = errors.New("no space left")

func here() *thing {
	r := record{status: "here"}
	return &thing{where: "here", now: r, disk: r}
}

func kind() *journal.Kind[*thing] {
	return &journal.Kind[*thing]{
		Table: move, Log: slog.New(slog.DiscardHandler),
		Committed: func(_ context.Context, r *journal.Run[*thing]) (bool, error) {
			if r.Subject.where == "unknown" {
				return false, errors.New("nobody answers")
			}
			return r.Subject.where == "there", nil
		},
		Undo: func(_ context.Context, r *journal.Run[*thing]) error {
			r.Subject.where = "here"
			r.Subject.ends = append(r.Subject.ends, "undone")
			return r.Close()
		},
		Finish: func(ctx context.Context, r *journal.Run[*thing]) error {
			r.Subject.ends = append(r.Subject.ends, "finished")
			return r.At(ctx, "recorded")
		},
	}
}

// carry is the body of a move.
func carry(r *journal.Run[*thing]) func(context.Context) error {
	return func(ctx context.Context) error {
		r.Subject.where = "nowhere"
		if err := r.At(ctx, "taken"); err != nil {
			return err
		}
		r.Subject.where = "there"
		for _, step := range []string{"put", "recorded", "told"} {
			if err := r.At(ctx, step); err != nil {
				return err
			}
		}
		return nil
	}
}

func do(ctx context.Context, x *thing) error {
	r, err := kind().Begin(x, nil)
	if err != nil {
		return err
	}
	return r.Do(ctx, carry(r))
}

func failAt(t *testing.T, point fault.Name) context.Context {
	t.Helper()
	plan, err := fault.Parse(string(point) + "=error")
	qt.Assert(t, qt.IsNil(err))
	return fault.With(t.Context(), plan)
}

func TestDo(t *testing.T) {
	x := here()
	qt.Assert(t, qt.IsNil(do(t.Context(), x)))
	qt.Check(t, qt.Equals(x.where, "there"))
	qt.Check(t, qt.Equals(x.now, record{status: "there"}))
	qt.Check(t, qt.Equals(x.disk, x.now))
	qt.Check(t, qt.HasLen(x.ends, 0)) // the body did it all
	qt.Check(t, qt.HasLen(x.told, 0))
}

func TestErrorAtEachStep(t *testing.T) {
	for _, point := range move.Points() {
		t.Run(string(point), func(t *testing.T) {
			x := here()
			err := do(failAt(t, point), x)
			if !move.IsCommitted(strings.TrimPrefix(string(point), "move.")) {
				qt.Check(t, qt.ErrorIs(err, fault.ErrInjected))
				qt.Check(t, qt.Equals(x.where, "here"))
				qt.Check(t, qt.Equals(x.now, record{status: "here"}))
				qt.Check(t, qt.DeepEquals(x.ends, []string{"undone"}))
				qt.Check(t, qt.HasLen(x.told, 0))
			} else {
				qt.Check(t, qt.IsNil(err))
				qt.Check(t, qt.Equals(x.where, "there"))
				qt.Check(t, qt.Equals(x.now, record{status: "there"}))
				qt.Assert(t, qt.HasLen(x.told, 1))
				qt.Check(t, qt.ErrorIs(x.told[0], fault.ErrInjected))
			}
			qt.Check(t, qt.Equals(x.disk, x.now))
		})
	}
}

// What a killed daemon leaves is what was on the disk, and where the thing is.
func TestRecover(t *testing.T) {
	begun := record{"here", journal.Entry{Kind: "move", Step: "begun", Doing: "moving"}}
	for where, want := range map[string]struct {
		end    string
		status string
	}{"here": {"undone", "here"}, "nowhere": {"undone", "here"}, "there": {"finished", "there"}} {
		x := &thing{where: where, now: begun, disk: begun}
		qt.Assert(t, qt.IsNil(kind().Recover(t.Context(), x, begun.open)))
		qt.Check(t, qt.DeepEquals(x.ends, []string{want.end}))
		qt.Check(t, qt.Equals(x.now, record{status: want.status}))
		qt.Check(t, qt.Equals(x.disk, x.now))
		qt.Check(t, qt.HasLen(x.told, 0))
	}

	// On a guess nothing is done.
	x := &thing{where: "unknown", now: begun, disk: begun}
	qt.Check(t, qt.ErrorMatches(kind().Recover(t.Context(), x, begun.open), "nobody answers"))
	qt.Check(t, qt.Equals(x.disk, begun))
	qt.Check(t, qt.HasLen(x.ends, 0))
}

func TestBodyThatFailsTooLate(t *testing.T) {
	x := here()
	r, err := kind().Begin(x, nil)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(x.now, record{"here", journal.Entry{Kind: "move", Step: "begun", Doing: "moving"}}))
	broken := errors.New("broken")
	err = r.Do(t.Context(), func(context.Context) error {
		x.where = "there" // and before it can say so
		return broken
	})
	qt.Check(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(x.ends, []string{"finished"}))
	qt.Assert(t, qt.HasLen(x.told, 1))
	qt.Check(t, qt.ErrorIs(x.told[0], broken))
}

func TestFullDisk(t *testing.T) {
	x := here()
	x.full = true
	qt.Check(t, qt.ErrorIs(do(t.Context(), x), errFull))
	qt.Check(t, qt.Equals(x.now, record{status: "here"}))
	qt.Check(t, qt.HasLen(x.ends, 0)) // nothing has begun

	// After there is no way back it goes on in memory, and the next daemon finds out.
	x = here()
	r, err := kind().Begin(x, nil)
	qt.Assert(t, qt.IsNil(err))
	x.full = true
	qt.Check(t, qt.IsNil(r.Do(t.Context(), carry(r))))
	qt.Check(t, qt.Equals(x.now, record{status: "there"}))
	qt.Check(t, qt.Equals(x.disk.open.Step, "begun"))
	qt.Assert(t, qt.HasLen(x.told, 1))
	qt.Check(t, qt.ErrorIs(x.told[0], errFull))

	// An operation that can't record that it is undone is over in memory.
	x = here()
	r, err = kind().Begin(x, nil)
	qt.Assert(t, qt.IsNil(err))
	x.full = true
	err = r.Do(t.Context(), func(context.Context) error { return errors.New("broken") })
	qt.Check(t, qt.ErrorMatches(err, "(?s)broken.*move: no space left.*"))
	qt.Check(t, qt.Equals(x.now, record{status: "here"}))
	qt.Check(t, qt.IsTrue(x.disk.open.Open()))
}

// What must be written is tried again, by the next operation.
func TestStepThatMustBeWritten(t *testing.T) {
	k := kind()
	k.Steps = slices.Clone(k.Steps)
	k.Steps[3].Must = true
	x := here()
	r, err := k.Begin(x, nil)
	qt.Assert(t, qt.IsNil(err))
	x.full = true
	qt.Check(t, qt.ErrorIs(r.Do(t.Context(), carry(r)), errFull))
	qt.Check(t, qt.DeepEquals(x.ends, []string{"finished"})) // that was tried
	qt.Check(t, qt.Equals(x.now.open.Step, "put"))
	qt.Check(t, qt.Equals(x.now.status, "here"))
	qt.Check(t, qt.ErrorIs(k.Recover(t.Context(), x, x.now.open), errFull))
	x.full = false
	qt.Assert(t, qt.IsNil(k.Recover(t.Context(), x, x.now.open)))
	qt.Check(t, qt.Equals(x.now, record{status: "there"}))
	qt.Check(t, qt.Equals(x.disk, x.now))
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	x := here()
	r, err := kind().Begin(x, nil)
	qt.Assert(t, qt.IsNil(err))
	err = r.Do(ctx, func(ctx context.Context) error {
		cancel()
		return ctx.Err()
	})
	qt.Check(t, qt.ErrorIs(err, context.Canceled))
	qt.Check(t, qt.DeepEquals(x.ends, []string{"undone"}))
}

func TestUnknownStep(t *testing.T) {
	x := here()
	r, err := kind().Begin(x, nil)
	qt.Assert(t, qt.IsNil(err))
	err = r.Do(t.Context(), func(ctx context.Context) error { return r.At(ctx, "thrown") })
	qt.Check(t, qt.ErrorMatches(err, `operation move has no step "thrown"`))
}

// Listeners are told what the table says.
func TestStepsAreTold(t *testing.T) {
	bus := event.NewBus(nil)
	op := bus.Begin("move", event.About{App: "x"})
	x := here()
	r, err := kind().Begin(x, nil)
	qt.Assert(t, qt.IsNil(err))
	r.Tell(op)
	qt.Assert(t, qt.IsNil(r.Do(t.Context(), func(ctx context.Context) error {
		r.Step("look for it")
		return carry(r)(ctx)
	})))
	ended := op.End(nil)
	qt.Check(t, qt.HasLen(ended.Steps, 2))
	for _, want := range []string{"look for it", "put it"} {
		_, ok := ended.Steps[want]
		qt.Check(t, qt.IsTrue(ok), qt.Commentf("%s", want))
	}
}

func TestPages(t *testing.T) {
	qt.Check(t, qt.Equals(journal.Crashes([]journal.Table{move}), "| operation | undone at | finished at |\n| --- | --- | --- |\n"+
		"| move | **begun**, taken | put, **recorded**, told |\n"))
	qt.Check(t, qt.StringContains(journal.List([]journal.Table{move}), "| `move.begun` | the intent is recorded | until a reboot |\n| `move.taken` | it is nowhere | - |\n"))
	qt.Check(t, qt.DeepEquals(journal.Points([]journal.Table{move, move})[4:6], []fault.Name{"move.told", "move.begun"}))
}
