package image

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/pstree"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/vma"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// MemoryFiles names, for CRIU to inherit them, the files that hold memory. CRIU
// looks a key up as it is, see [View.ReplaceSockets].
type MemoryFiles struct {
	// Pages are the pages images of the dump ("pages-1.img") that may be mapped.
	Pages map[string]string
	// Bases are files of earlier dumps that the processes had mapped, by the
	// name that this dump has for them ("file[1f:2a]", from CRIU's --external).
	Bases map[string]MemoryFile
}

// A MemoryFile is a file of an earlier dump.
type MemoryFile struct {
	Key       string
	SizeBytes int64
}

// MapMemory turns stored pages of private anonymous memory into private mappings
// of the pages image that holds them, for CRIU to map and not to copy, and adds a
// seccomp filter that keeps such memory from behaving as a file's, see [Guard]. It
// returns the keys that CRIU must be given files for.
//
// Edited are mm-*.img, pagemap-*.img, pages-*.img (which in the view holds those
// pages alone that are still to be copied), files.img, core-*.img and seccomp.img.
//
// On an error, which wraps [wire.ErrMalformed] or [ErrInconsistent] if the images are
// the cause, the view is only fit to be removed. A dump that builds on another
// (CRIU's --prev-images-dir) is refused.
func (v *View) MapMemory(ctx context.Context, files MemoryFiles) (keys []string, err error) {
	d, err := openTree(ctx, os.DirFS(v.dir))
	if err != nil {
		return nil, fmt.Errorf("map memory: %w", err)
	}
	e, err := newMemoryEdit(v, files)
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
	if err := errors.Join(e.writeTable(), e.guards.write()); err != nil {
		return nil, fmt.Errorf("map memory: %w", err)
	}
	return slices.Sorted(maps.Keys(e.used)), nil
}

// A memoryEdit is one run over the images.
type memoryEdit struct {
	view   *View
	files  MemoryFiles
	img    *Image                // files.img
	bases  map[uint32]MemoryFile // by file id
	insist map[uint32]Insistence // likewise
	lastID uint32
	added  []Record
	used   map[string]bool
	pages  map[uint32]bool // pages images that are a process's already
	pids   map[uint32]bool // likewise
	guards *guardEdit
}

// newMemoryEdit reads files.img.
func newMemoryEdit(v *View, files MemoryFiles) (*memoryEdit, error) {
	e := &memoryEdit{
		view: v, files: files, used: make(map[string]bool), guards: newGuardEdit(v),
		pages: make(map[uint32]bool), pids: make(map[uint32]bool),
	}
	return e, e.table()
}

func (e *memoryEdit) table() error {
	data, err := e.view.Read("files.img")
	if err != nil {
		return err
	}
	if e.img, err = Decode(data); err != nil {
		return fmt.Errorf("read files.img: %w", err)
	}
	if e.img.Type != TypeFiles {
		return fmt.Errorf("read files.img: %w: it is of type %s", wire.ErrMalformed, e.img.Type)
	}
	e.bases, e.insist = make(map[uint32]MemoryFile), make(map[uint32]Insistence)
	for i, rec := range e.img.Records {
		f, err := parseOpenFile(rec.Message)
		if err != nil {
			return fmt.Errorf("read file %d: %w", i, err)
		}
		e.lastID = max(e.lastID, f.ID)
		if f.Kind != FileReg {
			continue
		}
		s := wire.Scan(f.body)
		for s.Next() {
			if s.Is(regName, wire.Bytes) {
				if base, ok := e.files.Bases[string(s.Bytes)]; ok {
					e.bases[f.ID] = base
				}
				if kind := ProgramInsists(string(s.Bytes)); kind != insistsNot {
					e.insist[f.ID] = kind
				}
			}
		}
		if s.Err != nil {
			return fmt.Errorf("read file %d: %w", i, s.Err)
		}
	}
	return nil
}

// add makes an entry for a file that CRIU inherits and returns its id. CRIU shares
// pages between a process and its child where both map the same id, whatever the
// offset (check_cow_vmas in criu/mem.c): so each process has ids of its own.
func (e *memoryEdit) add(key string) (uint32, error) {
	if e.lastID == math.MaxUint32 {
		return 0, fmt.Errorf("add file: %w: no id is left", ErrInconsistent)
	}
	e.lastID++
	reg := appendReg(nil, openFile{ID: e.lastID, Owner: nobody()}, key)
	msg := wire.AppendVarint(nil, fileEntryType, FileReg)
	msg = wire.AppendVarint(msg, fileEntryID, uint64(e.lastID))
	msg = wire.AppendBytes(msg, fileEntryReg, reg)
	e.added = append(e.added, Record{Message: msg})
	e.used[key] = true
	return e.lastID, nil
}

// nobody is a fown_entry without an owner.
func nobody() []byte {
	var b []byte
	for num := protowire.Number(1); num <= 5; num++ {
		b = wire.AppendVarint(b, num, 0)
	}
	return b
}

func (e *memoryEdit) writeTable() error {
	if len(e.added) == 0 {
		return nil
	}
	e.img.Records = append(e.img.Records, e.added...)
	return e.view.Replace("files.img", e.img.Encode())
}

// base tells the file of an earlier dump from others.
func (e *memoryEdit) base(id uint32) (size int64, ok bool) {
	f, ok := e.bases[id]
	return f.SizeBytes, ok
}

// plan reads the memory of a process and plans for it. There is no plan for a
// dead one.
func (e *memoryEdit) plan(d *Dump, entry *pstree.PstreeEntry) (*Task, *Plan, error) {
	if e.pids[entry.GetPid()] {
		return nil, nil, fmt.Errorf("%w: the process is there twice", ErrInconsistent)
	}
	e.pids[entry.GetPid()] = true
	t, err := d.memoryTask(entry)
	if err != nil || !t.Alive() {
		return nil, nil, err
	}
	if threads := entry.GetThreads(); len(threads) == 0 || threads[0] != entry.GetPid() {
		return nil, nil, fmt.Errorf("%w: threads %d", ErrInconsistent, threads)
	}
	if e.pages[t.Pages.PagesID] {
		return nil, nil, fmt.Errorf("%w: pages %d are another process's", ErrInconsistent, t.Pages.PagesID)
	}
	e.pages[t.Pages.PagesID] = true
	size, ok := d.Sizes[pagesName(t)]
	if stored := t.Pages.StoredPages(); !ok || stored > maxStored || uint64(size) != stored*PageSize {
		return nil, nil, fmt.Errorf("%w: %s has %d bytes instead of %d pages", ErrInconsistent, pagesName(t), size, stored)
	}
	plan, err := NewPlan(t, e.base, func(file uint32) Insistence { return e.insist[file] })
	return t, plan, err
}

// maxStored bounds the pages of a process: the size of more would overflow.
const maxStored = 1 << 50

func pagesName(t *Task) string { return fmt.Sprintf("pages-%d.img", t.Pages.PagesID) }

func (e *memoryEdit) process(d *Dump, entry *pstree.PstreeEntry) error {
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
		if err := e.view.setPagemap(t, plan.copied); err != nil {
			return err
		}
		if err := e.view.keepPages(own, plan.copied); err != nil {
			return err
		}
	}
	return e.guards.process(t, ranges)
}

// ranges are the addresses that a guard must cover.
func (p *Plan) ranges(t *Task) []addrRange {
	var out []addrRange
	for i, v := range t.MM.GetVmas() {
		if p.Based[i] {
			out = append(out, addrRange{v.GetStart(), v.GetEnd()})
		}
	}
	for _, r := range p.Mapped {
		out = append(out, addrRange{r.start, r.end()})
	}
	return out
}

// mappings replaces the mappings of a process in its mm image.
func (e *memoryEdit) mappings(t *Task, plan *Plan, key string) error {
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
	return e.view.editMappings(t, plan.pieces(t.MM.GetVmas(), base, plan.cuts(ids[key])))
}

// editMappings replaces each mapping of a process by its pieces.
func (v *View) editMappings(t *Task, pieces [][]piece) error {
	name := fmt.Sprintf("mm-%d.img", t.Entry.GetPid())
	return v.edit(name, TypeMM, func(msg []byte) ([]byte, error) { return replaceMappings(msg, pieces) })
}

// A cut is a run that becomes a mapping of its own, of a file that has its pages.
type cut struct {
	run
	file uint32
}

// cuts are the runs to be mapped, of a pages image that is a file.
func (p *Plan) cuts(file uint32) []cut {
	cuts := make([]cut, len(p.Mapped))
	for i, r := range p.Mapped {
		cuts[i] = cut{run: r, file: file}
	}
	return cuts
}

// pieces cuts each mapping. base says what the id of a file of an earlier dump
// becomes. The cuts ascend.
func (p *Plan) pieces(vmas []*vma.VmaEntry, base func(file uint32) uint32, cuts []cut) [][]piece {
	pieces := make([][]piece, len(vmas))
	for i, v := range vmas {
		whole := piece{start: v.GetStart(), end: v.GetEnd()}
		if p.Based[i] {
			whole.file, whole.offset = base(uint32(v.GetShmid())), v.GetPgoff()
		}
		pieces[i] = []piece{whole}
	}
	for _, r := range cuts {
		// The last piece is what is left of the mapping behind the run before.
		all := pieces[r.VMA]
		rest := all[len(all)-1]
		all = all[:len(all)-1]
		if rest.start < r.start {
			all = append(all, piece{start: rest.start, end: r.start, file: rest.file, offset: rest.offset})
		}
		all = append(all, piece{start: r.start, end: r.end(), file: r.file, offset: r.offset * PageSize})
		if r.end() < rest.end {
			all = append(all, piece{start: r.end(), end: rest.end, file: rest.file, offset: rest.offset + r.end() - rest.start})
		} else {
			all = append(all, piece{}) // nothing left
		}
		pieces[r.VMA] = all
	}
	return pieces
}

// A piece is a part of a mapping: of file, or as the whole was if file is 0.
type piece struct {
	start, end uint64
	file       uint32
	offset     uint64
	anon       bool // make it private anonymous memory
}

// Fields of mm_entry and vma_entry.
const (
	mmVmas = 14

	vmaStart   = 1
	vmaEnd     = 2
	vmaPgoff   = 3
	vmaShmid   = 4
	vmaFlags   = 6
	vmaStatus  = 7
	vmaFdflags = 10
)

func replaceMappings(msg []byte, pieces [][]piece) ([]byte, error) {
	out := make([]byte, 0, len(msg)*2)
	n := 0
	s := wire.Scan(msg)
	for s.Next() {
		if !s.Is(mmVmas, wire.Bytes) {
			out = append(out, s.Raw...)
			continue
		}
		if n == len(pieces) {
			return nil, fmt.Errorf("edit mappings: %w: more than there were", wire.ErrMalformed)
		}
		for _, p := range pieces[n] {
			if p.start == p.end {
				continue
			}
			part, err := p.entry(s.Bytes)
			if err != nil {
				return nil, err
			}
			out = wire.AppendBytes(out, mmVmas, part)
		}
		n++
	}
	return out, s.Err
}

// entry makes the vma_entry of a piece out of that of the whole.
func (p piece) entry(whole []byte) ([]byte, error) {
	set := map[protowire.Number]uint64{vmaStart: p.start, vmaEnd: p.end}
	if !p.anon && p.file == 0 {
		return wire.ReplaceVarints(whole, set)
	}
	s := wire.Scan(whole)
	for s.Next() {
		if s.Is(vmaFlags, wire.Varint) {
			set[vmaFlags] = s.Uint
		}
	}
	if s.Err != nil {
		return nil, s.Err
	}
	if p.anon {
		set[vmaPgoff], set[vmaShmid], set[vmaStatus] = 0, 0, VMARegular|VMAAnonPrivate
		set[vmaFlags] |= mapAnonymous
		return wire.ReplaceVarints(whole, set, vmaFdflags)
	}
	set[vmaPgoff], set[vmaShmid] = p.offset, uint64(p.file)
	set[vmaStatus], set[vmaFdflags] = VMARegular|VMAFilePrivate, uint64(os.O_RDONLY)
	set[vmaFlags] &^= mapAnonymous
	return wire.ReplaceVarints(whole, set)
}

// setPagemap makes runs the pages of a process's pagemap.
func (v *View) setPagemap(t *Task, runs []run) error {
	name := fmt.Sprintf("pagemap-%d.img", t.Entry.GetPid())
	data, err := v.Read(name)
	if err != nil {
		return err
	}
	img, err := Decode(data)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	img.Records = img.Records[:1] // the head
	for _, r := range runs {
		img.Records = append(img.Records, Record{Message: appendExtent(nil, Extent{Start: r.start, Pages: r.Pages, Flags: PagePresent})})
	}
	return v.Replace(name, img.Encode())
}
