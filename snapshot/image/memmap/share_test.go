package memmap

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/vma"
	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/proto"

	"github.com/snapctl/snapctl/snapshot/image"
)

func TestSpans(t *testing.T) {
	// A text has '=' for 8 equal pages, '.' for 8 others.
	for name, test := range map[string]struct {
		pages string
		want  []span
	}{
		"none":                           {"......", nil},
		"all":                            {"======", []span{{0, 48}}},
		"too few":                        {"..=..", nil},
		"few others inside":              {"=.=.==", []span{{0, 48}}},
		"many others inside":             {"==..==", []span{{0, 16}, {32, 48}}},
		"many others, few equal":         {"==..=..==", []span{{0, 16}, {56, 72}}},
		"few others before and behind":   {".==.", []span{{0, 32}}},
		"many others before and behind":  {"..==..", []span{{16, 32}}},
		"few before what is too few":     {".=..==", []span{{32, 48}}},
		"enough only if taken together":  {"=.=", []span{{0, 24}}},
		"too few behind what was enough": {"==..=", []span{{0, 16}}},
	} {
		t.Run(name, func(t *testing.T) {
			var equal []bool
			for _, c := range test.pages {
				equal = append(equal, slices.Repeat([]bool{c == '='}, 8)...)
			}
			qt.Assert(t, qt.IsTrue(slices.Equal(spans(equal), test.want)), qt.Commentf("%v", spans(equal)))
		})
	}
}

// fork makes a process the child of another one, with all of its memory.
func (h *history) fork(parent, child int) {
	p, c := h.processes[parent], &h.processes[child]
	c.ppid, c.vmas, c.extents = p.pid, p.vmas, slices.Clone(p.extents)
	h.model[c.pid] = maps.Clone(h.model[p.pid])
}

// share has the processes of the dump share memory, and returns how many bytes of
// pages images that saves.
func (h *history) share() int64 {
	t := h.t
	sizes := make(map[string]int64)
	for name, data := range h.files {
		sizes[name] = int64(len(data))
	}
	before := pagesSize(t, h.dir)
	shared, err := Share(t.Context(), h.dir, sizes, nil)
	qt.Assert(t, qt.IsNil(err))
	for image, name := range shared.Images {
		h.files[name] = readFile(t, h.dir, image)
	}
	sameMemory(t, readMemory(t, h.dir, h.files), h.model)
	return before - pagesSize(t, h.dir)
}

func pagesSize(tb testing.TB, dir string) (n int64) {
	tb.Helper()
	images, err := filepath.Glob(filepath.Join(dir, "pages-*.img"))
	qt.Assert(tb, qt.IsNil(err))
	for _, name := range images {
		info, err := os.Stat(name)
		qt.Assert(tb, qt.IsNil(err))
		n += info.Size()
	}
	return n
}

// TestShareOverGenerations has processes fork between dumps and change what they
// have. Byte by byte they have their own memory back, whoever stores it.
func TestShareOverGenerations(t *testing.T) {
	saved := 0
	for seed := range uint64(2) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			h := &history{t: t, random: rand.New(rand.NewPCG(seed, 2)), model: make(map[uint32]pageContent), files: make(map[string][]byte), writes: 40}
			root := fakeProcess{pid: 10}
			page := uint64(0)
			for range 5 + h.random.IntN(5) {
				page += h.random.Uint64N(3)
				pages := 100 + h.random.Uint64N(200)
				root.vmas = append(root.vmas, anon(page, pages))
				page += pages
			}
			h.processes, h.model[10] = []fakeProcess{root}, make(pageContent)
			h.change()
			h.writes = 8
			for pid := uint32(20); pid <= 40; pid += 10 {
				h.processes = append(h.processes, fakeProcess{pid: pid})
				h.fork(h.random.IntN(len(h.processes)-1), len(h.processes)-1)
			}
			for generation := range 6 {
				h.change()
				if child := 1 + h.random.IntN(len(h.processes)-1); generation%3 > 0 {
					h.fork(h.random.IntN(child), child)
				}
				for i := range h.processes {
					h.processes[i].content = h.model[h.processes[i].pid]
				}
				h.dump()
				if h.share() > 0 {
					saved++
				}
				h.copyAll()
				h.restore()
			}
		})
	}
	qt.Assert(t, qt.IsTrue(saved > 2), qt.Commentf("%d", saved)) // or it has tried nothing
}

// TestShare looks at what is stored, and at what is not shared.
func TestShare(t *testing.T) {
	const big = 1024
	content := func(pid, from, pages uint64, like pageContent) pageContent {
		all := maps.Clone(like)
		if all == nil {
			all = make(pageContent)
		}
		for a := range pages {
			all[at(from+a)] = string(fakePage(at(from+a), uint32(pid), 1))
		}
		return all
	}
	parent := content(10, 0, big, nil)
	vmas := []*vma.VmaEntry{anon(0, big)}
	dump := func(children ...fakeProcess) string {
		return writeDump(t, 1, nil, nil, append([]fakeProcess{{pid: 10, vmas: vmas, extents: []image.Extent{stored(0, big)}, content: parent}}, children...)...)
	}
	child := func(content pageContent, extents ...image.Extent) fakeProcess {
		return fakeProcess{pid: 20, ppid: 10, vmas: vmas, extents: extents, content: content}
	}
	for name, test := range map[string]struct {
		children []fakeProcess
		stored   uint64 // pages of all children; with them the last, of which the parent has its own copy
	}{
		"all the same":         {[]fakeProcess{child(parent, stored(0, big))}, 1},
		"a few changed":        {[]fakeProcess{child(content(20, 100, 5, parent), stored(0, big))}, 6},
		"half changed":         {[]fakeProcess{child(content(20, 0, big/2, parent), stored(0, big))}, big/2 + 1},
		"all changed":          {[]fakeProcess{child(content(20, 0, big, parent), stored(0, big))}, big},
		"some dropped":         {[]fakeProcess{child(parent, stored(0, 300), stored(500, big-500))}, 1},
		"too little in common": {[]fakeProcess{child(parent, stored(0, minShared-1))}, minShared - 1},
		"little in common":     {[]fakeProcess{child(parent, stored(0, minShared))}, 1},
		"what the parent changed since": {[]fakeProcess{
			{pid: 20, ppid: 10, vmas: vmas, extents: []image.Extent{stored(0, big)}, content: content(99, 0, 700, parent)},
			{pid: 30, ppid: 10, vmas: vmas, extents: []image.Extent{stored(0, big)}, content: content(99, 0, 700, parent)},
		}, 702},
	} {
		t.Run(name, func(t *testing.T) {
			images := dump(test.children...)
			before := readMemory(t, images, nil)
			shared, err := Share(t.Context(), images, nil, nil)
			qt.Assert(t, qt.IsNil(err))
			files := make(map[string][]byte)
			for image, name := range shared.Images {
				files[name] = readFile(t, images, image)
			}
			sameMemory(t, readMemory(t, images, files), before)
			qt.Check(t, qt.Equals(uint64(pagesSize(t, images)/image.PageSize), big+test.stored))
			qt.Check(t, qt.Equals(len(shared.Images) > 0, !slices.Contains([]string{"all changed", "too little in common"}, name)))
		})
	}
}

// TestShareAndBack: when all is copied, the mappings of a process are those that
// CRIU wrote, so that CRIU can compare them with the parent's.
func TestShareAndBack(t *testing.T) {
	heap := withStatus(image.VMARegular | image.VMAHeap | image.VMAAnonPrivate)
	vmas := []*vma.VmaEntry{anon(0, 600, heap), anon(600, 300, withProt(1)), anon(900, 200), anon(1100, 100, of(3, 5)), anon(1200, 40, withFlags(image.MapGrowsDown))}
	extents := []image.Extent{stored(10, 500), stored(700, 150), stored(900, 100), stored(1010, 100), stored(1200, 40)}
	parent := make(pageContent)
	for _, e := range extents {
		for a := e.Start; a < e.End(); a += image.PageSize {
			parent[a] = string(fakePage(a, 1, 1))
		}
	}
	child := maps.Clone(parent)
	child[at(50)], child[at(200)] = string(fakePage(0, 2, 2)), string(fakePage(0, 2, 3))
	images := writeDump(t, 1, map[uint32]string{3: "/bin/true"}, nil,
		fakeProcess{pid: 10, vmas: vmas, extents: extents, content: parent},
		fakeProcess{pid: 20, ppid: 10, vmas: vmas, extents: extents, content: child})
	want := readMemory(t, images, nil)
	shared, err := Share(t.Context(), images, nil, nil)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(shared.Images, map[string]string{"pages-1.img": "/pages-1.img//memory"}))
	file, err := os.Open(filepath.Join(images, "pages-1.img"))
	qt.Assert(t, qt.IsNil(err))
	defer func() { qt.Check(t, qt.IsNil(file.Close())) }()

	view := newView(t, images)
	qt.Assert(t, qt.IsNil(Copy(t.Context(), view, map[string]*os.File{"/pages-1.img//memory": file})))
	sameMemory(t, readMemory(t, view.Dir(), nil), want)
	for _, pid := range []uint32{10, 20} {
		img, err := image.Decode(readFile(t, view.Dir(), fmt.Sprintf("mm-%d.img", pid)))
		qt.Assert(t, qt.IsNil(err))
		m := &mm.MmEntry{}
		qt.Assert(t, qt.IsNil(proto.Unmarshal(img.Records[0].Message, m)))
		qt.Assert(t, qt.HasLen(m.GetVmas(), len(vmas)))
		for i, v := range m.GetVmas() {
			qt.Check(t, qt.Equals(v.GetStart(), vmas[i].GetStart()))
			qt.Check(t, qt.Equals(v.GetEnd(), vmas[i].GetEnd()))
			qt.Check(t, qt.Equals(v.GetStatus()&^image.VMAHeap, vmas[i].GetStatus()&^image.VMAHeap))
		}
	}
}
