package memmap

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/vma"
	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/pageset"
)

// A leaving makes up dumps that lack memory, and what they lack.
type leaving struct {
	random    *rand.Rand
	kept, own []byte // the files that have it
	places    [2]Kept
	model     pageContent // of one process
}

// process draws the memory of a process of so many pages. Long has most pages follow another of their
// kind.
func (l *leaving) process(pid uint32, vmas []*vma.VmaEntry, long bool) (fakeProcess, *Left) {
	p, left := fakeProcess{pid: pid, vmas: vmas, content: make(pageContent)}, &Left{}
	l.model = p.content
	var pages []image.Extent
	for _, v := range vmas {
		kind, inKept := 0, false
		for a := v.GetStart(); a < v.GetEnd(); a += image.PageSize {
			if turn := l.random.IntN(200); turn < 2 || !long && turn < 50 {
				kind, inKept = l.random.IntN(4), l.random.IntN(3) > 0
			}
			content := fakePage(a, pid, l.random.Uint64())
			if kind != 0 {
				p.content[a] = string(content)
			}
			one := image.Extent{Start: a, Pages: 1}
			switch kind {
			case 0: // there is no page
				continue
			case 1:
				p.extents = append(p.extents, stored((a-at(0))/image.PageSize, 1))
			case 2:
				left.Own = append(left.Own, Place{Start: a, Pages: 1, Offset: uint64(len(l.own)) / image.PageSize, File: l.places[1]})
				l.own = append(l.own, content...)
			case 3:
				inKept = true
				pages = append(pages, one)
			}
			if !inKept {
				continue
			}
			if kind != 3 {
				content = fakePage(a, pid, 0) // as it was
			}
			offset := uint64(len(l.kept)) / image.PageSize
			if n := len(left.Kept); n > 0 && left.Kept[n-1].End() == a && left.Kept[n-1].Offset+left.Kept[n-1].Pages == offset {
				left.Kept[n-1].Pages++
			} else {
				left.Kept = append(left.Kept, Place{Start: a, Pages: 1, Offset: offset, File: l.places[0]})
			}
			l.kept = append(l.kept, content...)
		}
	}
	left.Pages = pageset.Of(pages...)
	return p, left
}

// TestComplete has dumps lack what they may, and compares what a restore would have with what was there.
func TestComplete(t *testing.T) {
	mapped := 0
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			dir := t.TempDir()
			l := &leaving{random: rand.New(rand.NewPCG(seed, 3))}
			for i, name := range []string{"kept", "own"} {
				f, err := os.Create(filepath.Join(dir, name))
				qt.Assert(t, qt.IsNil(err))
				defer func() { qt.Check(t, qt.IsNil(f.Close())) }()
				l.places[i] = Kept{File: f}
			}
			l.places[0].ID = "kept"
			var processes []fakeProcess
			left, model := make(map[uint32]*Left), make(map[uint32]pageContent)
			for pid := range uint32(3) {
				pid = 10 * (pid + 1)
				vmas := []*vma.VmaEntry{anon(0, 300+l.random.Uint64N(900)), anon(2000, 20), anon(3000, 200, withProt(protExec))}
				slices.SortFunc(vmas, func(a, b *vma.VmaEntry) int { return cmp.Compare(a.GetStart(), b.GetStart()) })
				p, lacks := l.process(pid, vmas, l.random.IntN(3) > 0)
				processes, left[pid], model[pid] = append(processes, p), lacks, l.model
			}
			for i, data := range [][]byte{l.kept, l.own} {
				_, err := l.places[i].File.Write(data)
				qt.Assert(t, qt.IsNil(err))
			}
			images := writeDump(t, 1, nil, nil, processes...)
			used, err := Complete(t.Context(), images, nil, left)
			qt.Assert(t, qt.IsNil(err))
			files := make(map[string][]byte)
			for _, name := range used {
				qt.Assert(t, qt.Equals(name, l.places[0].Name()))
				files[name] = l.kept
				mapped++
			}
			sameMemory(t, readMemory(t, images, files), model)
			ownFileIDs(t, images, 10, 20, 30)

			// What it has become is a dump like any other.
			sizes, open := make(map[string]int64), make(map[string]*os.File)
			for name := range files {
				sizes[name], open[name] = int64(len(l.kept)), l.places[0].File
			}
			use, err := Measure(t.Context(), images, sizes)
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.DeepEquals(use.Bases, used))
			view := newView(t, images)
			qt.Assert(t, qt.IsNil(Copy(t.Context(), view, open)))
			sameMemory(t, readMemory(t, view.Dir(), nil), model)
		})
	}
	qt.Assert(t, qt.IsTrue(mapped > 10 && mapped < 30), qt.Commentf("%d", mapped))
}

func TestCompleteRefuses(t *testing.T) {
	file := Kept{ID: "kept"}
	for name, left := range map[string]map[uint32]*Left{
		"a page that the dump has": {10: {Pages: pageset.Of(stored(0, 1)), Kept: []Place{{Start: at(0), Pages: 1, File: file}}}},
		"an own page that it has":  {10: {Own: []Place{{Start: at(0), Pages: 1, File: file}}}},
		"no mapping":               {10: {Pages: pageset.Of(stored(500, 1)), Kept: []Place{{Start: at(500), Pages: 1, File: file}}}},
		"half a mapping":           {10: {Pages: pageset.Of(stored(90, 20)), Kept: []Place{{Start: at(90), Pages: 20, File: file}}}},
		"no process":               {20: {}},
	} {
		t.Run(name, func(t *testing.T) {
			images := writeDump(t, 1, nil, nil, fakeProcess{pid: 10, vmas: []*vma.VmaEntry{anon(0, 100)}, extents: []image.Extent{stored(0, 10)}})
			_, err := Complete(t.Context(), images, nil, left)
			qt.Assert(t, qt.ErrorIs(err, image.ErrInconsistent))
		})
	}
}
