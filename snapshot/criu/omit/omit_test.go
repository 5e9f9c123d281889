package omit_test

import (
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/snapshot/criu/omit"
	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/leak"
)

func TestSupported(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Kernel(6, 7))
	leak.Check(t)
	qt.Assert(t, qt.IsNil(omit.Supported()))
}

// each is n pages from every step of an area on.
func each(area image.Extent, n, step uint64) (runs []image.Extent) {
	for at := uint64(0); at < area.Pages; at += step {
		runs = append(runs, image.Extent{Start: area.Start + at*image.PageSize, Pages: min(n, area.Pages-at)})
	}
	return runs
}

// some are runs of any length, by chance.
func some(area image.Extent) (runs []image.Extent) {
	for at := rand.Uint64N(8); at < area.Pages; {
		n := min(1+rand.Uint64N(1<<rand.UintN(10)), area.Pages-at)
		runs = append(runs, image.Extent{Start: area.Start + at*image.PageSize, Pages: n})
		at += n + 1 + rand.Uint64N(64)
	}
	return runs
}

// CRIU saves what it saves without us, but for the chosen pages.
func TestLeaveOut(t *testing.T) {
	leak.Check(t)
	for name, args := range map[string][]string{
		"small pages":      nil,
		"huge pages":       {"huge"},
		"a seccomp filter": {"filter"},
	} {
		t.Run(name, func(t *testing.T) {
			a := start(t, append(args, "1", "2", "7", "512", "3000", "12862")...)
			all := a.saveAll()
			chosen := make(map[string][]image.Extent)
			for _, area := range a.areas {
				chosen["nothing"] = nil
				chosen["areas"] = append(chosen["areas"], image.Extent{Start: area.Start, Pages: area.Pages})
				chosen["every other page"] = append(chosen["every other page"], each(area, 1, 2)...)
				chosen["pages here and there"] = append(chosen["pages here and there"], each(area, 1, 100)...)
				chosen["by chance"] = append(chosen["by chance"], some(area)...)
			}
			for name, runs := range chosen {
				t.Run(name, func(t *testing.T) {
					inner := *a
					inner.t = t
					pages := map[int][]image.Extent{a.pid: runs}
					want := map[int]memory{a.pid: maps.Clone(all[a.pid])}
					without(want, pages)
					same(t, inner.save(pages, "--leave-running"), want)
				})
			}
			a.check()
		})
	}
}
