package memmap

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	core "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/seccomp"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/vma"
	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/proto"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/imagetest"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

func TestMap(t *testing.T) {
	vmas := []*vma.VmaEntry{
		anon(0, 600), anon(520, 4, withStatus(image.VMARegular|image.VMAGuard)), anon(600, 20, withProt(0)), anon(700, 300, withProt(1)),
		anon(2000, 300, withProt(7)), anon(3000, 10, of(3, 5)), anon(4000, 40, withFlags(image.MapGrowsDown)),
	}
	extents := []image.Extent{
		stored(0, 300), stored(300, 212), stored(550, 3), stored(600, 20), stored(710, 64),
		stored(2000, 300), stored(3001, 2), stored(4000, 40),
	}
	images := writeDump(t, 1, map[uint32]string{3: "/bin/true"}, nil,
		fakeProcess{pid: 10, vmas: vmas, extents: extents},
		fakeProcess{pid: 20, vmas: vmas, extents: extents},
		fakeProcess{pid: 30, vmas: []*vma.VmaEntry{anon(0, 20)}, extents: []image.Extent{stored(0, 20)}},
	)
	use, err := Measure(t.Context(), images, nil)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(use, &Use{
		Pages: []string{"pages-1.img", "pages-2.img"}, OwnBytes: image.PageSize * (2*(512+3+20+64) + 20),
	}))
	want := readMemory(t, images, nil)
	before := imagetest.Digests(t, images)
	files, keys := pagesFiles(t, images, use.Pages)
	view := newView(t, images)
	used, err := Map(t.Context(), view, Files{Pages: keys})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(used, slices.Sorted(maps.Values(keys))))
	qt.Check(t, qt.DeepEquals(imagetest.Digests(t, images), before))
	qt.Check(t, qt.DeepEquals(filesAdded(t, images, view.Dir()), slices.Sorted(maps.Keys(files))))
	sameMemory(t, readMemory(t, view.Dir(), files), want)
	for _, pid := range []uint32{10, 20, 30} {
		qt.Check(t, qt.DeepEquals(attributes(t, view.Dir(), pid), attributes(t, images, pid)))
	}
	qt.Check(t, qt.DeepEquals(readMemory(t, view.Dir(), nil)[10], pick(want[10], at(550), at(551), at(552),
		at(3001), at(3002), from(2000, 300), from(4000, 40))))
	qt.Check(t, qt.ContentEquals(imagetest.Edited(t, view.Dir(), view.Images()), []string{
		"core-10.img", "core-20.img", "files.img", "mm-10.img", "mm-20.img", "pagemap-10.img", "pagemap-20.img",
		"pages-1.img", "pages-2.img", "seccomp.img",
	}))
}

// from are the addresses of pages that follow each other.
func from(page, pages uint64) (all []uint64) {
	for i := range pages {
		all = append(all, at(page+i))
	}
	return all
}

func pick(all pageContent, addresses ...any) pageContent {
	out := make(pageContent)
	for _, a := range addresses {
		switch a := a.(type) {
		case uint64:
			out[a] = all[a]
		case []uint64:
			for _, a := range a {
				out[a] = all[a]
			}
		}
	}
	return out
}

// A history is a family of processes over many dumps, each of which is restored
// from by mapping and changed before the next. The model knows what their memory
// holds.
type history struct {
	t          *testing.T
	random     *rand.Rand
	generation uint64
	writes     int // of each process between two dumps
	processes  []fakeProcess
	model      map[uint32]pageContent
	files      map[string][]byte // the memory files, by the names that CRIU has for them
	dir        string            // of the last dump
}

// change writes some pages of every process, of those that it has memory for.
func (h *history) change() {
	for i := range h.processes {
		p := &h.processes[i]
		own := make(map[uint64]bool) // what was not mapped is in every dump
		for _, e := range p.extents {
			for a := e.Start; a < e.End(); a += image.PageSize {
				own[a] = true
			}
		}
		for range h.writes {
			v := p.vmas[h.random.IntN(len(p.vmas))]
			if v.GetStatus()&image.VMAGuard != 0 {
				continue
			}
			pages := (v.GetEnd() - v.GetStart()) / image.PageSize
			first := h.random.Uint64N(pages)
			for i := range min(pages-first, h.random.Uint64N(200)) {
				own[v.GetStart()+(first+i)*image.PageSize] = true
			}
		}
		p.extents = nil
		for _, a := range slices.Sorted(maps.Keys(own)) {
			// Extents of any length, as CRIU makes them.
			if n := len(p.extents); n > 0 && p.extents[n-1].End() == a && h.random.IntN(20) > 0 {
				p.extents[n-1].Pages++
			} else {
				p.extents = append(p.extents, image.Extent{Start: a, Pages: 1, Flags: image.PagePresent})
			}
			h.model[p.pid][a] = string(fakePage(a, p.pid, h.generation))
		}
	}
}

// dump makes a dump of the processes, which have what is in the names mapped.
func (h *history) dump() {
	table := make(map[uint32]string)
	for i, name := range slices.Sorted(maps.Keys(h.files)) {
		table[uint32(i+1)] = name
	}
	h.dir = writeDump(h.t, h.generation, table, nil, h.processes...)
	sameMemory(h.t, readMemory(h.t, h.dir, h.files), h.model)
}

// restore maps the dump, and takes what it makes for what the processes are.
func (h *history) restore() {
	t := h.t
	bases, sizes := make(map[string]File), make(map[string]int64)
	for name, data := range h.files {
		bases[name], sizes[name] = File{Key: name + "//key", SizeBytes: int64(len(data))}, int64(len(data))
	}
	use, err := Measure(t.Context(), h.dir, sizes)
	qt.Assert(t, qt.IsNil(err))
	given, keys := pagesFiles(t, h.dir, use.Pages)
	for name, data := range h.files {
		given["/"+bases[name].Key] = data
	}
	view := newView(t, h.dir)
	_, err = Map(t.Context(), view, Files{Pages: keys, Bases: bases})
	qt.Assert(t, qt.IsNil(err))
	sameMemory(t, readMemory(t, view.Dir(), given), h.model)
	ownFileIDs(t, view.Dir(), slices.Collect(maps.Keys(h.model))...)

	// The next dump has one id for a file, whoever maps it, and other names.
	ids, names := make(map[string]uint64), make(map[uint64]string)
	next := make(map[string][]byte)
	for i, key := range slices.Sorted(maps.Keys(given)) {
		ids[key] = uint64(i + 1)
		next[fmt.Sprintf("file[%x:%03d]", h.generation, i)] = given[key]
	}
	img, err := image.Decode(readFile(t, view.Dir(), "files.img"))
	qt.Assert(t, qt.IsNil(err))
	for _, rec := range img.Records {
		f := &fdinfo.FileEntry{}
		qt.Assert(t, qt.IsNil(proto.Unmarshal(rec.Message, f)))
		names[uint64(f.GetId())] = f.GetReg().GetName()
	}
	h.files = next
	for i := range h.processes {
		p := &h.processes[i]
		img, err := image.Decode(readFile(t, view.Dir(), fmt.Sprintf("mm-%d.img", p.pid)))
		qt.Assert(t, qt.IsNil(err))
		m := &mm.MmEntry{}
		qt.Assert(t, qt.IsNil(proto.Unmarshal(img.Records[0].Message, m)))
		p.vmas = m.GetVmas()
		for _, v := range p.vmas {
			v.ProtoReflect().SetUnknown(nil)
			if v.GetStatus()&image.VMAFilePrivate != 0 {
				v.Shmid = new(ids[names[v.GetShmid()]])
			}
		}
		pages, err := image.Decode(readFile(t, view.Dir(), fmt.Sprintf("pagemap-%d.img", p.pid)))
		qt.Assert(t, qt.IsNil(err))
		parsed, err := image.ParsePagemap(pages)
		qt.Assert(t, qt.IsNil(err))
		p.extents = parsed.Extents
	}
	h.generation++
}

// copyAll makes the dump one that needs no other, and checks that it has the same.
func (h *history) copyAll() {
	t := h.t
	open := make(map[string]*os.File)
	for name, data := range h.files {
		path := filepath.Join(t.TempDir(), "memory")
		qt.Assert(t, qt.IsNil(os.WriteFile(path, data, 0o600)))
		f, err := os.Open(path)
		qt.Assert(t, qt.IsNil(err))
		defer func() { qt.Check(t, qt.IsNil(f.Close())) }()
		open[name] = f
	}
	view := newView(t, h.dir)
	qt.Assert(t, qt.IsNil(Copy(t.Context(), view, open)))
	sameMemory(t, readMemory(t, view.Dir(), nil), h.model)
	for _, p := range h.processes {
		qt.Check(t, qt.DeepEquals(attributes(t, view.Dir(), p.pid), attributes(t, h.dir, p.pid)))
	}
	use, err := Measure(t.Context(), view.Dir(), nil)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(use.BaseBytes, 0))
	again := imagetest.Digests(t, view.Dir())
	qt.Assert(t, qt.IsNil(Copy(t.Context(), view, open)))
	qt.Check(t, qt.DeepEquals(imagetest.Digests(t, view.Dir()), again)) // nothing is left to copy
}

func readFile(tb testing.TB, dir, name string) []byte {
	tb.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	qt.Assert(tb, qt.IsNil(err))
	return data
}

// TestMapOverGenerations proves byte by byte that processes have their own
// memory back after any number of dumps and mapped restores, and that Copy
// is the identity on what it holds.
func TestMapOverGenerations(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			h := &history{t: t, random: rand.New(rand.NewPCG(seed, 1)), model: make(map[uint32]pageContent), writes: 12}
			for pid := uint32(10); pid <= 30; pid += 10 {
				p := fakeProcess{pid: pid}
				page := uint64(0)
				for range 5 + h.random.IntN(5) {
					page += h.random.Uint64N(3)
					pages := 1 + h.random.Uint64N(500)
					p.vmas = append(p.vmas, anon(page, pages))
					if pages > 20 && h.random.IntN(3) == 0 {
						p.vmas = append(p.vmas, anon(page+pages, 4), anon(page+pages, 2, withStatus(image.VMARegular|image.VMAGuard)))
						page += 4
					}
					page += pages
				}
				h.processes = append(h.processes, p)
				h.model[pid] = make(pageContent)
			}
			based := 0
			for range 6 {
				h.change()
				h.dump()
				based += len(h.files)
				h.copyAll()
				h.restore()
			}
			qt.Assert(t, qt.IsTrue(based > 6)) // or nothing was mapped
		})
	}
}

func TestMapRefuses(t *testing.T) {
	good := func() fakeProcess {
		return fakeProcess{pid: 10, vmas: []*vma.VmaEntry{anon(0, 512)}, extents: []image.Extent{stored(0, 512)}}
	}
	for name, test := range map[string]struct {
		files   map[uint32]string
		filters []*seccomp.SeccompFilter
		change  func(t *testing.T, dir string, p *fakeProcess) // of dir if there is one, else before it is made
		after   bool
		want    error
	}{
		"pages image too short": {after: true, want: image.ErrInconsistent, change: func(t *testing.T, dir string, _ *fakeProcess) {
			t.Helper()
			qt.Assert(t, qt.IsNil(os.Truncate(filepath.Join(dir, "pages-1.img"), 511*image.PageSize)))
		}},
		"pages image too long": {after: true, want: image.ErrInconsistent, change: func(t *testing.T, dir string, _ *fakeProcess) {
			t.Helper()
			qt.Assert(t, qt.IsNil(os.Truncate(filepath.Join(dir, "pages-1.img"), 513*image.PageSize)))
		}},
		"no pages image": {after: true, want: image.ErrInconsistent, change: func(t *testing.T, dir string, _ *fakeProcess) {
			t.Helper()
			qt.Assert(t, qt.IsNil(os.Remove(filepath.Join(dir, "pages-1.img"))))
		}},
		"another table of files": {after: true, want: wire.ErrMalformed, change: func(t *testing.T, dir string, _ *fakeProcess) {
			t.Helper()
			qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(dir, "files.img"), readFile(t, dir, "mm-10.img"), 0o600)))
		}},
		"no id left": {files: map[uint32]string{^uint32(0): "/bin/true"}, want: image.ErrInconsistent},
		"filter that is not there": {want: image.ErrInconsistent, change: func(_ *testing.T, _ string, p *fakeProcess) {
			p.threads = []*core.ThreadCoreEntry{{SeccompMode: core.SeccompMode_filter.Enum(), SeccompFilter: proto.Uint32(3)}}
		}},
		"endless filters": {want: image.ErrInconsistent, filters: []*seccomp.SeccompFilter{
			{Filter: []byte("12345678"), Prev: proto.Uint32(1)}, {Filter: []byte("12345678"), Prev: proto.Uint32(0)},
		}},
		"beyond an earlier dump": {files: map[uint32]string{5: "file[1:2]"}, want: image.ErrInconsistent, change: func(_ *testing.T, _ string, p *fakeProcess) {
			p.vmas = append(p.vmas, anon(1000, 1025, of(5, 0)))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p := good()
			if test.change != nil && !test.after {
				test.change(t, "", &p)
			}
			images := writeDump(t, 1, test.files, test.filters, p)
			if test.after {
				test.change(t, images, nil)
			}
			_, err := Map(t.Context(), newView(t, images), Files{
				Pages: map[string]string{"pages-1.img": "own"}, Bases: map[string]File{"file[1:2]": {"base", 1024 * image.PageSize}},
			})
			qt.Assert(t, qt.ErrorIs(err, test.want))
		})
	}
	t.Run("the same process twice", func(t *testing.T) {
		images := writeDump(t, 1, nil, nil, good(), good())
		_, err := Map(t.Context(), newView(t, images), Files{})
		qt.Assert(t, qt.ErrorIs(err, image.ErrInconsistent))
		_, err = Measure(t.Context(), images, nil)
		qt.Assert(t, qt.ErrorIs(err, image.ErrInconsistent))
		qt.Assert(t, qt.ErrorIs(Copy(t.Context(), newView(t, images), nil), image.ErrInconsistent))
	})
}

// A view on the file system of a dump whose pages images are links already, as
// those in the memory store are.
func TestViewOfLinks(t *testing.T) {
	dir := t.TempDir()
	images := filepath.Join(dir, "a/b/images")
	qt.Assert(t, qt.IsNil(os.MkdirAll(images, 0o700)))
	qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(dir, "memory"), []byte("pages"), 0o400)))
	qt.Assert(t, qt.IsNil(os.Symlink("../../../memory", filepath.Join(images, "pages-1.img"))))
	v, err := image.NewView(t.Context(), images, filepath.Join(dir, "view"))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(string(readFile(t, v.Dir(), "pages-1.img")), "pages"))
}
