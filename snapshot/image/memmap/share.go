package memmap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/pstree"

	"github.com/snapctl/snapctl/snapshot/image"
)

// Shared is what [Share] found.
type Shared struct {
	// Images are the pages images that another process has mapped now, and the name that the dump
	// has for each.
	Images map[string]string
	// Earlier are the names that the dump has for files of the earlier one, sorted: "/" and the key.
	Earlier []string
}

// Share has the processes of a dump that were forked share the pages images, as
// they shared their memory: what is the same at the same addresses of two of them is
// stored once. CRIU writes it once for each. What earlier, which may be nil, has of the same
// process at the same addresses is not stored again.
//
// The images are changed in place: a process that has pages in common with another one
// becomes one that has the other's pages image mapped, like a file of an earlier dump,
// and its own pages image has the rest. So [Measure], [Map] and
// [Copy] are to be told of the files that it returns, as of the bases
// of other dumps: each with the name that the dump has for it.
//
// bases are as for [Measure]. On an error, which wraps [wire.ErrMalformed] or
// [image.ErrInconsistent] if the images are the cause, the dump is only fit to be removed.
//
// Cost: to read the pages that may be shared twice, and to write what is not shared.
func Share(ctx context.Context, images string, bases map[string]int64, earlier *Earlier) (*Shared, error) {
	d, err := image.OpenTree(ctx, os.DirFS(images))
	if err != nil {
		return nil, fmt.Errorf("share memory: %w", err)
	}
	if len(d.Tree) < 2 && earlier == nil {
		return &Shared{}, nil
	}
	e, err := editInPlace(images, bases)
	if err != nil {
		return nil, fmt.Errorf("share memory: %w", err)
	}
	f := &family{edit: e, dump: d, earlier: earlier, lent: make(map[string]string), used: make(map[string]bool)}
	defer f.close()
	for _, entry := range d.Tree {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("share memory: %w", err)
		}
		if err := f.process(ctx, entry); err != nil {
			return nil, fmt.Errorf("share memory of process %d: %w", entry.GetPid(), err)
		}
	}
	if err := e.writeTable(); err != nil {
		return nil, fmt.Errorf("share memory: %w", err)
	}
	return &Shared{Images: f.lent, Earlier: slices.Sorted(maps.Keys(f.used))}, nil
}

// A family is the processes of a dump that were looked at so far.
type family struct {
	edit    *edit
	dump    *image.Dump
	earlier *Earlier
	lenders []*lender // in the order of the tree: parents first
	open    []*os.File
	lent    map[string]string // the pages images that another process has mapped, and their names
	used    map[string]bool   // the names of the earlier dump's files that a process has mapped
}

func (f *family) close() {
	for _, file := range f.open {
		_ = file.Close() // only read from
	}
}

// process has a process share what it can, and makes it a lender of the rest.
func (f *family) process(ctx context.Context, entry *pstree.PstreeEntry) error {
	t, plan, err := f.edit.plan(f.dump, entry)
	if err != nil || plan == nil {
		return err
	}
	path := filepath.Join(f.edit.view.Dir(), pagesName(t))
	changed, err := f.share(ctx, t, plan, path)
	if err != nil {
		return err
	}
	if changed {
		if t, err = f.dump.MemoryTask(entry); err != nil {
			return err
		}
		if plan, err = NewPlan(t, f.edit.base, func(file uint32) Insistence { return f.edit.insist[file] }); err != nil {
			return err
		}
	}
	if len(plan.Mapped) == 0 {
		return nil
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	f.open = append(f.open, file)
	f.lenders = append(f.lenders, &lender{
		pid: entry.GetPid(), ppid: entry.GetPpid(), image: pagesName(t), file: file, runs: plan.Mapped,
		key:  pagesName(t) + memorySuffix,
		size: int64(t.Pages.StoredPages() * image.PageSize),
	})
	return nil
}

// memorySuffix ends what the images have for a memory file: no path of a file of the app has it
// (fs/d_path.c).
const memorySuffix = "//memory"

// relatives are the lenders with which a process is compared: itself as it was before, its parent,
// and that one's ancestors, then processes of the same parent.
func (f *family) relatives(entry *pstree.PstreeEntry) []*lender {
	byPID := make(map[uint32]*lender, len(f.lenders))
	for _, o := range f.lenders {
		byPID[o.pid] = o
	}
	parents := make(map[uint32]uint32, len(f.dump.Tree))
	for _, e := range f.dump.Tree {
		parents[e.GetPid()] = e.GetPpid()
	}
	all := f.earlier.of(entry.GetPid())
	at := entry.GetPpid()
	for range f.dump.Tree { // no longer: a tree that nobody dumped may have a circle
		if o := byPID[at]; o != nil && !slices.Contains(all, o) {
			all = append(all, o)
		}
		at = parents[at]
	}
	siblings := 0
	for _, o := range f.lenders {
		if o.ppid == entry.GetPpid() && !slices.Contains(all, o) && siblings < maxSiblings {
			siblings++
			all = append(all, o)
		}
	}
	return all
}

// share edits the images of one process.
func (f *family) share(ctx context.Context, t *image.Task, plan *Plan, path string) (changed bool, err error) {
	relatives := f.relatives(t.Entry)
	vmas := t.MM.GetVmas()
	if len(relatives) == 0 || marksHeap(vmas) { // a guard can't cover many ranges there
		return false, nil
	}
	runs, err := findRuns(t.Pages, vmas)
	if err != nil {
		return false, err
	}
	s := &sharing{}
	guarded := len(plan.Mapped) > 0 || plan.guarded()
	var rest []Run
	for _, r := range runs {
		if plan.fit[r.VMA] && (guarded || !plan.data[r.VMA]) {
			s.open = append(s.open, r)
		} else {
			rest = append(rest, r)
		}
	}
	own, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer own.Close() //nolint:errcheck // only read from
	s.file = own
	for _, o := range relatives {
		if err := s.find(ctx, o); err != nil {
			return false, err
		}
	}
	if len(s.segments) == 0 {
		return false, nil
	}
	s.open = append(s.open, rest...)
	kept := s.choose(guarded, min(maxRuns, max(maxMappings-len(vmas), 0)/2))
	if len(s.segments) == 0 {
		return false, nil
	}
	return true, errors.Join(f.mappings(t, plan, s.segments), setPagemap(f.edit.view, t, kept), keepPages(f.edit.view, pagesName(t), kept))
}

// mappings has segments of a process's memory come from the pages of their lenders.
func (f *family) mappings(t *image.Task, plan *Plan, segments []segment) error {
	slices.SortFunc(segments, func(a, b segment) int { return cmp.Compare(a.Start, b.Start) })
	ids := make(map[*lender]uint32)
	cuts := make([]cut, len(segments))
	for i, g := range segments {
		if ids[g.lender] == 0 {
			id, err := f.edit.add(g.lender.key)
			if err != nil {
				return err
			}
			ids[g.lender], f.edit.bases[id] = id, File{Key: g.lender.key, SizeBytes: g.lender.size}
			if name := "/" + g.lender.key; g.lender.image == "" {
				f.used[name] = true
			} else {
				f.lent[g.lender.image] = name
			}
		}
		cuts[i] = cut{Run: Run{Start: g.Start, Pages: g.Pages, Offset: g.theirs, VMA: g.VMA}, file: ids[g.lender]}
	}
	pieces := plan.pieces(t.MM.GetVmas(), func(file uint32) uint32 { return file }, cuts)
	return editMappings(f.edit.view, t, pieces)
}
