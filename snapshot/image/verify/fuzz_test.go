package verify

import (
	"errors"
	"io/fs"
	"maps"
	"slices"
	"testing"
	"testing/fstest"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/imagetest"
	"github.com/snapctl/snapctl/snapshot/image/inspect"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// FuzzInspect puts one bad image into a dump: Inspect and Verify survive it,
// and what Verify lets through Inspect can read.
func FuzzInspect(f *testing.F) {
	var all []fstest.MapFS
	var names [][]string
	for i, name := range imagetest.Names(f) {
		images := imagetest.FS(f, name)
		all = append(all, images)
		names = append(names, slices.Sorted(maps.Keys(images)))
		for j, name := range names[i] {
			if data := images[name].Data; len(data) < 1<<16 {
				f.Add(byte(i), byte(j), data)
			}
		}
	}
	f.Fuzz(func(t *testing.T, which, file byte, data []byte) {
		i := int(which) % len(all)
		images := maps.Clone(all[i])
		images[names[i][int(file)%len(names[i])]] = &fstest.MapFile{Data: data}
		bad := checkFS(t.Context(), images)
		info, err := inspect.ReadFS(t.Context(), images)
		for _, err := range []error{bad, err} {
			if err != nil {
				qt.Assert(t, qt.IsTrue(errors.Is(err, wire.ErrMalformed) || errors.Is(err, image.ErrInconsistent) || errors.Is(err, fs.ErrNotExist)),
					qt.Commentf("%v", err))
			}
		}
		if bad == nil && names[i][int(file)%len(names[i])] != "stats-dump" {
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.IsNotNil(info))
		}
	})
}
