package memmap

import (
	"context"
	"fmt"
	"os"

	"github.com/snapctl/snapctl/snapshot/image"
)

// Use is what [Measure] finds in a dump.
type Use struct {
	// Pages are the pages images with enough memory in them that can be mapped.
	Pages []string
	// Bases are those of the given files of earlier dumps that are mapped.
	Bases []string
	// OwnBytes is the memory of processes in this dump that could be mapped,
	// BaseBytes what they have mapped of earlier ones and not changed since. What is
	// copied each time anyway counts for neither.
	OwnBytes, BaseBytes uint64
}

// Measure tells which files hold, or could hold, the memory of the processes of a
// dump. bases are the sizes of files of earlier dumps, by the names that it has
// for them. Its errors are those of [Map].
func Measure(ctx context.Context, images string, bases map[string]int64) (*Use, error) {
	d, err := image.OpenTree(ctx, os.DirFS(images))
	if err != nil {
		return nil, fmt.Errorf("look for memory: %w", err)
	}
	e, err := editInPlace(images, bases)
	if err != nil {
		return nil, fmt.Errorf("look for memory: %w", err)
	}
	use, seen := &Use{}, make(map[string]bool)
	for _, entry := range d.Tree {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		t, plan, err := e.plan(d, entry)
		if err != nil {
			return nil, fmt.Errorf("look for memory of process %d: %w", entry.GetPid(), err)
		}
		if plan == nil {
			continue
		}
		use.OwnBytes += plan.own * image.PageSize
		if len(plan.Mapped) > 0 {
			use.Pages = append(use.Pages, pagesName(t))
		}
		for i, v := range t.MM.GetVmas() {
			if !plan.Based[i] {
				continue
			}
			use.BaseBytes += v.GetEnd() - v.GetStart()
			if name := e.bases[uint32(v.GetShmid())].Key; !seen[name] {
				seen[name] = true
				use.Bases = append(use.Bases, name)
			}
		}
		use.BaseBytes -= plan.over * image.PageSize
	}
	return use, nil
}
