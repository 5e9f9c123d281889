package pageset_test

import (
	"math/rand/v2"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/pageset"
)

const universe = 64 // pages

func draw(random *rand.Rand) (runs []image.Extent, has [universe]bool) {
	for range random.IntN(12) {
		from := random.IntN(universe)
		n := 1 + random.IntN(min(9, universe-from))
		runs = append(runs, image.Extent{Start: uint64(from) * image.PageSize, Pages: uint64(n)})
		for i := range n {
			has[from+i] = true
		}
	}
	return runs, has
}

// check proves that a set has these pages, in as few runs as there can be.
func check(t *testing.T, s pageset.Set, want [universe]bool) {
	t.Helper()
	var got [universe]bool
	count := uint64(0)
	for i, r := range s {
		qt.Assert(t, qt.IsTrue(r.Pages > 0))
		if i > 0 {
			qt.Assert(t, qt.IsTrue(s[i-1].End() < r.Start))
		}
		for p := r.Start; p < r.End(); p += image.PageSize {
			got[p/image.PageSize] = true
			count++
		}
	}
	qt.Assert(t, qt.Equals(got, want))
	qt.Assert(t, qt.Equals(s.Pages(), count))
}

func TestSets(t *testing.T) {
	for seed := range uint64(2000) {
		random := rand.New(rand.NewPCG(seed, 0))
		a, inA := draw(random)
		b, inB := draw(random)
		x, y := pageset.Of(a...), pageset.Of(b...)
		var both, either, only [universe]bool
		for i := range universe {
			both[i], either[i], only[i] = inA[i] && inB[i], inA[i] || inB[i], inA[i] && !inB[i]
		}
		check(t, x, inA)
		check(t, x.Union(y), either)
		check(t, x.Intersect(y), both)
		check(t, x.Subtract(y), only)
		check(t, x, inA) // unchanged
	}
}
