package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/snapshot/criu"
)

// App is one app of a daemon: its record, and whose turn it is to change it.
//
// The turn is a queue of operations: only the operation that has the turn changes the
// app, and it takes no other app's turn. What is read of an app may be read without it.
type App struct {
	dir  string
	turn chan struct{} // holds one token while an operation goes on

	// Only the holder of the turn uses these.
	gone  bool // see Gone
	aside bool // see RecordAside

	mu      sync.Mutex // guards what follows
	rec     Record
	op      string // the operation that has the turn
	remarks []Note // what that operation has to tell, see Remark
	noted   error  // what rec.LastError says, if this daemon has noted it
}

// ErrBusy is an operation that did not get its turn in time.
var ErrBusy = errors.New("busy")

// New is the app that a record tells of. Its record is in the directory dir, or is going
// to be with the first step.
func New(dir string, rec Record) *App {
	return &App{dir: dir, turn: make(chan struct{}, 1), rec: rec}
}

// Dir is the app's state directory.
func (a *App) Dir() string { return a.dir }

// Take waits for the app's turn and returns a function that gives it back.
// Returns an error wrapping ErrBusy, that names the operation in the way, if
// ctx ends first.
func (a *App) Take(ctx context.Context, op string) (release func(), err error) {
	select {
	case a.turn <- struct{}{}:
	case <-ctx.Done():
		rec, other := a.Read()
		return nil, fmt.Errorf("%s %s: %w: %s is going on: %w", op, rec.Name, ErrBusy, other, ctx.Err())
	}
	return a.taken(op), nil
}

// TryTake takes the app's turn if it is free.
func (a *App) TryTake(op string) (release func(), ok bool) {
	select {
	case a.turn <- struct{}{}:
		return a.taken(op), true
	default:
		return nil, false
	}
}

// Free tells whether no operation has the app's turn at this moment.
func (a *App) Free() bool { return len(a.turn) == 0 }

// TakeForGood waits for the app's turn, which nobody gets any more.
func (a *App) TakeForGood() { a.turn <- struct{}{} }

// taken notes who has the turn and returns a function that gives it back.
func (a *App) taken(op string) (release func()) {
	a.mu.Lock()
	a.op, a.remarks = op, nil
	a.mu.Unlock()
	return func() {
		a.mu.Lock()
		a.op = ""
		a.mu.Unlock()
		<-a.turn
	}
}

// Read returns a copy of the app's record, and the operation that has the turn or "".
func (a *App) Read() (rec Record, op string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.rec, a.op
}

// Name is the app's present name. That of its directories and cgroup may be another one,
// see [Record.DirName].
func (a *App) Name() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.rec.Name
}

// Status is the app's present status.
func (a *App) Status() Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.rec.Status
}

// Pages is how the app's memory comes back.
func (a *App) Pages() restore.Pages {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.rec.RestoreMemory
}

// Gone tells the holder of the turn that nothing is left of the app: its name may be
// another app's.
func (a *App) Gone() bool { return a.gone }

// Step persists a new status, together with what change does to the record; change may
// be nil. Returns a [StepError] if the app's status does not allow the step. If it fails
// the app's status is the old one. The caller has the turn.
func (a *App) Step(to Status, durable journal.Durability, change func(*Record)) error {
	rec, _ := a.Read()
	if err := rec.step(to, change); err != nil {
		return err
	}
	if a.aside && to != Removing { // after a power cut it would never have been handed out
		durable = journal.Forever
	}
	if err := rec.Write(a.dir, durable); err != nil {
		return err
	}
	a.aside = false
	a.set(rec)
	return nil
}

// Assume changes the status, and with change the record, in memory only. It is for steps
// after which a new daemon would do the same as before them, so that writing the record
// would gain nothing. If it fails nothing has changed. The caller has the turn.
func (a *App) Assume(to Status, change func(*Record)) error {
	rec, _ := a.Read()
	if err := rec.step(to, change); err != nil {
		return err
	}
	a.set(rec)
	return nil
}

// Settle is Step for what has happened already: if it can't be persisted the app
// has the new status all the same, for as long as this daemon runs, and the
// next one finds out by itself.
func (a *App) Settle(to Status, durable journal.Durability, change func(*Record)) error {
	err := a.Step(to, durable, change)
	if err == nil {
		return nil
	}
	if illegal := a.Assume(to, change); illegal != nil {
		return illegal
	}
	return err
}

// Change persists a change of the record that is no step. If it fails nothing has
// changed. The caller has the turn.
func (a *App) Change(change func(*Record)) error {
	rec, _ := a.Read()
	change(&rec)
	if err := rec.Write(a.dir, journal.Forever); err != nil {
		return err
	}
	a.set(rec)
	return nil
}

// Amend changes the record in memory. It is written with the next step. The caller has
// the turn. Whoever has read the record may use what it points to: change replaces that,
// and writes nothing into it. It calls no method of the app.
func (a *App) Amend(change func(*Record)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(&a.rec)
}

func (a *App) set(rec Record) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rec = rec
}

// RecordAside records that a ready clone runs, in the directory dir, a tmpfs, because a
// busy disk can delay the smallest file by 100 ms. While the record proper still says
// [Pooled], a new daemon goes by this one. RecordProper writes the record proper later. A
// reboot ends the app and the record in dir. The caller has the turn.
func (a *App) RecordAside(dir string) error {
	rec, _ := a.Read()
	rec.Status, rec.StatusAt = Running, time.Now()
	if err := rec.Write(dir, journal.UntilReboot); err != nil {
		return err
	}
	a.aside = true
	return a.Assume(Running, nil)
}

// RecordProper undoes RecordAside, unless a step has done so. It does nothing if the app
// was removed, which on a full disk is not on record. The caller has the turn.
func (a *App) RecordProper() error {
	if !a.aside || a.gone {
		return nil
	}
	rec, _ := a.Read()
	if err := rec.Write(a.dir, journal.Forever); err != nil {
		return err
	}
	a.aside = false
	return nil
}

// Note keeps an error that nobody waits for, to be shown with the app; nil takes the last
// one away. What CRIU says of it goes into the record, each line on its own.
func (a *App) Note(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rec.LastError, a.noted = "", err
	if err != nil {
		a.rec.LastError = criu.Explain(err)
	}
}

// Noted is the error that was noted last; nil if there is none, or if an earlier daemon
// has noted it: then the record has its text only.
func (a *App) Noted() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.noted
}

// Remark adds a note to what the operation that has the app's turn tells. It may be
// called by several at the same time. The same note is told once.
func (a *App) Remark(text, remedy string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := Note{Text: text, Remedy: remedy}
	if !slices.Contains(a.remarks, n) {
		a.remarks = append(a.remarks, n)
	}
}

// Remarked are the notes of the operation that has the app's turn.
func (a *App) Remarked() []Note {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.remarks)
}
