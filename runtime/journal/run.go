package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/fault"
)

// Entry is an operation that is open: it was begun and has not ended. The record of what it is
// done to has it.
type Entry struct {
	Kind string `json:"kind,omitempty"` // the name of its table
	Step string `json:"step,omitempty"` // the last one that is written
	// Doing is as in [Table].
	Doing string `json:"doing,omitempty"`
}

// Open tells whether there is an operation.
func (e Entry) Open() bool { return e.Kind != "" }

// Mark is what a step changes in the record of what the operation is done to.
type Mark struct {
	Entry Entry // the open operation; not open if the step ends it
	// Ends is as in [Step].
	Ends string
	// Keep and IfRoom are as in [Step].
	Keep   Keep
	IfRoom bool
}

// Subject is what operations are done to: it has the record with the open entry. Whoever
// begins an operation has the subject for himself until the operation has ended.
type Subject interface {
	// Mark changes the record, and writes it as well as m.Keep says. If it fails nothing has
	// changed.
	Mark(m Mark) error
	// Name is for the log.
	Name() string
	// Note is given what went wrong when it was too late to undo anything.
	Note(err error)
}

// Kind is one kind of operation: its table, and how one is undone or finished that failed or
// that a killed daemon left. Both go the same way.
type Kind[S Subject] struct {
	Table
	Log *slog.Logger // of what went wrong too late
	// Committed asks the world, not the record, whether there is no way back. An error says
	// that it is not known: then the entry stays, and nothing is run or removed on a guess.
	// If Committed is nil there is always a way back.
	Committed func(context.Context, *Run[S]) (bool, error)
	// Undo and Finish take the operation back, or to its end, from any step on; also one that
	// was half undone or finished. They end it: see [Run.Close]. If they fail the entry
	// stays, and the next operation on the subject, or the next daemon, tries again. Finish
	// may be nil if the step that commits is also the one that ends the operation.
	Undo, Finish func(context.Context, *Run[S]) error
}

// Run is one operation that goes on.
type Run[S Subject] struct {
	Subject S
	// Left is set for an operation that is taken up: an earlier daemon was killed in it, or
	// it could neither be undone nor be finished.
	Left bool

	kind *Kind[S]
	op   *event.Operation // nil if nobody is told

	mu        sync.Mutex // guards what follows: parts of an operation may go on side by side
	entry     Entry
	keep      Keep // how well the entry is written
	committed bool
	closed    bool
}

// Begin begins an operation on a subject whose status has been found to allow it: the first
// step is written. op may be nil. If it fails nothing has begun. The caller goes on with
// [Run.Do].
func (k *Kind[S]) Begin(s S, op *event.Operation) (*Run[S], error) {
	r := &Run[S]{Subject: s, kind: k, op: op}
	return r, r.mark(&k.Steps[0])
}

// Do does an operation that was begun, of which body does all that comes after the first step.
// If body fails the operation is undone, or it is finished and there is no error. If body does
// not fail it has come to a step that ends the operation, or has called [Run.Close].
func (r *Run[S]) Do(ctx context.Context, body func(context.Context) error) error {
	err := r.meet(ctx, &r.kind.Steps[0])
	if err == nil {
		err = body(ctx)
	}
	return r.end(context.WithoutCancel(ctx), err)
}

// Tell has op told of the steps of an operation that was begun without one.
func (r *Run[S]) Tell(op *event.Operation) { r.op = op }

// Recover ends an operation whose entry was found in the record of the subject. An operation
// that is undone is no error.
func (k *Kind[S]) Recover(ctx context.Context, s S, e Entry) error {
	r := &Run[S]{Subject: s, Left: true, kind: k, entry: e, keep: UntilReboot}
	r.committed = k.IsCommitted(e.Step)
	return r.end(context.WithoutCancel(ctx), errLeft)
}

// errLeft has [Run.end] end an operation that was left.
var errLeft = errors.New("left by a daemon that was killed")

func (r *Run[S]) end(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	var cause []error
	if !r.Left {
		cause = append(cause, err)
	}
	committed := r.committed
	if !committed && r.kind.Committed != nil {
		var unknown error
		if committed, unknown = r.kind.Committed(ctx, r); unknown != nil {
			return errors.Join(append(cause, unknown)...)
		}
	}
	if committed {
		r.committed = true
		if !r.Left {
			r.told(ctx, err)
		}
		if r.kind.Finish == nil { // it has ended with the step that commits it
			return nil
		}
		return r.kind.Finish(ctx, r)
	}
	if uerr := r.kind.Undo(ctx, r); uerr != nil {
		return errors.Join(append(cause, uerr)...)
	}
	return errors.Join(cause...)
}

// At comes to a step of the operation's table. It writes the step as well as the table says,
// tells listeners what is done from here on, and meets the fault point. It fails only as long
// as there is a way back, or if the step must be written and can't be: else, what goes wrong is
// told, and the operation goes on.
func (r *Run[S]) At(ctx context.Context, step string) error {
	at, err := r.kind.find(step)
	if err != nil {
		return err
	}
	s := &r.kind.Steps[at]
	if err := r.mark(s); err != nil {
		if s.Must || !r.late() {
			return err
		}
		r.told(ctx, err) // what can't be written now the next daemon finds out
	}
	return r.meet(ctx, s)
}

// mark makes a step the subject's. If it can't be written, and there is no way back, it is
// the subject's all the same, unless it must be written.
func (r *Run[S]) mark(s *Step) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.entry
	e.Kind, e.Step = r.kind.Name, s.Name
	if e.Doing == "" {
		e.Doing = r.kind.Doing
	}
	if s.Doing != "" {
		e.Doing = s.Doing
	}
	m := Mark{Entry: e, Ends: s.Ends, Keep: s.Keep, IfRoom: s.IfRoom}
	if s.Ends != "" {
		m.Entry = Entry{}
	}
	if r.closed { // a step after the end
		r.committed = r.committed || s.Commits
		return nil
	}
	err := r.Subject.Mark(m)
	if err != nil && r.committed && !s.Must {
		m.Keep = Nothing
		err = errors.Join(err, r.Subject.Mark(m))
	} else if err != nil {
		return err
	}
	r.entry, r.closed = m.Entry, s.Ends != ""
	r.keep = max(r.keep, m.Keep)
	r.committed = r.committed || s.Commits
	return err
}

// meet is what At does of a step that is the subject's.
func (r *Run[S]) meet(ctx context.Context, s *Step) error {
	if r.op != nil && s.Then != "" {
		r.op.Step(s.Then)
	}
	late := r.late()
	if late {
		ctx = context.WithoutCancel(ctx)
	}
	err := fault.Point(ctx, r.kind.Point(s.Name))
	if err != nil && late {
		r.told(ctx, err)
		return nil
	}
	return err
}

// told is what becomes of an error when it is too late to undo anything.
func (r *Run[S]) told(ctx context.Context, err error) {
	r.Subject.Note(err)
	r.kind.Log.ErrorContext(ctx, "too late to undo it", slog.String("operation", r.kind.Name), slog.String("name", r.Subject.Name()), slog.Any("error", err))
}

// late tells whether there is no way back.
func (r *Run[S]) late() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.committed
}

// Step tells listeners what is done now: a part of a step that a lower room names.
func (r *Run[S]) Step(name string) {
	if r.op != nil {
		r.op.Step(name)
	}
}

// Close ends an operation that is undone, or that is finished elsewhere than at a step: the
// status is what it was before. It is written if the operation has been.
func (r *Run[S]) Close() error {
	if r.closed {
		return nil
	}
	m := Mark{Ends: Same, Keep: min(r.keep, UntilReboot)}
	err := r.Subject.Mark(m)
	if err != nil {
		// In memory it is over: the app goes on. A new daemon ends it once more.
		m.Keep = Nothing
		err = errors.Join(fmt.Errorf("%s: %w", r.kind.Name, err), r.Subject.Mark(m))
	}
	r.closed = true
	return err
}
