package memmap

import (
	"fmt"
	"slices"
	"testing"

	corex86 "github.com/checkpoint-restore/go-criu/v8/crit/images/core-x86"
	core "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/vma"
	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/proto"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

const (
	testBase  = 7 // the id of a file of an earlier dump, of 1024 pages
	testOther = 8 // that of another file
)

func testBases(id uint32) (int64, bool) { return 1024 * image.PageSize, id == testBase }

func noneInsists(uint32) Insistence { return insistsNot }

// at is the address of a page, counted from one that no page 0 is near.
func at(page uint64) uint64 { return 0x7f00_0000_0000 + page*image.PageSize }

// anon is private anonymous memory of some pages; more changes it.
func anon(page, pages uint64, more ...func(*vma.VmaEntry)) *vma.VmaEntry {
	v := &vma.VmaEntry{
		Start: new(at(page)), End: new(at(page + pages)), Pgoff: proto.Uint64(0), Shmid: proto.Uint64(0),
		Prot: proto.Uint32(3), Flags: proto.Uint32(mapAnonymous | 2), Status: proto.Uint32(image.VMARegular | image.VMAAnonPrivate), Fd: proto.Int64(-1),
	}
	for _, change := range more {
		change(v)
	}
	return v
}

// of makes a mapping a private one of a file.
func of(id uint32, offset uint64) func(*vma.VmaEntry) {
	return func(v *vma.VmaEntry) {
		v.Shmid, v.Pgoff = new(uint64(id)), new(offset*image.PageSize)
		v.Flags, v.Status, v.Fdflags = proto.Uint32(2), proto.Uint32(image.VMARegular|image.VMAFilePrivate), proto.Uint32(0)
	}
}

func withStatus(bits uint32) func(*vma.VmaEntry) {
	return func(v *vma.VmaEntry) { v.Status = new(bits) }
}

func withFlags(bits uint32) func(*vma.VmaEntry) {
	return func(v *vma.VmaEntry) { v.Flags = new(v.GetFlags() | bits) }
}

func withProt(bits uint32) func(*vma.VmaEntry) {
	return func(v *vma.VmaEntry) { v.Prot = new(bits) }
}

func withAdvice(bits uint64) func(*vma.VmaEntry) {
	return func(v *vma.VmaEntry) { v.Madv = new(bits) }
}

// stored is an extent of stored pages.
func stored(page, pages uint64) image.Extent {
	return image.Extent{Start: at(page), Pages: pages, Flags: image.PagePresent}
}

// plainTask is a 64-bit process of one thread without filters.
func plainTask(vmas []*vma.VmaEntry, extents ...image.Extent) *image.Task {
	c := &core.CoreEntry{
		Mtype:      core.CoreEntry_X86_64.Enum(),
		ThreadInfo: &corex86.ThreadInfoX86{Gpregs: &corex86.UserX86RegsEntry{}},
		ThreadCore: &core.ThreadCoreEntry{},
	}
	return &image.Task{Core: c, Threads: []*core.CoreEntry{c}, MM: &mm.MmEntry{Vmas: vmas}, Pages: &image.Pagemap{PagesID: 1, Extents: extents}}
}

func TestNewPlan(t *testing.T) {
	// Each test has mappable memory beside what it is about: enough of it.
	plenty := func(v ...*vma.VmaEntry) []*vma.VmaEntry { return append(v, anon(10_000, 512)) }
	most := stored(10_000, 512)
	rest := func(vma int, offset uint64) []Run { return []Run{{at(10_000), 512, offset, vma}} }
	many := func(n uint64, pages uint64) (extents []image.Extent) {
		for i := range n {
			extents = append(extents, stored(2*i*pages, pages))
		}
		return extents
	}
	runs := func(n uint64, pages uint64) (all []Run) {
		for i := range n {
			all = append(all, Run{at(2 * i * pages), pages, i * pages, 0})
		}
		return all
	}
	code := anon(9000, 10, of(testOther, 0), withProt(5))
	for name, test := range map[string]struct {
		task           *image.Task
		mapped, copied []Run
		why            Copied // of the first mapping
	}{
		"all": {
			task:   plainTask([]*vma.VmaEntry{anon(0, 512)}, stored(0, 512)),
			mapped: []Run{{at(0), 511, 0, 0}}, copied: []Run{{at(511), 1, 511, 0}},
		},
		"no pages": {task: plainTask([]*vma.VmaEntry{anon(0, 512)})},
		"several extents are one run": {
			task:   plainTask([]*vma.VmaEntry{anon(0, 600)}, stored(0, 100), stored(100, 100), stored(200, 312), stored(599, 1)),
			mapped: []Run{{at(0), 512, 0, 0}}, copied: []Run{{at(599), 1, 512, 0}}, why: CopiedShort,
		},
		"an extent over several mappings": {
			task:   plainTask([]*vma.VmaEntry{anon(0, 256), anon(256, 4), anon(260, 256)}, stored(0, 516)),
			mapped: []Run{{at(0), 256, 0, 0}, {at(256), 4, 256, 1}, {at(260), 255, 260, 2}}, copied: []Run{{at(515), 1, 515, 2}},
		},
		"mappings in no order": {
			task:   plainTask([]*vma.VmaEntry{anon(260, 256), anon(0, 256)}, stored(0, 256), stored(260, 256)),
			mapped: []Run{{at(0), 256, 0, 1}, {at(260), 255, 256, 0}}, copied: []Run{{at(515), 1, 511, 0}},
		},
		"a hole": {
			task:   plainTask([]*vma.VmaEntry{anon(0, 1000)}, stored(0, 300), stored(700, 300)),
			mapped: []Run{{at(0), 300, 0, 0}, {at(700), 299, 300, 0}}, copied: []Run{{at(999), 1, 599, 0}},
		},
		"lazy pages": {
			task:   plainTask([]*vma.VmaEntry{anon(0, 512)}, image.Extent{Start: at(0), Pages: 512, Flags: image.PagePresent | image.PageLazy}),
			mapped: []Run{{at(0), 511, 0, 0}}, copied: []Run{{at(511), 1, 511, 0}},
		},
		"pages that are not stored": {
			task:   plainTask(plenty(anon(0, 512)), image.Extent{Start: at(0), Pages: 512, Flags: image.PageLazy}, most),
			mapped: []Run{{at(10_000), 511, 0, 1}}, copied: []Run{{at(10_511), 1, 511, 1}},
		},
		"a guard inside": {
			task:   plainTask([]*vma.VmaEntry{anon(0, 600), anon(512, 8, withStatus(image.VMARegular|image.VMAGuard))}, stored(0, 512), stored(520, 1)),
			mapped: []Run{{at(0), 512, 0, 0}}, copied: []Run{{at(520), 1, 512, 0}}, why: CopiedShort,
		},
		"heap": {
			task:   plainTask(plenty(anon(0, 300, withStatus(image.VMARegular|image.VMAHeap|image.VMAAnonPrivate))), stored(0, 300), most),
			mapped: []Run{{at(0), 300, 0, 0}, {at(10_000), 511, 300, 1}}, copied: []Run{{at(10_511), 1, 811, 1}},
		},
		"based": {
			task:   plainTask(plenty(anon(0, 300, of(testBase, 724))), stored(0, 300), most),
			mapped: []Run{{at(0), 300, 0, 0}, {at(10_000), 511, 300, 1}}, copied: []Run{{at(10_511), 1, 811, 1}},
		},
		"short runs": {
			task:   plainTask(plenty(anon(0, 300)), stored(0, minOwn-1), stored(100, minOwn), most),
			mapped: append([]Run{{at(100), minOwn, minOwn - 1, 0}}, rest(1, 2*minOwn-1)...),
			copied: []Run{{at(0), minOwn - 1, 0, 0}}, why: CopiedShort,
		},
		"short runs alone": {
			task:   plainTask([]*vma.VmaEntry{anon(0, 1<<20)}, many(1000, MinRun-1)...),
			copied: runs(1000, MinRun-1), why: CopiedSmall,
		},
		"short runs alone, based": {
			task:   plainTask([]*vma.VmaEntry{anon(0, 1<<20), anon(1<<21, 8, of(testBase, 0))}, many(1000, MinRun-1)...),
			copied: runs(1000, MinRun-1), why: CopiedSmall,
		},
		"program data": {
			task:   plainTask(plenty(anon(0, 100, of(testOther, 5)), code), stored(0, minOwn-1), stored(10, minOwn), most),
			mapped: append([]Run{{at(10), minOwn, minOwn - 1, 0}}, rest(2, 2*minOwn-1)...),
			copied: []Run{{at(0), minOwn - 1, 0, 0}}, why: CopiedShort,
		},
		"program data alone": {
			task:   plainTask([]*vma.VmaEntry{anon(0, 512, of(testOther, 0)), code}, stored(0, 512)),
			copied: []Run{{at(0), 512, 0, 0}}, why: CopiedSmall,
		},
		"program data, based": {
			task:   plainTask([]*vma.VmaEntry{anon(0, 512, of(testOther, 0)), code, anon(1<<20, 8, of(testBase, 0))}, stored(0, minData), stored(511, 1)),
			mapped: []Run{{at(0), minData, 0, 0}}, copied: []Run{{at(511), 1, minData, 0}}, why: CopiedShort,
		},
		"small process": {
			task:   plainTask([]*vma.VmaEntry{anon(0, 512)}, stored(0, MinMapped-1)),
			copied: []Run{{at(0), MinMapped - 1, 0, 0}}, why: CopiedSmall,
		},
		"more runs than may be": {
			task:   plainTask([]*vma.VmaEntry{anon(0, 1<<30)}, append(many(maxRuns+1, MinRun), stored(1<<29, 2*MinRun))...),
			mapped: []Run{{at(1 << 29), 2 * MinRun, (maxRuns + 1) * MinRun, 0}}, why: CopiedSmall, // and those are too few
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := NewPlan(test.task, testBases, noneInsists)
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(p.Why[0], test.why))
			if name == "more runs than may be" {
				qt.Check(t, qt.HasLen(p.Mapped, 0))
				qt.Check(t, qt.HasLen(p.copied, maxRuns+2))
				return
			}
			qt.Check(t, qt.IsTrue(slices.Equal(p.Mapped, test.mapped)), qt.Commentf("%v", p.Mapped))
			qt.Check(t, qt.IsTrue(slices.Equal(p.copied, test.copied)), qt.Commentf("%v", p.copied))
		})
	}

	for name, test := range map[string]struct {
		vma *vma.VmaEntry
		why Copied
	}{
		"stack":             {anon(0, 300, withFlags(image.MapGrowsDown)), CopiedStack},
		"locked":            {anon(0, 300, withFlags(mapLocked)), CopiedLocked},
		"huge pages":        {anon(0, 300, withFlags(mapHugeTLB)), CopiedHuge},
		"advised huge":      {anon(0, 300, withAdvice(madvHugepage)), CopiedHuge},
		"executable":        {anon(0, 300, withProt(7)), CopiedExecutable},
		"wiped on fork":     {anon(0, 300, withAdvice(madvWipeOnFork)), CopiedAdvice},
		"merged":            {anon(0, 300, withAdvice(madvMergeable)), CopiedAdvice},
		"not for children":  {anon(0, 300, withAdvice(madvDontFork)), CopiedInsists},
		"droppable":         {anon(0, 300, withFlags(mapDroppable)), CopiedAdvice},
		"shared anonymous":  {anon(0, 300, withStatus(image.VMARegular|image.VMAAnonShared)), CopiedShared},
		"shared file":       {anon(0, 300, withStatus(image.VMARegular|image.VMAFileShared)), CopiedShared},
		"System V":          {anon(0, 300, withStatus(image.VMARegular|image.VMAAnonShared|image.VMASysV)), CopiedShared},
		"memfd":             {anon(0, 300, withStatus(image.VMARegular|image.VMAFilePrivate|image.VMAMemfd)), CopiedShared},
		"private file":      {anon(0, 300, of(testOther, 0)), CopiedFile},
		"AIO ring":          {anon(0, 300, withStatus(image.VMARegular|image.VMAAnonPrivate|image.VMAAIO)), CopiedKernel},
		"shadow stack":      {anon(0, 300, withStatus(image.VMARegular|image.VMAAnonPrivate|image.VMAShadowStack)), CopiedKernel},
		"vdso":              {anon(0, 300, withStatus(image.VMARegular|image.VMAAnonPrivate|image.VMAVDSO)), CopiedKernel},
		"nothing at all":    {anon(0, 300, withStatus(image.VMARegular)), CopiedKernel},
		"executable, based": {anon(0, 300, of(testBase, 0), withProt(5)), CopiedNot},
	} {
		t.Run("copied/"+name, func(t *testing.T) {
			p, err := NewPlan(plainTask(plenty(test.vma), stored(0, 300), most), testBases, noneInsists)
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(p.Why[0], test.why))
			if test.why == CopiedNot {
				qt.Check(t, qt.Equals(p.Mapped[0], Run{at(0), 300, 0, 0}))
				qt.Check(t, qt.Equals(p.own, 812))
				return
			}
			qt.Check(t, qt.IsTrue(slices.Equal(p.copied, []Run{{at(0), 300, 0, 0}})), qt.Commentf("%v", p.copied))
			qt.Check(t, qt.IsTrue(slices.Equal(p.Mapped, rest(1, 300))), qt.Commentf("%v", p.Mapped))
			qt.Check(t, qt.Equals(p.own, 512))
		})
	}

	for name, change := range map[string]func(*image.Task){
		"32-bit registers": func(t *image.Task) {
			t.Core.ThreadInfo.Gpregs.Mode = corex86.UserX86RegsMode_COMPAT.Enum()
		},
		"another machine": func(t *image.Task) { t.Core.Mtype = core.CoreEntry_AARCH64.Enum() },
		"strict seccomp": func(t *image.Task) {
			t.Threads = append(t.Threads, &core.CoreEntry{ThreadCore: &core.ThreadCoreEntry{SeccompMode: core.SeccompMode_strict.Enum()}})
		},
	} {
		t.Run("foreign/"+name, func(t *testing.T) {
			task := plainTask([]*vma.VmaEntry{anon(0, 512)}, stored(0, 512))
			change(task)
			p, err := NewPlan(task, testBases, noneInsists)
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(p.Why[0], CopiedTask))
			qt.Check(t, qt.HasLen(p.Mapped, 0))
			qt.Check(t, qt.IsTrue(slices.Equal(p.copied, []Run{{at(0), 512, 0, 0}})))
		})
	}
}

func TestNewPlanRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		vma    *vma.VmaEntry
		extent image.Extent
		want   error
	}{
		"backwards":       {anon(0, 1, func(v *vma.VmaEntry) { v.End = new(at(0) - image.PageSize) }), stored(512, 1), wire.ErrMalformed},
		"empty":           {anon(0, 0), stored(512, 1), wire.ErrMalformed},
		"inside a page":   {anon(0, 1, func(v *vma.VmaEntry) { v.End = new(at(1) + 1) }), stored(512, 1), wire.ErrMalformed},
		"overlapping":     {anon(511, 2), stored(512, 1), wire.ErrMalformed},
		"pages outside":   {anon(0, 1), stored(1, 1), image.ErrInconsistent},
		"pages behind":    {anon(0, 1), stored(1023, 2), image.ErrInconsistent},
		"too many pages":  {anon(0, 1), stored(0, 1<<40), image.ErrInconsistent},
		"a parent dump":   {anon(0, 1), image.Extent{Start: at(0), Pages: 1, Flags: image.PageParent}, image.ErrInconsistent},
		"end of the file": {anon(0, 2, of(testBase, 1023)), stored(512, 1), image.ErrInconsistent},
		"beyond the file": {anon(0, 1, of(testBase, 1024)), stored(512, 1), image.ErrInconsistent},
		"offset overflows": {
			anon(0, 2, of(testBase, 0), func(v *vma.VmaEntry) { v.Pgoff = new(^uint64(0) - image.PageSize + 1) }),
			stored(512, 1), image.ErrInconsistent,
		},
		"odd offset": {
			anon(0, 2, of(testBase, 0), func(v *vma.VmaEntry) { v.Pgoff = proto.Uint64(1) }), stored(512, 1), image.ErrInconsistent,
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := NewPlan(plainTask([]*vma.VmaEntry{test.vma, anon(512, 512)}, test.extent), testBases, noneInsists)
			qt.Assert(t, qt.ErrorIs(err, test.want))
		})
	}
	t.Run("based and strict", func(t *testing.T) {
		task := plainTask([]*vma.VmaEntry{anon(0, 1, of(testBase, 0))})
		task.Threads[0].ThreadCore.SeccompMode = core.SeccompMode_strict.Enum()
		_, err := NewPlan(task, testBases, noneInsists)
		qt.Assert(t, qt.ErrorIs(err, image.ErrInconsistent))
	})
}

// TestPiecesOfProgramData looks at what is left of the mapping of a program where some of it was
// changed.
func TestPiecesOfProgramData(t *testing.T) {
	data := anon(0, 100, of(testOther, 7))
	vmas := []*vma.VmaEntry{data, anon(200, 512), anon(9000, 10, of(testOther, 0), withProt(5))}
	plan, err := NewPlan(plainTask(vmas, stored(10, 20), stored(99, 1), stored(200, 512)), testBases, noneInsists)
	qt.Assert(t, qt.IsNil(err))
	var got []string
	for _, p := range plan.pieces(vmas, func(file uint32) uint32 { return file }, plan.cuts(99))[0] {
		if p.start == p.end {
			continue
		}
		msg, err := proto.Marshal(data)
		qt.Assert(t, qt.IsNil(err))
		msg, err = p.entry(msg)
		qt.Assert(t, qt.IsNil(err))
		var v vma.VmaEntry
		qt.Assert(t, qt.IsNil(proto.Unmarshal(msg, &v)))
		got = append(got, fmt.Sprintf("%d-%d of %d from %d on", (v.GetStart()-at(0))/image.PageSize, (v.GetEnd()-at(0))/image.PageSize,
			v.GetShmid(), v.GetPgoff()/image.PageSize))
	}
	qt.Check(t, qt.DeepEquals(got, []string{"0-10 of 8 from 7 on", "10-30 of 99 from 0 on", "30-100 of 8 from 37 on"}))
}

// TestNewPlanOfManyGenerations changes other pages before each of many dumps: a
// process never comes back with more mappings than the kernel lets it have.
func TestNewPlanOfManyGenerations(t *testing.T) {
	const pages = 1 << 21
	vmas := []*vma.VmaEntry{anon(0, pages)}
	base := func(id uint32) (int64, bool) { return pages * image.PageSize, id == testBase }
	for generation := range uint64(32) {
		var extents []image.Extent
		for page := generation * MinRun * 4; page+4*MinRun <= pages; page += 128 * MinRun {
			extents = append(extents, stored(page, MinRun))
		}
		if generation == 0 {
			extents = []image.Extent{stored(0, pages)}
		}
		task := plainTask(vmas, extents...)
		plan, err := NewPlan(task, base, noneInsists)
		qt.Assert(t, qt.IsNil(err))
		var next []*vma.VmaEntry
		for i, list := range plan.pieces(vmas, func(uint32) uint32 { return testBase }, plan.cuts(testBase)) {
			for _, p := range list {
				if p.start == p.end {
					continue
				}
				piece := proto.CloneOf(vmas[i])
				piece.Start, piece.End = new(p.start), new(p.end)
				if p.file != 0 {
					of(testBase, p.offset/image.PageSize)(piece)
				}
				next = append(next, piece)
			}
		}
		qt.Assert(t, qt.IsTrue(len(next) <= maxMappings), qt.Commentf("generation %d: %d mappings", generation, len(next)))
		vmas = next
	}
	qt.Assert(t, qt.IsTrue(len(vmas) > maxRuns)) // or it has tried nothing
}
