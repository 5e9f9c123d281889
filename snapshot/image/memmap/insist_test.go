package memmap

import (
	"testing"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/vma"
	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/guard"
)

func TestProgramInsists(t *testing.T) {
	for name, want := range map[string]Insistence{
		"/usr/bin/node": insistsOnHeap,
		"/usr/lib/x86_64-linux-gnu/libnode.so.108": insistsOnHeap,
		"/usr/bin/deno (deleted)":                  insistsOnHeap,
		"/opt/google/chrome/chrome":                insistsOnAll,
		"/usr/lib/chromium/chromium":               insistsOnAll,
		"/app/libcef.so":                           insistsOnAll,
		"/usr/lib/libQt6WebEngineCore.so.6":        insistsOnAll,
		"/usr/bin/redis-server":                    insistsNot,
		"/usr/lib/x86_64-linux-gnu/libc.so.6":      insistsNot,
		"/usr/bin/node_exporter":                   insistsNot,
		"/var/lib/node/x":                          insistsNot,
		"":                                         insistsNot,
	} {
		qt.Check(t, qt.Equals(ProgramInsists(name), want), qt.Commentf("%s", name))
	}
}

// A program that ends if memory can't be dropped is never refused that.
func TestNewPlanOfThoseThatInsist(t *testing.T) {
	const program = 7
	code := anon(5000, 100, of(program, 0), withProt(5))
	heap := anon(6000, 300, withAdvice(madvDontFork))
	for name, test := range map[string]struct {
		kind   Insistence
		vmas   []*vma.VmaEntry
		mapped bool
	}{
		"no such program":             {insistsNot, nil, true},
		"V8 that marks its heap":      {insistsOnHeap, []*vma.VmaEntry{heap}, true},
		"V8 that does not":            {insistsOnHeap, nil, false},
		"PartitionAlloc":              {insistsOnAll, nil, false},
		"PartitionAlloc beside a V8":  {insistsOnAll, []*vma.VmaEntry{heap}, false},
		"V8 in a program of any name": {insistsNot, []*vma.VmaEntry{heap}, true},
	} {
		t.Run(name, func(t *testing.T) {
			vmas := append([]*vma.VmaEntry{anon(0, 512), code}, test.vmas...)
			extents := []image.Extent{stored(0, 512)}
			if len(test.vmas) > 0 {
				extents = append(extents, stored(6000, 300))
			}
			p, err := NewPlan(plainTask(vmas, extents...), testBases, func(file uint32) Insistence {
				if file == program {
					return test.kind
				}
				return insistsNot
			})
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(len(p.Mapped) > 0, test.mapped))
			for _, r := range p.Mapped {
				qt.Check(t, qt.Equals(r.VMA, 0))
			}
			if !test.mapped {
				qt.Check(t, qt.Equals(p.Why[0], CopiedInsists))
			}
		})
	}
}

// What lies between mapped memory is guarded if there is too much of it, and may be
// the heap of V8: so there is less of it.
func TestNewPlanBesideAHeap(t *testing.T) {
	var vmas []*vma.VmaEntry
	var extents []image.Extent
	for i := range uint64(3 * guard.MaxRanges) {
		pages := uint64(MinRun) << (i % 4)
		vmas = append(vmas, anon(200*i, pages), anon(200*i+150, 1, withAdvice(madvDontFork)))
		extents = append(extents, stored(200*i, pages))
	}
	p, err := NewPlan(plainTask(vmas, extents...), testBases, noneInsists)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsTrue(len(p.Mapped) > 0 && len(p.Mapped) <= guard.MaxRanges), qt.Commentf("%d", len(p.Mapped)))
	for _, guarded := range guard.Merge(p.ranges(plainTask(vmas)), guard.MaxRanges) {
		for _, v := range vmas {
			if v.GetMadv() != 0 {
				qt.Assert(t, qt.IsTrue(v.GetEnd() <= guarded.Start || v.GetStart() >= guarded.End))
			}
		}
	}
}
