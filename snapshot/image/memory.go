package image

import (
	"context"
	"fmt"
	"os"
)

// MemoryUse is what [Memory] finds in a dump.
type MemoryUse struct {
	// Pages are the pages images with enough memory in them that can be mapped.
	Pages []string
	// Bases are those of the given files of earlier dumps that are mapped.
	Bases []string
	// OwnBytes is the memory of processes in this dump, BaseBytes what they have
	// mapped of earlier ones.
	OwnBytes, BaseBytes uint64
}

// Memory tells which files hold, or could hold, the memory of the processes of a
// dump. bases are the names that it has for files of earlier dumps.
func Memory(ctx context.Context, images string, bases []string) (*MemoryUse, error) {
	d, err := openTree(ctx, os.DirFS(images))
	if err != nil {
		return nil, fmt.Errorf("look for memory: %w", err)
	}
	e := &memoryEdit{view: &View{dir: images}, files: MemoryFiles{Bases: make(map[string]string)}}
	for _, name := range bases {
		e.files.Bases[name] = name
	}
	if err := e.table(); err != nil {
		return nil, fmt.Errorf("look for memory: %w", err)
	}
	use, seen := &MemoryUse{}, make(map[string]bool)
	for _, entry := range d.tree {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		t, err := d.memoryTask(entry)
		if err != nil {
			return nil, fmt.Errorf("look for memory of process %d: %w", entry.GetPid(), err)
		}
		if !t.alive() {
			continue
		}
		plan, err := planMemory(t, func(id uint32) bool { _, ok := e.bases[id]; return ok })
		if err != nil {
			return nil, fmt.Errorf("look for memory of process %d: %w", entry.GetPid(), err)
		}
		use.OwnBytes += t.pages.StoredPages() * PageSize
		if len(plan.mapped) > 0 {
			use.Pages = append(use.Pages, fmt.Sprintf("pages-%d.img", t.pages.PagesID))
		}
		for i, v := range t.mm.GetVmas() {
			if !plan.based[i] {
				continue
			}
			use.BaseBytes += v.GetEnd() - v.GetStart()
			if name := e.bases[uint32(v.GetShmid())]; !seen[name] {
				seen[name] = true
				use.Bases = append(use.Bases, name)
			}
		}
	}
	return use, nil
}
