package guard

import (
	"os"
	"path/filepath"
	"testing"

	core "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/seccomp"
	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/imagetest"
)

// edited gives each living process of the dump in images a guard of some ranges, and returns the
// view in which they have it.
func edited(t *testing.T, images string, ranges ...Range) *image.View {
	t.Helper()
	v, err := image.NewView(t.Context(), images, filepath.Join(t.TempDir(), "view"))
	qt.Assert(t, qt.IsNil(err))
	d, err := image.OpenTree(t.Context(), os.DirFS(images))
	qt.Assert(t, qt.IsNil(err))
	e := NewEdit(v)
	for _, entry := range d.Tree {
		task, err := d.MemoryTask(entry)
		qt.Assert(t, qt.IsNil(err))
		if task.Alive() {
			qt.Assert(t, qt.IsNil(e.Process(task, ranges)))
		}
	}
	qt.Assert(t, qt.IsNil(e.Write()))
	return v
}

// first returns the filters of a dump, and which of them the first process installs first.
func first(t *testing.T, dir string) (filters []*seccomp.SeccompFilter, head int) {
	t.Helper()
	entry := imagetest.Load[core.CoreEntry](t, dir, "core-1.img")[0].GetThreadCore()
	if _, err := os.Stat(filepath.Join(dir, "seccomp.img")); err == nil {
		filters = imagetest.Load[seccomp.SeccompEntry](t, dir, "seccomp.img")[0].GetSeccompFilters()
	}
	if entry.GetSeccompMode() != core.SeccompMode_filter {
		return filters, NoFilter
	}
	return filters, int(entry.GetSeccompFilter())
}

func TestEdit(t *testing.T) {
	images := imagetest.Dump(t, "plain")
	own, before := first(t, images)

	// A guard comes first, and the process's own filters after it.
	r := Range{Start: 0x7f0000000000, End: 0x7f0000200000}
	guarded := edited(t, images, r)
	filters, head := first(t, guarded.Dir())
	qt.Assert(t, qt.IsTrue(head >= len(own) && head < len(filters)), qt.Commentf("filter %d of %d", head, len(filters)))
	qt.Check(t, qt.IsTrue(Is(filters[head].GetFilter())))
	qt.Check(t, qt.DeepEquals(filters[head].GetFilter(), Filter([]Range{r})))
	if before == NoFilter {
		qt.Check(t, qt.IsNil(filters[head].Prev))
	} else {
		qt.Check(t, qt.Equals(int(filters[head].GetPrev()), before))
	}

	// Another one takes its place, and no memory takes it away.
	other := Range{Start: 0x1000, End: 0x3000}
	filters, head = first(t, edited(t, guarded.Dir(), other).Dir())
	qt.Check(t, qt.DeepEquals(filters[head].GetFilter(), Filter([]Range{other})))
	_, head = first(t, edited(t, guarded.Dir()).Dir())
	qt.Check(t, qt.Equals(head, before))
}

// Without memory to guard, and without guards of an earlier restore, nothing is changed.
func TestEditOfNothing(t *testing.T) {
	images := imagetest.Dump(t, "plain")
	v := edited(t, images)
	qt.Check(t, qt.HasLen(imagetest.Edited(t, v.Dir(), v.Images()), 0))
}

func TestCheckChains(t *testing.T) {
	for name, c := range map[string]struct {
		next []int
		bad  bool
	}{
		"none":         {nil, false},
		"one":          {[]int{NoFilter}, false},
		"two chains":   {[]int{2, 2, NoFilter}, false},
		"itself":       {[]int{0}, true},
		"a circle":     {[]int{1, 2, 0}, true},
		"into circle":  {[]int{1, 2, 1}, true},
		"is not there": {[]int{NoFilter, 2}, true},
	} {
		t.Run(name, func(t *testing.T) {
			err := CheckChains(c.next)
			if c.bad {
				qt.Check(t, qt.ErrorIs(err, image.ErrInconsistent))
			} else {
				qt.Check(t, qt.IsNil(err))
			}
		})
	}
}
