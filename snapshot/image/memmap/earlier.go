package memmap

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/pstree"

	"github.com/snapctl/snapctl/snapshot/image"
)

// A Kept is a memory file of an earlier dump.
type Kept struct {
	ID   string // names the file, wherever it is needed
	File *os.File
}

// Name is what a dump has for the file if it uses it.
func (k Kept) Name() string { return "/" + k.key() }

func (k Kept) key() string { return k.ID + memorySuffix }

// Earlier is the memory of processes as an earlier dump has it, in files that are kept.
type Earlier struct {
	lenders map[uint32][]*lender // by the process
}

// OpenEarlier looks at an earlier dump, of the same processes or of others: they are told by their
// numbers, and what they have by its content. files are those of its memory files that are kept: the
// pages images, by their names, and its bases, by the names that it has for them. They are the
// caller's, who closes them after [Share]. Of many files, those at most are used that have the most
// pages, and none of which the earlier dump itself uses less than half. Nothing in the dump is changed, and nothing is read later but the files.
//
// Its errors are those of [Map].
func OpenEarlier(ctx context.Context, images string, files map[string]Kept, most int) (*Earlier, error) {
	e, err := openEarlier(ctx, images, files)
	if err != nil {
		return nil, fmt.Errorf("look at the memory of an earlier dump: %w", err)
	}
	e.limit(most)
	return e, nil
}

func openEarlier(ctx context.Context, images string, files map[string]Kept) (*Earlier, error) {
	d, err := image.OpenTree(ctx, os.DirFS(images))
	if err != nil {
		return nil, err
	}
	sizes, open := make(map[string]File), make(map[string]*os.File)
	for name, k := range files {
		info, err := k.File.Stat()
		if err != nil {
			return nil, err
		}
		sizes[name], open[name] = File{Key: name, SizeBytes: info.Size()}, k.File
	}
	edit, err := newEdit(image.InPlace(images), Files{Bases: sizes}) // which is only read
	if err != nil {
		return nil, err
	}
	e := &Earlier{lenders: make(map[uint32][]*lender)}
	for _, entry := range d.Tree {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := e.process(edit, d, entry, files, open); err != nil {
			return nil, fmt.Errorf("process %d: %w", entry.GetPid(), err)
		}
	}
	return e, nil
}

// process finds the files that have the memory of a process.
func (e *Earlier) process(edit *edit, d *image.Dump, entry *pstree.PstreeEntry, files map[string]Kept, open map[string]*os.File) error {
	t, plan, err := edit.plan(d, entry)
	if err != nil || plan == nil {
		return err
	}
	sources, err := edit.sources(t, plan, open[pagesName(t)], open)
	if err != nil {
		return err
	}
	byFile := make(map[string]*lender)
	for _, s := range sources {
		file, _ := s.file.(*os.File)
		if file == nil {
			continue // pages that are in the earlier dump alone
		}
		var kept Kept
		for _, k := range files {
			if k.File == file {
				kept = k
			}
		}
		l := byFile[kept.ID]
		if l == nil {
			info, err := file.Stat()
			if err != nil {
				return err
			}
			l = &lender{pid: entry.GetPid(), key: kept.key(), size: info.Size(), file: file, kept: kept}
			byFile[kept.ID] = l
			e.lenders[l.pid] = append(e.lenders[l.pid], l)
		}
		s.VMA = 0 // which mapping it was does not matter
		l.runs = appendRun(l.runs, s.Run)
	}
	return nil
}

// limit keeps the files that have the most pages, but for those of which the earlier dump itself uses
// less than half: a dump keeps whole files, and would take many times its room at last.
func (e *Earlier) limit(most int) {
	pages, sizes := make(map[string]uint64), make(map[string]uint64)
	for _, list := range e.lenders {
		for _, l := range list {
			pages[l.key] += countPages(l.runs)
			sizes[l.key] = uint64(l.size) / image.PageSize
		}
	}
	maps.DeleteFunc(pages, func(key string, used uint64) bool { return 2*used < sizes[key] })
	keys := slices.SortedFunc(maps.Keys(pages), func(a, b string) int {
		return cmp.Or(cmp.Compare(pages[b], pages[a]), cmp.Compare(a, b))
	})
	keys = keys[:min(len(keys), max(most, 0))]
	for pid, list := range e.lenders {
		e.lenders[pid] = slices.DeleteFunc(list, func(l *lender) bool { return !slices.Contains(keys, l.key) })
	}
}

// of returns what there is of a process.
func (e *Earlier) of(pid uint32) []*lender {
	if e == nil {
		return nil
	}
	return slices.Clone(e.lenders[pid])
}
