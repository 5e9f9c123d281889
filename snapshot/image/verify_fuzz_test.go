package image

import (
	"errors"
	"io/fs"
	"maps"
	"slices"
	"testing"
	"testing/fstest"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/snapshot/image/imagetest"
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
		for j, image := range names[i] {
			if data := images[image].Data; len(data) < 1<<16 {
				f.Add(byte(i), byte(j), data)
			}
		}
	}
	f.Fuzz(func(t *testing.T, which, image byte, data []byte) {
		i := int(which) % len(all)
		images := maps.Clone(all[i])
		images[names[i][int(image)%len(names[i])]] = &fstest.MapFile{Data: data}
		bad := verify(t.Context(), images)
		info, err := inspect(t.Context(), images)
		for _, err := range []error{bad, err} {
			if err != nil {
				qt.Assert(t, qt.IsTrue(errors.Is(err, wire.ErrMalformed) || errors.Is(err, ErrInconsistent) || errors.Is(err, fs.ErrNotExist)),
					qt.Commentf("%v", err))
			}
		}
		if bad == nil && names[i][int(image)%len(names[i])] != "stats-dump" {
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.IsNotNil(info))
		}
	})
}
