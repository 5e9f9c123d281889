// Package preflight looks, before an app is frozen, at its processes and threads. It finds
// what CRIU can't save, and what CRIU saves but can't bring back. Without that, an app with
// something that can't be saved would be frozen for nothing, and one with something that can't
// be brought back would sleep for ever.
//
// It reads /proc and compares by kcmp(2), and changes nothing. What it finds may be over a
// moment later, and something else may begin: it is for the ordinary case, and for a message
// that names the process. CRIU's own checks come after it.
//
// It needs CAP_SYS_PTRACE. It needs CONFIG_KCMP to see what threads have of their own, and
// does not see that without. Cost: some 0.1 ms a process and 20 us a thread; 1 us for
// each mapping and each mapped MiB of a process that has locked or sealed memory.
package preflight

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrUnsupported is wrapped by every [UnsupportedError].
var ErrUnsupported = errors.New("not supported")

// UnsupportedError says what a process or thread has that can't be saved, or not brought
// back. Nothing was changed.
type UnsupportedError struct {
	PID    int    // as the caller's pid namespace numbers it
	TID    int    // of a thread that is not the process's first; else 0
	Name   string // of the process or thread, as in /proc/PID/comm
	What   string // completes "process 12 (top) ..."
	Remedy string // what the user can do
}

// Error implements error.
func (e *UnsupportedError) Error() string {
	return e.Reason() + ": " + e.Remedy
}

// Reason is the error without the remedy.
func (e *UnsupportedError) Reason() string { return who(e.PID, e.TID, e.Name) + " " + e.What }

// Unwrap gives [ErrUnsupported].
func (e *UnsupportedError) Unwrap() error { return ErrUnsupported }

func who(pid, tid int, name string) string {
	if tid != 0 {
		return fmt.Sprintf("thread %d (%s) of process %d", tid, name, pid)
	}
	return fmt.Sprintf("process %d (%s)", pid, name)
}

// Note is something that will be otherwise when the app comes back.
type Note struct {
	Text   string
	Remedy string // may be empty
}

// Report is what a look at processes before the freeze found.
type Report struct {
	// Unsupported are what stands in the way.
	Unsupported []*UnsupportedError
	// Notes are what does not, and is to be listed.
	Notes []Note
}

// Err joins what stands in the way; nil if nothing does.
func (r *Report) Err() error {
	errs := make([]error, len(r.Unsupported))
	for i, e := range r.Unsupported {
		errs[i] = e
	}
	return errors.Join(errs...)
}

// Options says what is looked for.
type Options struct {
	// Root is the app's first process.
	Root int
	// Cgroup is the app's cgroup v2, as /proc/PID/cgroup shows it to the caller.
	Cgroup string
	// Accept are the protections that may be lost: they become notes.
	Accept []Protection
}

// Look looks at the processes of an app, whose ids are given, and tells all that it finds,
// in one pass. A process that ends meanwhile is no finding. The error is that the system
// could not be looked at, or ctx's.
func Look(ctx context.Context, pids []int, opt Options) (*Report, error) {
	l, err := newLook(ctx, pids, opt)
	if err != nil {
		return nil, err
	}
	if err := l.judge(l.state, l.cgroups, l.schedule, l.threads, l.shared, l.protections, l.memory); err != nil {
		return nil, err
	}
	l.sessions()
	l.terminals()
	return l.report, nil
}

// LookAgain looks once more, when the processes are frozen, for what would never come
// back and CRIU says nothing of: a process may have got it since [Look]. What CRIU itself
// refuses it leaves to CRIU.
func LookAgain(ctx context.Context, pids []int, opt Options) error {
	l, err := newLook(ctx, pids, opt)
	if err != nil {
		return err
	}
	if err := l.judge(l.cgroups, l.schedule, l.threads); err != nil {
		return err
	}
	l.sessions()
	return l.report.Err()
}

func newLook(ctx context.Context, pids []int, opt Options) (*look, error) {
	l := &look{opt: opt, processes: make(map[int]*process, len(pids)), report: &Report{}}
	for _, pid := range pids {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		p, err := readProcess(pid)
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look at process %d: %w", pid, err)
		}
		l.processes[pid], l.order = p, append(l.order, p)
	}
	return l, nil
}

// judge has each process judged.
func (l *look) judge(all ...func(*process) error) error {
	for _, judge := range all {
		for _, p := range l.order {
			if err := judge(p); err != nil && !gone(err) {
				return fmt.Errorf("look at process %d: %w", p.pid, err)
			}
		}
	}
	return nil
}

// look is one call of Look or LookAgain.
type look struct {
	opt       Options
	processes map[int]*process // by id
	order     []*process
	report    *Report
}

func (l *look) refuse(p *process, what, remedy string) {
	l.report.Unsupported = append(l.report.Unsupported, &UnsupportedError{PID: p.pid, Name: p.name, What: what, Remedy: remedy})
}

func (l *look) refuseThread(p *process, t *thread, what, remedy string) {
	e := &UnsupportedError{PID: p.pid, Name: t.name, What: what, Remedy: remedy}
	if t.tid != p.pid {
		e.TID = t.tid
	}
	l.report.Unsupported = append(l.report.Unsupported, e)
}

func (l *look) note(text, remedy string) {
	l.report.Notes = append(l.report.Notes, Note{text, remedy})
}

// gone tells the errors of a process or thread that ended.
func gone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH)
}
