package guard

import (
	"errors"
	"fmt"
	"io/fs"

	core "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/seccomp"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// An Edit adds guards to the filters of a dump, and takes away those that an
// earlier restore added. Filters are a chain: a thread names the one that CRIU
// installs first, each names the next (criu/seccomp.c, seccomp_prepare_threads).
// A guard comes first, so that no filter of the app's own can forbid it.
type Edit struct {
	view    *image.View
	img     *image.Image
	all     *seccomp.SeccompEntry
	filters []*seccomp.SeccompFilter
	next    []int // of each filter, its successor that is no guard; none: -1
	guards  bool  // there are some from an earlier restore
	changed bool
}

// NoFilter stands for the number of a filter where there is none.
const NoFilter = -1

const (
	tsyncFlag  = 1 // SECCOMP_FILTER_FLAG_TSYNC: for all threads of the process
	coreThread = 5 // core_entry.thread_core

	threadSeccompMode   = 11
	threadSeccompFilter = 12
)

// NewEdit returns an edit of the filters in a view. It reads them when it needs them.
func NewEdit(v *image.View) *Edit { return &Edit{view: v} }

// open reads seccomp.img, once.
func (g *Edit) open() error {
	if g.img != nil {
		return nil
	}
	data, err := g.view.Read("seccomp.img")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	img, err := image.Decode(data)
	if err != nil {
		return fmt.Errorf("read seccomp.img: %w", err)
	}
	if len(img.Records) == 0 {
		*img = image.Image{Type: image.TypeSeccomp, Head: image.HeadCommon, Records: []image.Record{{}}}
	}
	all, err := image.Unmarshal[seccomp.SeccompEntry](img.Records[0].Message)
	if err != nil || img.Type != image.TypeSeccomp {
		return fmt.Errorf("read seccomp.img: %w", errors.Join(err, wire.ErrMalformed))
	}
	g.img, g.all, g.filters = img, all, all.GetSeccompFilters()
	return g.resolve()
}

// resolve finds the successors, and looks for guards.
func (g *Edit) resolve() error {
	g.next = make([]int, len(g.filters))
	for i, f := range g.filters {
		g.guards = g.guards || Is(f.GetFilter())
		g.next[i] = NoFilter
		if f.Prev != nil {
			g.next[i] = int(f.GetPrev())
		}
	}
	if err := CheckChains(g.next); err != nil {
		return fmt.Errorf("read seccomp.img: %w", err)
	}
	for i := range g.filters {
		if n := g.skip(g.next[i]); n != g.next[i] {
			g.next[i], g.changed = n, true
		}
	}
	return nil
}

// CheckChains makes sure that every successor is there, and no chain endless.
func CheckChains(next []int) error {
	// visit is the number of the walk that came by a filter: none is seen
	// twice in one walk, nor looked at again by a later one.
	visit := make([]int, len(next))
	for i := range next {
		for at := i; at != NoFilter && visit[at] == 0; at = next[at] {
			visit[at] = i + 1
			if n := next[at]; n != NoFilter && (n >= len(next) || visit[n] == i+1) {
				return fmt.Errorf("%w: filter %d comes after %d, of %d", image.ErrInconsistent, at, n, len(next))
			}
		}
	}
	return nil
}

// skip returns the first filter from i on that is no guard.
func (g *Edit) skip(i int) int {
	for i != NoFilter && Is(g.filters[i].GetFilter()) {
		i = g.next[i]
	}
	return i
}

// Process gives a living process a guard of some ranges. It replaces the guard that an earlier
// restore may have given it.
func (g *Edit) Process(t *image.Task, ranges []Range) error {
	if err := g.open(); err != nil {
		return err
	}
	if len(ranges) == 0 && !g.guards {
		return nil
	}
	heads := make([]int, len(t.Threads))
	for i, c := range t.Threads {
		var err error
		if heads[i], err = g.head(c.GetThreadCore()); err != nil {
			return err
		}
	}
	if len(ranges) > 0 {
		g.changed = true
		program := Filter(Merge(ranges, MaxRanges))
		if g.together(heads) {
			heads[0] = g.add(program, heads[0], tsyncFlag)
		} else {
			made := make(map[int]int)
			for i, h := range heads {
				if _, ok := made[h]; !ok {
					made[h] = g.add(program, h, 0)
				}
				heads[i] = made[h]
			}
		}
	}
	for i, c := range t.Threads {
		if err := g.setHead(t.Entry.GetThreads()[i], c.GetThreadCore(), heads[i]); err != nil {
			return err
		}
	}
	return nil
}

// head is a thread's first filter that is no guard.
func (g *Edit) head(t *core.ThreadCoreEntry) (int, error) {
	if t == nil {
		return 0, fmt.Errorf("%w: a thread has no thread_core", image.ErrInconsistent)
	}
	if t.GetSeccompMode() != core.SeccompMode_filter {
		return NoFilter, nil
	}
	i := int(t.GetSeccompFilter())
	if i >= len(g.filters) {
		return 0, fmt.Errorf("%w: seccomp filter %d, of %d", image.ErrInconsistent, i, len(g.filters))
	}
	return g.skip(i), nil
}

// together tells whether the first thread installs the filters of all: CRIU saves
// them that way where all have the same (seccomp.c, try_use_tsync).
func (g *Edit) together(heads []int) bool {
	for _, h := range heads[1:] {
		if h != NoFilter {
			return false
		}
	}
	return len(heads) == 1 || heads[0] == NoFilter || g.filters[heads[0]].GetFlags()&tsyncFlag != 0
}

func (g *Edit) add(program []byte, next int, flags uint32) int {
	f := &seccomp.SeccompFilter{Filter: program}
	if flags != 0 {
		f.Flags = &flags
	}
	g.filters, g.next = append(g.filters, f), append(g.next, next)
	return len(g.filters) - 1
}

// setHead changes a thread's core image if it has another first filter now.
func (g *Edit) setHead(tid uint32, t *core.ThreadCoreEntry, head int) error {
	filtered := t.GetSeccompMode() == core.SeccompMode_filter
	if head == NoFilter && !filtered || filtered && int(t.GetSeccompFilter()) == head {
		return nil
	}
	mode, set := core.SeccompMode_filter, map[protowire.Number]uint64{}
	if head == NoFilter {
		mode = core.SeccompMode_disabled
	} else {
		set[threadSeccompFilter] = uint64(head)
	}
	set[threadSeccompMode] = uint64(mode)
	return g.view.EditFirst(fmt.Sprintf("core-%d.img", tid), image.TypeCore, func(msg []byte) ([]byte, error) {
		out := make([]byte, 0, len(msg)+16)
		s := wire.Scan(msg)
		for s.Next() {
			if !s.Is(coreThread, wire.Bytes) {
				out = append(out, s.Raw...)
				continue
			}
			thread, err := wire.ReplaceVarints(s.Bytes, set, threadSeccompFilter)
			if err != nil {
				return nil, err
			}
			out = wire.AppendBytes(out, coreThread, thread)
		}
		return out, s.Err
	})
}

// Write puts the filters into seccomp.img.
func (g *Edit) Write() error {
	if !g.changed {
		return nil
	}
	for i, f := range g.filters {
		f.Prev = nil
		if g.next[i] != NoFilter {
			next := uint32(g.next[i])
			f.Prev = &next
		}
	}
	g.all.SeccompFilters = g.filters
	msg, err := image.Marshal(g.all)
	if err != nil {
		return err
	}
	g.img.Records[0].Message = msg
	return g.view.Replace("seccomp.img", g.img.Encode())
}
