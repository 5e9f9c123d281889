package memmap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/pstree"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/vma"

	"github.com/snapctl/snapctl/snapshot/image"
)

// Copy is the inverse of [Map], for a dump of processes that had
// memory of earlier dumps mapped: that memory becomes anonymous again, its pages
// part of the dump's own, and guards go. The view is then a dump that needs no
// other. bases are the files, by the names that the dump has for them.
//
// It writes all of the processes' memory to the view. On an error, which wraps
// [wire.ErrMalformed] or [image.ErrInconsistent] if the images are the cause, the view is only
// fit to be removed.
func Copy(ctx context.Context, v *image.View, bases map[string]*os.File) error {
	d, err := image.OpenTree(ctx, os.DirFS(v.Dir()))
	if err != nil {
		return fmt.Errorf("copy memory: %w", err)
	}
	files := make(map[string]File, len(bases))
	for name, f := range bases {
		info, err := f.Stat()
		if err != nil {
			return fmt.Errorf("copy memory: %w", err)
		}
		files[name] = File{Key: name, SizeBytes: info.Size()}
	}
	e, err := newEdit(v, Files{Bases: files})
	if err != nil {
		return fmt.Errorf("copy memory: %w", err)
	}
	for _, entry := range d.Tree {
		if err := e.unmap(ctx, d, entry, bases); err != nil {
			return fmt.Errorf("copy memory of process %d: %w", entry.GetPid(), err)
		}
	}
	if err := e.guards.Write(); err != nil {
		return fmt.Errorf("copy memory: %w", err)
	}
	return nil
}

// A source is where the pages of a run are.
type source struct {
	Run
	file io.ReaderAt
}

func (e *edit) unmap(ctx context.Context, d *image.Dump, entry *pstree.PstreeEntry, bases map[string]*os.File) (err error) {
	t, plan, err := e.plan(d, entry)
	if err != nil || plan == nil {
		return err
	}
	if err := e.guards.Process(t, nil); err != nil {
		return err
	}
	pieces := plan.whole(t.MM.GetVmas())
	if !slices.Contains(plan.Based, true) {
		if !slices.ContainsFunc(pieces, func(list []piece) bool { return len(list) == 0 }) {
			return nil
		}
		return editMappings(e.view, t, pieces)
	}
	name := filepath.Join(e.view.Dir(), pagesName(t))
	own, err := os.Open(name)
	if err != nil {
		return err
	}
	defer own.Close() //nolint:errcheck // only read from
	sources, err := e.sources(t, plan, own, bases)
	if err != nil {
		return err
	}
	if err := writePages(ctx, name, sources); err != nil {
		return err
	}
	runs := make([]Run, len(sources))
	for i, s := range sources {
		runs[i] = s.Run
	}
	if err := setPagemap(e.view, t, runs); err != nil {
		return err
	}
	return editMappings(e.view, t, pieces)
}

// whole makes memory of earlier dumps anonymous, and joins anonymous memory that lies side
// by side: mapping had cut it. It does so in every process. CRIU looks for what a process
// shares with its parent where the mappings of both begin and end at the same addresses
// (check_cow_vmas in criu/mem.c).
func (p *Plan) whole(vmas []*vma.VmaEntry) [][]piece {
	pieces := make([][]piece, len(vmas))
	last := -1 // the mapping of which the one before has become a part
	for i, v := range vmas {
		pieces[i] = []piece{{start: v.GetStart(), end: v.GetEnd(), offset: v.GetPgoff(), anon: p.Based[i]}}
		switch {
		case v.GetStatus()&image.VMAGuard != 0: // it lies in another one
			continue
		case last >= 0 && pieces[last][0].end == v.GetStart() && p.alike(vmas, last, i):
			pieces[last][0].end, pieces[i] = v.GetEnd(), nil
		default:
			last = i
		}
	}
	return pieces
}

// alike tells whether two mappings are the same anonymous memory but for where they are,
// once those of earlier dumps are anonymous.
func (p *Plan) alike(vmas []*vma.VmaEntry, i, j int) bool {
	a, b := vmas[i], vmas[j]
	anonymous := func(k int) bool { return p.Based[k] || mappable(vmas[k], nil) == CopiedNot }
	return anonymous(i) && anonymous(j) && a.GetProt() == b.GetProt() && a.GetMadv() == b.GetMadv() &&
		a.GetFlags()|mapAnonymous == b.GetFlags()|mapAnonymous
}

// sources lists all pages of a process by address: its own, and between them
// those of the earlier dumps' files.
func (e *edit) sources(t *image.Task, plan *Plan, own *os.File, bases map[string]*os.File) ([]source, error) {
	vmas := t.MM.GetVmas()
	runs, err := findRuns(t.Pages, vmas)
	if err != nil {
		return nil, err
	}
	order, err := image.SortMappings(vmas)
	if err != nil {
		return nil, err
	}
	var out []source
	for _, i := range order {
		v, at := vmas[i], vmas[i].GetStart()
		base := bases[e.bases[uint32(v.GetShmid())].Key]
		fill := func(to uint64) {
			if plan.Based[i] && to > at {
				offset := (v.GetPgoff() + at - v.GetStart()) / image.PageSize
				out = append(out, source{Run{Start: at, Pages: (to - at) / image.PageSize, Offset: offset, VMA: i}, base})
			}
		}
		for len(runs) > 0 && runs[0].VMA == i {
			fill(runs[0].Start)
			out = append(out, source{runs[0], own})
			at, runs = runs[0].End(), runs[1:]
		}
		fill(v.GetEnd())
	}
	return out, nil
}

// writePages makes a pages image of the pages of all sources.
func writePages(ctx context.Context, path string, sources []source) (err error) {
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("copy pages: %w", err)
	}
	to, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("copy pages: %w", err)
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	for _, s := range sources {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := copyRuns(to, s.file, []Run{s.Run}); err != nil {
			return err
		}
	}
	return nil
}
