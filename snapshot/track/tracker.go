package track

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/inject"
	"github.com/snapctl/snapctl/snapshot/pagescan"
)

// A Run is pages that follow each other.
type Run struct {
	Start uint64 // address
	Pages uint64
}

// End is the address behind the run.
func (r Run) End() uint64 { return r.Start + r.Pages*image.PageSize }

// Tracker notes which pages of processes are written. Methods about different processes may be called at
// the same time; those about one must not.
type Tracker struct {
	processes map[int]*process
	skipped   map[int]error
}

// process is a tracked one. Its files refer to the memory that it had at Start, whatever becomes of its
// number or its program (fs/proc/base.c, proc_mem_open). That may be another process's by then: of the
// parent, if it was a child of vfork(2) that had yet to execute its program.
type process struct {
	scanner
	uffd      *os.File
	areas     []area
	collected bool
	err       error // why it is not tracked any more
}

// Start begins to track processes, which may run. exe is the binary that serves the tracer, see
// [inject.Start]. least is how many pages a process has to have in memory that can be tracked to be worth it.
//
// Each process's threads stand still for about a millisecond. Those that can't be tracked are
// left out, and the reasons are in Skipped. The caller closes the Tracker, also if no process is
// tracked. It fails only if ctx is done or exe can't be started.
func Start(ctx context.Context, exe string, pids []int, least uint64) (_ *Tracker, err error) {
	t := &Tracker{processes: make(map[int]*process), skipped: make(map[int]error)}
	var tracer *inject.Tracer
	defer func() {
		if tracer != nil {
			err = errors.Join(err, tracer.Close())
		}
		if err != nil {
			err = errors.Join(fmt.Errorf("track memory: %w", err), t.Close())
		}
	}()
	for _, pid := range pids {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		if err := Supported(); err != nil {
			t.skipped[pid] = err
			continue
		}
		p, err := open(pid, least)
		if err != nil {
			t.skipped[pid] = err
			continue
		}
		if tracer == nil || tracer.Ended() {
			if tracer != nil {
				_ = tracer.Close() // why it ended was told before
			}
			if tracer, err = inject.Start(ctx, exe); err != nil {
				return nil, errors.Join(err, p.close())
			}
		}
		if err := p.begin(tracer, pid); err != nil {
			t.skipped[pid] = errors.Join(err, p.close())
			continue
		}
		t.processes[pid] = p
	}
	return t, nil
}

// open opens a process that can be tracked.
func open(pid int, least uint64) (_ *process, err error) {
	p := &process{}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if p.pagemap, err = os.Open(fmt.Sprintf("/proc/%d/pagemap", pid)); err != nil {
		return nil, err
	}
	m, err := readMemory(pid)
	switch {
	case err != nil:
		return nil, err
	case m.ring:
		return nil, fmt.Errorf("%w: it has a ring of io_setup(2)", ErrAsynchronous)
	case len(m.fit) == 0 || m.pages < least:
		return nil, fmt.Errorf("%w: %d pages", ErrLittle, m.pages)
	}
	p.areas = m.fit
	if err := checkThreads(pid); err != nil {
		return nil, err
	}
	return p, checkDescriptors(pid)
}

// begin registers what is to be tracked. An area that has changed since it was read about is left out.
func (p *process) begin(tracer *inject.Tracer, pid int) (err error) {
	p.uffd, err = tracer.Open(pid, inject.Call{Number: unix.SYS_USERFAULTFD, Args: [6]uint64{unix.O_CLOEXEC | userModeOnly}})
	if err != nil {
		return err
	}
	if err := enable(p.uffd); err != nil {
		return err
	}
	var refused error
	p.areas = slices.DeleteFunc(p.areas, func(a area) bool {
		err := register(p.uffd, a)
		if err != nil {
			refused = err
		}
		return err != nil
	})
	if len(p.areas) == 0 {
		return refused
	}
	return nil
}

// PIDs are the processes that are tracked, ascending.
func (t *Tracker) PIDs() []int { return slices.Sorted(maps.Keys(t.processes)) }

// Skipped are the processes that are not tracked, and why.
func (t *Tracker) Skipped() map[int]error { return maps.Clone(t.skipped) }

// Collect returns the pages of a process that hold something and were written since Collect was called
// before, or all of them at the first call, and notes writes anew. Those that are holes, or the zero
// page, are not returned. A page that is written after it was returned is returned again.
//
// The process should be made to stand still once before the pages are copied, see the package comment.
// If Collect fails the process is not tracked any more, and each call of Collect and Scan fails. The
// error wraps [ErrAsynchronous], [ErrOwn] or [ErrEnded].
func (t *Tracker) Collect(ctx context.Context, pid int) ([]Run, error) {
	p, err := t.process(pid)
	if err != nil {
		return nil, err
	}
	runs, err := p.collect(ctx, pid)
	if err != nil {
		p.err = fmt.Errorf("collect written memory of process %d: %w", pid, err)
		return nil, p.err
	}
	return runs, nil
}

func (p *process) collect(ctx context.Context, pid int) (runs []Run, err error) {
	q := query{
		flags: pagescan.WriteProtect,
		with:  pagescan.Tracked, without: p.nothing(), either: pagescan.Present | pagescan.Swapped,
		tell: pagescan.Tracked, atOnce: few,
	}
	// At first pages count that seem to be protected already. They may be left over from an
	// earlier Tracker in memory that was moved since (before Linux 6.13, mm/mremap.c).
	if p.collected {
		q.with |= pagescan.Written
	}
	for _, a := range p.areas {
		if err := p.scan(ctx, a, q, func(r pagescan.Region) { runs = add(runs, r) }); err != nil {
			return nil, err
		}
	}
	p.collected = true
	if err := checkRing(pid); err != nil {
		return nil, err
	}
	return runs, checkDescriptors(pid)
}

// Scan tells, of a process that stands still, which pages are as they were when Collect returned
// them, and which hold something else than that, or were never returned. Pages in neither are holes or
// zero pages, or in memory that is not tracked, or not any more. Scan changes nothing. It takes some
// 4 ms for 1 GiB.
//
// What was advised about memory since Start (mlock(2), madvise(2), mprotect(2)) is not looked at: that
// would take four times as long. So what a dump does not allow to be mapped has to be found there.
//
// Returns an error wrapping [ErrEnded], and those of Collect.
func (t *Tracker) Scan(ctx context.Context, pid int) (clean, dirty []Run, err error) {
	p, err := t.process(pid)
	if err != nil {
		return nil, nil, err
	}
	q := query{
		with: pagescan.Tracked, without: p.nothing(), either: pagescan.Present | pagescan.Swapped,
		tell: pagescan.Written,
	}
	all := area{p.areas[0].start, p.areas[len(p.areas)-1].end}
	// ErrEnded is told by what there was at Start. But only what the process has now is looked at.
	if _, _, err := p.scanSome(area{all.start, all.start + image.PageSize}, q); err != nil {
		return nil, nil, fmt.Errorf("scan memory of process %d: %w", pid, err)
	}
	now, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		return nil, nil, fmt.Errorf("scan memory of process %d: %w: %w", pid, ErrEnded, err)
	}
	defer now.Close() //nolint:errcheck // only read from
	s := scanner{pagemap: now, regions: p.regions}
	err = s.scan(ctx, all, q, func(r pagescan.Region) {
		if r.Categories&pagescan.Written != 0 || !p.collected {
			dirty = add(dirty, r)
		} else {
			clean = add(clean, r)
		}
	})
	if err != nil {
		return nil, nil, fmt.Errorf("scan memory of process %d: %w", pid, err)
	}
	return clean, dirty, nil
}

// nothing are the categories of pages that hold nothing.
func (p *process) nothing() uint64 { return pagescan.Zero | guardCategory() }

func (t *Tracker) process(pid int) (*process, error) {
	p := t.processes[pid]
	if p == nil {
		return nil, fmt.Errorf("process %d is not tracked", pid)
	}
	return p, p.err
}

// add adds a region to runs, or makes the last one longer.
func add(runs []Run, r pagescan.Region) []Run {
	pages := (r.End - r.Start) / image.PageSize
	if n := len(runs); n > 0 && runs[n-1].End() == r.Start {
		runs[n-1].Pages += pages
		return runs
	}
	return append(runs, Run{r.Start, pages})
}

// Close ends the tracking of all processes. It may be called more than once.
//
// It takes some 40 ms for 1 GiB, in which a process that runs waits for some milliseconds at a time
// when it maps memory or touches new pages; so it is not for the time in which one stands still. Of a
// process that has ended there is nothing to do.
func (t *Tracker) Close() error {
	var errs []error
	for _, p := range t.processes {
		errs = append(errs, p.close())
	}
	t.processes = nil
	return errors.Join(errs...)
}

// unregister does in steps what the kernel does at once when the userfaultfd is closed. What fails
// is left to that.
func (p *process) unregister() {
	const huge = 2 << 20 // pages that are not split if steps begin there
	q := query{with: pagescan.Tracked, either: pagescan.Present | pagescan.Swapped, atOnce: few}
	for _, a := range p.areas {
		for p.uffd != nil && a.start < a.end {
			_, next, err := p.scanSome(a, q)
			if err != nil {
				return
			}
			next = min((next+huge-1)&^(huge-1), a.end)
			if errors.Is(unregister(p.uffd, area{a.start, next}), unix.ESRCH) {
				return
			}
			a.start = next
		}
	}
}

func (p *process) close() error {
	p.unregister()
	var errs []error
	for _, f := range []*os.File{p.uffd, p.pagemap} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}
