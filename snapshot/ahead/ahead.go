package ahead

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/snapctl/snapctl/snapshot/criu/omit"
	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/memmap"
	"github.com/snapctl/snapctl/snapshot/image/pageset"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/track"
)

// Process is one whose memory is to be copied.
type Process struct {
	PID    int
	Inside uint32 // its number in its own pid namespace, which images have
	Parent int    // as PID
}

// Options say what [Copy] copies, and where to.
type Options struct {
	Processes []Process // parents before their children
	Tracer    string    // the program that serves package inject
	Least     uint64    // if no process has so many pages, nothing is copied
	Dir       string    // an existing directory, on the file system of Store
	Store     *memory.Store
	Earlier   *memmap.Earlier // what is kept of the app's last snapshot; may be nil
	// Ends tells that the app ends when it is saved: what is copied is brought to the disk before, unless it is Volatile.
	Ends, Volatile bool
	// Settle has all processes stand still once, for a moment: what is under way in them that the kernel
	// does not note, such as a read(2) with O_DIRECT, is over then, see package track.
	Settle func(ctx context.Context) error
}

// Memory is memory that was copied. Its methods are for one goroutine at a time.
type Memory struct {
	o         Options
	tracker   *track.Tracker
	kept      []*keptFile
	files     int   // how many kept ones were made
	own       *file // what is copied to it becomes the dump's own; nil without
	processes []*process
	all       uint64                  // how many pages the processes have
	left      map[uint32]*memmap.Left // after Frozen
}

// keptFile is one that becomes a memory file.
type keptFile struct {
	*file
	adopted *memory.File // nil: not yet; pinned
	wasted  bool         // it does not become one, see ownWasted
}

// process is what was copied of one process.
type process struct {
	Process
	kept  []memmap.Place // ascending
	own   []memmap.Place // ascending; what lies in kept, too, is newer
	stale pageset.Set    // in kept, and written to since
}

// Supported returns an error if memory can't be copied so on this host. It needs root.
func Supported() error {
	return errors.Join(track.Supported(), omit.Supported())
}

// ErrNothing tells that no process has memory that is worth to be copied, or can be.
var ErrNothing = errors.New("no memory is copied while the app runs")

// Copy copies memory of processes that run, if there is room for that and for a dump of all of it. Returns
// an error wrapping [ErrNothing], with the reasons, if there is none to be copied. The caller closes what it
// returns when the dump is complete.
//
// It needs what package track needs.
func Copy(ctx context.Context, o Options) (_ *Memory, err error) {
	m := &Memory{o: o}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("copy memory: %w", err), m.Close())
		}
	}()
	var pids []int
	most := uint64(0)
	for _, p := range o.Processes {
		pages := anonymous(p.PID)
		m.all += pages
		if !unmappable(p.PID) {
			pids, most = append(pids, p.PID), max(most, pages)
		}
	}
	if most < o.Least {
		return nil, fmt.Errorf("%w: no process has more than %d pages that could be mapped", ErrNothing, most)
	}
	if err := m.room(m.all); err != nil {
		return nil, err
	}
	// A process with little memory may share it with one that has much.
	if m.tracker, err = track.Start(ctx, o.Tracer, pids, min(o.Least, memmap.MinMapped)); err != nil {
		return nil, err
	}
	tracked := make(map[int]bool)
	for _, pid := range m.tracker.PIDs() {
		tracked[pid] = true
	}
	for _, p := range o.Processes {
		if tracked[p.PID] {
			m.processes = append(m.processes, &process{Process: p})
		}
	}
	if len(m.processes) == 0 {
		return nil, fmt.Errorf("%w: %w", ErrNothing, errors.Join(reasons(m.tracker)...))
	}
	err = m.copyAll(ctx)
	if err == nil && o.Ends {
		err = m.compact(ctx)
	}
	return m, err
}

func reasons(t *track.Tracker) (list []error) {
	for pid, err := range t.Skipped() {
		list = append(list, fmt.Errorf("process %d: %w", pid, err))
	}
	return list
}

const (
	// enough is what an app may have written since a copy for the next one not to be worth while.
	enough = 4 << 20 / image.PageSize
	// rounds is how often memory is copied at most.
	rounds = 4
)

// copyAll copies until little has been written since.
func (m *Memory) copyAll(ctx context.Context) error {
	written, err := m.first(ctx)
	if err != nil {
		return err
	}
	for round := 1; round < rounds; round++ {
		before := written
		if written, err = m.again(ctx); err != nil {
			return err
		}
		if written <= enough || written > before/2 {
			return nil
		}
	}
	return nil
}

// collect finds out what of each process was written, or all that there is, and begins to note anew.
// What can't be tracked any more is left to CRIU.
func (m *Memory) collect(ctx context.Context) (map[*process]pageset.Set, error) {
	written := make(map[*process]pageset.Set)
	m.processes = slices.DeleteFunc(m.processes, func(p *process) bool {
		runs, err := m.tracker.Collect(ctx, p.PID)
		written[p] = setOf(runs)
		return err != nil
	})
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	return written, m.o.Settle(ctx)
}

func setOf(runs []track.Run) pageset.Set {
	list := make([]image.Extent, len(runs))
	for i, r := range runs {
		list[i] = image.Extent{Start: r.Start, Pages: r.Pages}
	}
	return pageset.Of(list...)
}

// first copies all that there is, and returns how many pages.
func (m *Memory) first(ctx context.Context) (pages uint64, err error) {
	to, err := m.keep()
	if err != nil {
		return 0, err
	}
	all, err := m.collect(ctx)
	if err != nil {
		return 0, err
	}
	for _, p := range m.processes {
		from, err := openMemory(p.PID)
		if err != nil {
			continue // it has ended
		}
		others := m.relatives(p)
		err = from.each(ctx, all[p], func(start uint64, content []byte) error {
			pages += uint64(len(content)) / image.PageSize
			found, err := memmap.Find(others, start, content)
			if err != nil {
				return err
			}
			return p.keep(to.file, start, content, found)
		})
		if err = errors.Join(err, from.Close()); err != nil {
			return 0, err
		}
	}
	return pages, m.settle(ctx, to)
}

// keep notes where pages are, and writes those that are nowhere yet.
func (p *process) keep(to *file, start uint64, content []byte, found []memmap.Place) error {
	end := start + uint64(len(content))
	for at := start; at < end; {
		next := memmap.Place{Start: end}
		if len(found) > 0 {
			next, found = found[0], found[1:]
		}
		if at < next.Start {
			place, err := to.append(at, content[at-start:next.Start-start])
			if err != nil {
				return err
			}
			p.kept = join(p.kept, place)
		}
		if next.Pages > 0 {
			p.kept = join(p.kept, next)
		}
		at = max(next.End(), next.Start)
	}
	return nil
}

// join adds a place behind others, or makes the last one longer.
func join(list []memmap.Place, p memmap.Place) []memmap.Place {
	if n := len(list); n > 0 {
		last := &list[n-1]
		if last.File == p.File && last.End() == p.Start && last.Offset+last.Pages == p.Offset {
			last.Pages += p.Pages
			return list
		}
	}
	return append(list, p)
}

// maxSiblings is with how many processes of the same parent one is compared.
const maxSiblings = 4

// relatives are places of memory that a process may have, too: its own in the last snapshot, and that
// of its ancestors and of some of its parent's other children.
func (m *Memory) relatives(p *process) [][]memmap.Place {
	all := m.o.Earlier.Places(p.Inside)
	byPID := make(map[int]*process)
	for _, other := range m.processes {
		byPID[other.PID] = other
	}
	at := p
	for range m.processes {
		if at = byPID[at.Parent]; at == nil || at == p {
			break
		}
		all = append(all, at.kept)
	}
	siblings := 0
	for _, other := range m.processes {
		if other == p || siblings == maxSiblings {
			break
		}
		if other.Parent == p.Parent {
			siblings++
			all = append(all, other.kept)
		}
	}
	return all
}

// again copies what was written since, and returns how many pages that were.
func (m *Memory) again(ctx context.Context) (pages uint64, err error) {
	written, err := m.collect(ctx)
	if err != nil {
		return 0, err
	}
	long := uint64(0)
	for _, p := range m.processes {
		pages += written[p].Pages()
		for _, r := range written[p] {
			if r.Pages >= memmap.MinRun {
				long += r.Pages
			}
		}
		// What was copied before is old, whether it is copied now or not.
		p.stale = p.stale.Union(written[p])
		p.own = memmap.Clip(p.own, memmap.PagesOf(p.own).Subtract(written[p]))
	}
	if !m.fits(2 * pages) { // in a file, and then in the dump
		return 0, nil // they are CRIU's
	}
	switch {
	case !m.o.Ends:
		return pages, m.toOwn(ctx, written)
	case long > enough:
		return pages, m.toKept(ctx, written)
	}
	return pages, nil // they are CRIU's
}

// toOwn copies what was written for the dump to have it itself.
func (m *Memory) toOwn(ctx context.Context, written map[*process]pageset.Set) (err error) {
	if m.own == nil {
		if m.own, err = create(filepath.Join(m.o.Dir, "own")); err != nil {
			return err
		}
	}
	for _, p := range m.processes {
		var list []memmap.Place
		if err := copyRuns(ctx, p.PID, written[p], m.own, &list); err != nil {
			return err
		}
		p.own = memmap.Over(p.own, list)
	}
	return nil
}

// toKept copies what was written, if it follows one another, to a new memory file.
func (m *Memory) toKept(ctx context.Context, written map[*process]pageset.Set) error {
	to, err := m.keep()
	if err != nil {
		return err
	}
	for _, p := range m.processes {
		var list []memmap.Place
		var long pageset.Set
		for _, r := range written[p] {
			if r.Pages >= memmap.MinRun {
				long = append(long, r)
			}
		}
		if err := copyRuns(ctx, p.PID, long, to.file, &list); err != nil {
			return err
		}
		p.kept = memmap.Over(p.kept, list)
		p.stale = p.stale.Subtract(memmap.PagesOf(list))
	}
	return m.settle(ctx, to)
}

// keep makes a file that is to be a memory file.
func (m *Memory) keep() (*keptFile, error) {
	f, err := create(filepath.Join(m.o.Dir, fmt.Sprintf("memory-%d", m.files)))
	if err != nil {
		return nil, err
	}
	m.files++
	k := &keptFile{file: f}
	m.kept = append(m.kept, k)
	return k, nil
}

// settle makes a file a memory file, if that is to be done while the app runs.
func (m *Memory) settle(ctx context.Context, k *keptFile) error {
	if !m.o.Ends {
		return nil
	}
	return m.adopt(ctx, k)
}

func (m *Memory) adopt(ctx context.Context, k *keptFile) error {
	if k.adopted != nil || k.wasted || k.pages == 0 {
		return nil
	}
	adopt := map[bool]func(context.Context, []string) ([]memory.File, error){false: m.o.Store.AdoptAll, true: m.o.Store.AdoptVolatile}
	f, err := adopt[m.o.Volatile](ctx, []string{k.Name()})
	if err != nil {
		return err
	}
	k.adopted = &f[0]
	return nil
}

// Close ends the noting, and unpins and closes files. The directory is the caller's.
func (m *Memory) Close() error {
	var errs []error
	if m.tracker != nil {
		errs = append(errs, m.tracker.Close())
		m.tracker = nil
	}
	for _, k := range m.kept {
		errs = append(errs, k.Close())
		if k.adopted != nil {
			m.o.Store.Unpin([]memory.File{*k.adopted})
		}
	}
	if m.own != nil {
		errs = append(errs, m.own.Close())
	}
	m.kept, m.own = nil, nil
	return errors.Join(errs...)
}
