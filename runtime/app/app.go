package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/snapshot/criu"
)

// App is one app of a daemon: its record, and whose turn it is to change it.
//
// The turn is a queue of operations: only the operation that has the turn changes the
// app, and it takes no other app's turn. What is read of an app may be read without it.
type App struct {
	dir, asideDir string
	turn          chan struct{} // holds one token while an operation goes on

	// Only the holder of the turn uses these.
	gone  bool // see Gone
	aside bool // the record is in asideDir and not yet in dir, see New

	mu      sync.Mutex // guards what follows
	rec     Record
	op      string // the operation that has the turn
	remarks []Note // what that operation has to tell, see Remark
	noted   error  // what rec.LastError says, if this daemon has noted it
	awake   string // why it is not hibernated, though it is to be when it is idle
}

// ErrBusy is an operation that did not get its turn in time.
var ErrBusy = errors.New("busy")

// New makes an app of its record. dir is its state directory. asideDir is one on a tmpfs: a
// ready clone that was handed out is recorded there first, because a busy disk can delay the
// smallest file by 100 ms. While the record in dir still says [Pooled], a new daemon goes by
// the other. A reboot ends the app and the record in asideDir.
func New(dir, asideDir string, rec Record) *App {
	return &App{dir: dir, asideDir: asideDir, turn: make(chan struct{}, 1), rec: rec}
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
	return a.rec.Now()
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

// Mark implements [journal.Subject]: it is how operations change the status. The caller has
// the turn.
func (a *App) Mark(m journal.Mark) error {
	rec, _ := a.Read()
	was := rec.Now()
	rec.Operation = m.Entry
	if m.Ends != "" && m.Ends != journal.Same {
		rec.Status = Status(m.Ends)
	}
	if rec.Now() != was {
		rec.StatusAt = time.Now()
	}
	err := a.write(&rec, m.Keep)
	if err != nil && (!m.IfRoom || !fullDisk(err)) {
		return err
	}
	a.set(rec)
	return nil
}

// Settle gives the app a lasting status, together with what change does to the record, for
// what has happened already: if it can't be written the app has the new status all the same,
// for as long as this daemon runs, and the next one finds out by itself. An operation that is
// open ends. The caller has the turn.
func (a *App) Settle(to Status, keep journal.Keep, change func(*Record)) error {
	rec, _ := a.Read()
	rec.Status, rec.StatusAt, rec.Operation = to, time.Now(), journal.Entry{}
	change(&rec)
	err := a.write(&rec, keep)
	a.set(rec)
	return err
}

// write writes a record as well as keep says.
func (a *App) write(rec *Record, keep journal.Keep) error {
	switch {
	case keep == journal.Nothing:
		return nil
	case keep == journal.Aside:
		if err := rec.Write(a.asideDir, journal.UntilReboot); err != nil {
			return err
		}
		a.aside = true
		return nil
	case a.aside && rec.Now() != Removing: // after a power cut it would never have been handed out
		keep = journal.Forever
	}
	if err := rec.Write(a.dir, keep); err != nil {
		return err
	}
	a.aside = false
	return nil
}

// fullDisk tells whether there was no room to write, which is no reason not to
// remove something.
func fullDisk(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// Change writes a change of the record that is no step. If it fails nothing has
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

// RecordProper writes the record of a ready clone that was handed out to the disk, unless a
// step has done so: see [New]. It does nothing if the app was removed, which on a full disk is
// not on record. The caller has the turn.
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
