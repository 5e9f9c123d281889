package memmap

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/pstree"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/guard"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// Files names, for CRIU to inherit them, the files that hold memory. CRIU
// looks a key up as it is, see [openfile.ReplaceSockets].
type Files struct {
	// Pages are the pages images of the dump ("pages-1.img") that may be mapped.
	Pages map[string]string
	// Bases are files of earlier dumps that the processes had mapped, by the
	// name that this dump has for them ("file[1f:2a]", from CRIU's --external).
	Bases map[string]File
}

// A File is a file of an earlier dump.
type File struct {
	Key       string
	SizeBytes int64
}

// Map turns stored pages of private anonymous memory into private mappings
// of the pages image that holds them, for CRIU to map and not to copy, and adds a
// seccomp filter that keeps such memory from behaving as a file's, see [Guard]. It
// returns the keys that CRIU must be given files for.
//
// Edited are mm-*.img, pagemap-*.img, pages-*.img (which in the view holds those
// pages alone that are still to be copied), files.img, core-*.img and seccomp.img.
//
// On an error, which wraps [wire.ErrMalformed] or [image.ErrInconsistent] if the images are
// the cause, the view is only fit to be removed. A dump that builds on another
// (CRIU's --prev-images-dir) is refused.
func Map(ctx context.Context, v *image.View, files Files) (keys []string, err error) {
	d, err := image.OpenTree(ctx, os.DirFS(v.Dir()))
	if err != nil {
		return nil, fmt.Errorf("map memory: %w", err)
	}
	e, err := newEdit(v, files)
	if err != nil {
		return nil, fmt.Errorf("map memory: %w", err)
	}
	for _, entry := range d.Tree {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("map memory: %w", err)
		}
		if err := e.process(d, entry); err != nil {
			return nil, fmt.Errorf("map memory of process %d: %w", entry.GetPid(), err)
		}
	}
	if err := errors.Join(e.writeTable(), e.guards.Write()); err != nil {
		return nil, fmt.Errorf("map memory: %w", err)
	}
	return slices.Sorted(maps.Keys(e.used)), nil
}

// A edit is one run over the images.
type edit struct {
	view   *image.View
	files  Files
	img    *image.Image          // files.img
	bases  map[uint32]File       // by file id
	insist map[uint32]Insistence // likewise
	lastID uint32
	added  []image.Record
	used   map[string]bool
	pages  map[uint32]bool // pages images that are a process's already
	pids   map[uint32]bool // likewise
	guards *guard.Edit
}

// newEdit reads files.img.
func newEdit(v *image.View, files Files) (*edit, error) {
	e := &edit{
		view: v, files: files, used: make(map[string]bool), guards: guard.NewEdit(v),
		pages: make(map[uint32]bool), pids: make(map[uint32]bool),
	}
	return e, e.table()
}

// editInPlace is newEdit for a dump itself, with files of earlier ones by the names and sizes that it has
// for them.
func editInPlace(images string, bases map[string]int64) (*edit, error) {
	files := make(map[string]File, len(bases))
	for name, size := range bases {
		files[name] = File{Key: name, SizeBytes: size}
	}
	return newEdit(image.InPlace(images), Files{Bases: files})
}

func (e *edit) table() error {
	data, err := e.view.Read("files.img")
	if err != nil {
		return err
	}
	if e.img, err = image.Decode(data); err != nil {
		return fmt.Errorf("read files.img: %w", err)
	}
	if e.img.Type != image.TypeFiles {
		return fmt.Errorf("read files.img: %w: it is of type %s", wire.ErrMalformed, e.img.Type)
	}
	e.bases, e.insist = make(map[uint32]File), make(map[uint32]Insistence)
	for i, rec := range e.img.Records {
		f, err := image.ParseOpenFile(rec.Message)
		if err != nil {
			return fmt.Errorf("read file %d: %w", i, err)
		}
		e.lastID = max(e.lastID, f.ID)
		if f.Kind != image.FileReg {
			continue
		}
		name, err := f.RegName()
		if err != nil {
			return fmt.Errorf("read file %d: %w", i, err)
		}
		if base, ok := e.files.Bases[string(name)]; ok {
			e.bases[f.ID] = base
		}
		if kind := ProgramInsists(string(name)); kind != insistsNot {
			e.insist[f.ID] = kind
		}
	}
	return nil
}

// add makes an entry for a file that CRIU inherits and returns its id. CRIU shares
// pages between a process and its child where both map the same id, whatever the
// offset (check_cow_vmas in criu/mem.c): so each process has ids of its own.
func (e *edit) add(key string) (uint32, error) {
	if e.lastID == math.MaxUint32 {
		return 0, fmt.Errorf("add file: %w: no id is left", image.ErrInconsistent)
	}
	e.lastID++
	e.added = append(e.added, image.Record{Message: image.InheritedFile(e.lastID, key)})
	e.used[key] = true
	return e.lastID, nil
}

func (e *edit) writeTable() error {
	if len(e.added) == 0 {
		return nil
	}
	e.img.Records = append(e.img.Records, e.added...)
	return e.view.Replace("files.img", e.img.Encode())
}

// base tells the file of an earlier dump from others.
func (e *edit) base(id uint32) (size int64, ok bool) {
	f, ok := e.bases[id]
	return f.SizeBytes, ok
}

// plan reads the memory of a process and plans for it. There is no plan for a
// dead one.
func (e *edit) plan(d *image.Dump, entry *pstree.PstreeEntry) (*image.Task, *Plan, error) {
	if e.pids[entry.GetPid()] {
		return nil, nil, fmt.Errorf("%w: the process is there twice", image.ErrInconsistent)
	}
	e.pids[entry.GetPid()] = true
	t, err := d.MemoryTask(entry)
	if err != nil || !t.Alive() {
		return nil, nil, err
	}
	if threads := entry.GetThreads(); len(threads) == 0 || threads[0] != entry.GetPid() {
		return nil, nil, fmt.Errorf("%w: threads %d", image.ErrInconsistent, threads)
	}
	if e.pages[t.Pages.PagesID] {
		return nil, nil, fmt.Errorf("%w: pages %d are another process's", image.ErrInconsistent, t.Pages.PagesID)
	}
	e.pages[t.Pages.PagesID] = true
	size, ok := d.Sizes[pagesName(t)]
	if stored := t.Pages.StoredPages(); !ok || stored > maxStored || uint64(size) != stored*image.PageSize {
		return nil, nil, fmt.Errorf("%w: %s has %d bytes instead of %d pages", image.ErrInconsistent, pagesName(t), size, stored)
	}
	plan, err := NewPlan(t, e.base, func(file uint32) Insistence { return e.insist[file] })
	return t, plan, err
}

// maxStored bounds the pages of a process: the size of more would overflow.
const maxStored = 1 << 50

func pagesName(t *image.Task) string { return fmt.Sprintf("pages-%d.img", t.Pages.PagesID) }

func (e *edit) process(d *image.Dump, entry *pstree.PstreeEntry) error {
	t, plan, err := e.plan(d, entry)
	if err != nil || plan == nil {
		return err
	}
	own := pagesName(t)
	key, ok := e.files.Pages[own]
	if !ok {
		plan.Mapped = nil
	}
	ranges := plan.ranges(t)
	if len(ranges) > 0 {
		if err := e.mappings(t, plan, key); err != nil {
			return err
		}
	}
	if len(plan.Mapped) > 0 {
		if err := setPagemap(e.view, t, plan.copied); err != nil {
			return err
		}
		if err := keepPages(e.view, own, plan.copied); err != nil {
			return err
		}
	}
	return e.guards.Process(t, ranges)
}

// ranges are the addresses that a guard must cover.
func (p *Plan) ranges(t *image.Task) []guard.Range {
	var out []guard.Range
	for i, v := range t.MM.GetVmas() {
		if p.Based[i] {
			out = append(out, guard.Range{Start: v.GetStart(), End: v.GetEnd()})
		}
	}
	for _, r := range p.Mapped {
		out = append(out, guard.Range{Start: r.Start, End: r.End()})
	}
	return out
}

// mappings replaces the mappings of a process in its mm image.
func (e *edit) mappings(t *image.Task, plan *Plan, key string) error {
	ids := make(map[string]uint32) // of this process's files, by key
	for i, v := range t.MM.GetVmas() {
		if plan.Based[i] {
			ids[e.bases[uint32(v.GetShmid())].Key] = 0
		}
	}
	if len(plan.Mapped) > 0 {
		ids[key] = 0
	}
	for _, key := range slices.Sorted(maps.Keys(ids)) {
		id, err := e.add(key)
		if err != nil {
			return err
		}
		ids[key] = id
	}
	base := func(file uint32) uint32 { return ids[e.bases[file].Key] }
	return editMappings(e.view, t, plan.pieces(t.MM.GetVmas(), base, plan.cuts(ids[key])))
}

// setPagemap makes runs the pages of a process's pagemap.
func setPagemap(v *image.View, t *image.Task, runs []Run) error {
	name := fmt.Sprintf("pagemap-%d.img", t.Entry.GetPid())
	data, err := v.Read(name)
	if err != nil {
		return err
	}
	img, err := image.Decode(data)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	img.Records = img.Records[:1] // the head
	for _, r := range runs {
		img.Records = append(img.Records, image.Record{Message: image.AppendExtent(nil, image.Extent{Start: r.Start, Pages: r.Pages, Flags: image.PagePresent})})
	}
	return v.Replace(name, img.Encode())
}
