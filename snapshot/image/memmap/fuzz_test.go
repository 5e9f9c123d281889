package memmap

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	core "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/vma"
	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/proto"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/imagetest"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// fuzzed are the images that FuzzMap makes up.
var fuzzed = []string{"pstree.img", "files.img", "seccomp.img", "core-10.img", "mm-10.img", "pagemap-10.img"}

const fuzzBasePages = 32

// FuzzMap: images that nobody dumped are refused for what is wrong with
// them, or give mappings that lie in their files.
func FuzzMap(f *testing.F) {
	bases := map[string]File{"file[1:2]": {"base", fuzzBasePages * image.PageSize}}
	seed := func(filters string, vmas []*vma.VmaEntry, extents ...image.Extent) {
		dir := writeDump(f, 1, map[uint32]string{5: "file[1:2]", 6: "/bin/true"}, parseFilters(filters),
			fakeProcess{pid: 10, vmas: vmas, extents: extents, threads: []*core.ThreadCoreEntry{filtered(0)}})
		images := make([][]byte, len(fuzzed))
		for i, name := range fuzzed {
			images[i] = readFile(f, dir, name)
		}
		f.Add(images[0], images[1], images[2], images[3], images[4], images[5], uint16(extents[0].Pages))
	}
	seed("a>1 b", []*vma.VmaEntry{anon(0, 512)}, stored(0, 512))
	seed("G>1 a", []*vma.VmaEntry{anon(0, 512), anon(600, 20, of(5, 3))}, stored(0, 512))
	seed("a>0", []*vma.VmaEntry{anon(0, 512)}, stored(0, 512))
	seed("a", []*vma.VmaEntry{anon(0, 512), anon(600, 20, of(5, fuzzBasePages-10))}, stored(0, 512))
	seed("a", []*vma.VmaEntry{anon(0, 512)}, stored(500, 20))
	f.Fuzz(func(t *testing.T, tree, files, filters, thread, mappings, pagemap []byte, pages uint16) {
		dir := t.TempDir()
		inventory := imagetest.FS(t, "plain")["inventory.img"].Data
		qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(dir, "inventory.img"), inventory, 0o600)))
		for i, data := range [][]byte{tree, files, filters, thread, mappings, pagemap} {
			qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(dir, fuzzed[i]), data, 0o600)))
		}
		own := int64(pages) * image.PageSize
		sparse := func(name string, size int64) string {
			path := filepath.Join(dir, name)
			qt.Assert(t, qt.IsNil(os.WriteFile(path, nil, 0o600)))
			qt.Assert(t, qt.IsNil(os.Truncate(path, size)))
			return path
		}
		sparse("pages-1.img", own)
		base, err := os.Open(sparse("base", fuzzBasePages*image.PageSize))
		qt.Assert(t, qt.IsNil(err))
		defer func() { qt.Check(t, qt.IsNil(base.Close())) }()

		_, err = Measure(t.Context(), dir, map[string]int64{"file[1:2]": fuzzBasePages * image.PageSize})
		refusedForACause(t, err)
		view := newView(t, dir)
		refusedForACause(t, Copy(t.Context(), view, map[string]*os.File{"file[1:2]": base}))
		view = newView(t, dir)
		keys, err := Map(t.Context(), view, Files{Pages: map[string]string{"pages-1.img": "own"}, Bases: bases})
		if refusedForACause(t, err); err == nil && len(keys) > 0 {
			inFiles(t, view, map[string]int64{"/own": own, "/base": fuzzBasePages * image.PageSize})
		}
	})
}

func refusedForACause(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		qt.Assert(t, qt.IsTrue(errors.Is(err, wire.ErrMalformed) || errors.Is(err, image.ErrInconsistent) || errors.Is(err, fs.ErrNotExist)),
			qt.Commentf("%v", err))
	}
}

// inFiles proves that every mapping that was made lies in its file: a process gets
// a SIGBUS beyond its end.
func inFiles(t *testing.T, view *image.View, sizes map[string]int64) {
	t.Helper()
	table, err := image.Decode(readFile(t, view.Dir(), "files.img"))
	qt.Assert(t, qt.IsNil(err))
	byID := make(map[uint64]int64)
	for _, rec := range table.Records[len(table.Records)-len(sizes):] {
		f, err := image.ParseOpenFile(rec.Message)
		qt.Assert(t, qt.IsNil(err))
		name, err := f.RegName()
		qt.Assert(t, qt.IsNil(err))
		if size, ok := sizes[string(name)]; ok {
			byID[uint64(f.ID)] = size
		}
	}
	img, err := image.Decode(readFile(t, view.Dir(), "mm-10.img"))
	qt.Assert(t, qt.IsNil(err))
	m := &mm.MmEntry{}
	qt.Assert(t, qt.IsNil(proto.Unmarshal(img.Records[0].Message, m)))
	n := 0
	for _, v := range m.GetVmas() {
		if size, ok := byID[v.GetShmid()]; ok && v.GetStatus()&image.VMAFilePrivate != 0 {
			n++
			end := v.GetPgoff() + v.GetEnd() - v.GetStart()
			qt.Assert(t, qt.IsTrue(v.GetStart() < v.GetEnd() && end > v.GetPgoff() && end <= uint64(size)),
				qt.Commentf("%#x to %#x at %d of %d", v.GetStart(), v.GetEnd(), v.GetPgoff(), size))
		}
	}
	qt.Assert(t, qt.IsTrue(n > 0))
}

// FuzzNewPlan: every stored page is in one run, and there is one to copy; no plan
// makes more mappings than there may be.
func FuzzNewPlan(f *testing.F) {
	f.Add([]byte{0, 200, 1, 3, 100, 9}, []byte{0, 199, 7, 80})
	f.Add([]byte{0, 255, 0, 0, 255, 0, 1, 255, 4}, []byte{0, 255, 0, 255, 0, 255})
	f.Fuzz(func(t *testing.T, mappings, extents []byte) {
		kinds := []func(*vma.VmaEntry){
			withAdvice(0), of(testBase, 3), of(testOther, 1), withFlags(image.MapGrowsDown), withProt(7), withStatus(image.VMARegular | image.VMAGuard),
		}
		var vmas []*vma.VmaEntry
		page := uint64(0)
		for ; len(mappings) >= 3; mappings = mappings[3:] {
			page += uint64(mappings[0])
			vmas = append(vmas, anon(page, uint64(mappings[1]), kinds[int(mappings[2])%len(kinds)]))
			page += uint64(mappings[1])
		}
		task := plainTask(vmas)
		total := uint64(0)
		for page = 0; len(extents) >= 2; extents = extents[2:] {
			page += uint64(extents[0])
			task.Pages.Extents = append(task.Pages.Extents, stored(page, uint64(extents[1])))
			page += uint64(extents[1])
			total += uint64(extents[1])
		}
		p, err := NewPlan(task, testBases, noneInsists)
		if err != nil {
			refusedForACause(t, err)
			return
		}
		seen := make(map[uint64]bool)
		for _, r := range append(p.Mapped, p.copied...) {
			v := vmas[r.VMA]
			qt.Assert(t, qt.IsTrue(r.Pages > 0 && r.Start >= v.GetStart() && r.End() <= v.GetEnd()))
			for i := range r.Pages {
				qt.Assert(t, qt.IsFalse(seen[r.Offset+i]))
				seen[r.Offset+i] = true
			}
		}
		qt.Assert(t, qt.Equals(uint64(len(seen)), total))
		qt.Assert(t, qt.IsTrue(total == 0 || len(p.copied) > 0))
	})
}
