package verify

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/seccomp"
	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/imagetest"
	"github.com/snapctl/snapctl/snapshot/image/openfile"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

func TestVerify(t *testing.T) {
	for _, name := range imagetest.Names(t) {
		t.Run(name, func(t *testing.T) {
			images := imagetest.Dump(t, name)
			qt.Check(t, qt.IsNil(Images(t.Context(), images)))

			// So is an edited view.
			v, err := image.NewView(t.Context(), images, filepath.Join(t.TempDir(), "view"))
			qt.Assert(t, qt.IsNil(err))
			keys := make(map[uint64]string)
			for _, file := range imagetest.Load[fdinfo.FileEntry](t, images, "files.img") {
				if ino := file.GetIsk().GetIno(); ino != 0 {
					keys[uint64(ino)] = strings.Repeat("k", len(keys)+1)
				}
			}
			_, err = openfile.ReplaceSockets(t.Context(), v, keys)
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.IsNil(Images(t.Context(), v.Dir())))
		})
	}
}

// edit rewrites an image of a dump record by record.
func edit(tb testing.TB, images fstest.MapFS, name string, fn func(records []image.Record) []image.Record) {
	tb.Helper()
	img, err := image.Decode(images[name].Data)
	qt.Assert(tb, qt.IsNil(err))
	img.Records = fn(img.Records)
	images[name].Data = img.Encode()
}

// set changes varint fields in the message of one record.
func set(record int, num protowire.Number, value uint64) func([]image.Record) []image.Record {
	return func(records []image.Record) []image.Record {
		msg, err := wire.SetVarint(nil, records[record].Message, num, value)
		if err != nil {
			panic(err)
		}
		records[record].Message = msg
		return records
	}
}

func TestVerifyFinds(t *testing.T) {
	drop := func(records []image.Record) []image.Record { return records[1:] }
	double := func(records []image.Record) []image.Record { return append(records, records[0]) }
	tests := map[string]struct {
		image string
		edit  func([]image.Record) []image.Record
		want  error
		text  string
	}{
		"image version":        {"inventory.img", set(0, 1, 3), image.ErrInconsistent, "image version 3"},
		"two inventories":      {"inventory.img", double, wire.ErrMalformed, "2 records instead of one"},
		"no first process":     {"pstree.img", drop, image.ErrInconsistent, "has parent 1"},
		"process twice":        {"pstree.img", double, image.ErrInconsistent, "there twice"},
		"process unknown":      {"pstree.img", set(1, 1, 99), os.ErrNotExist, "core-99.img"},
		"parent unknown":       {"pstree.img", set(1, 2, 99), image.ErrInconsistent, "before its parent 99"},
		"file missing":         {"files.img", drop, image.ErrInconsistent, "which is not in files.img"},
		"file twice":           {"files.img", double, image.ErrInconsistent, "is there twice"},
		"file of other type":   {"files.img", set(0, 1, 4), image.ErrInconsistent, "no entry of its type INETSK"},
		"file of two ids":      {"files.img", set(0, 2, 99), image.ErrInconsistent, "is 0x1 inside"},
		"descriptor type":      {"fdinfo-2.img", set(0, 3, 4), image.ErrInconsistent, "which is of type reg"},
		"descriptor twice":     {"fdinfo-2.img", double, image.ErrInconsistent, "descriptor 0 is there twice"},
		"descriptor to none":   {"fdinfo-2.img", set(0, 1, 9999), image.ErrInconsistent, "descriptor 0 is file 0x270f"},
		"no executable":        {"mm-1.img", set(0, 12, 9999), image.ErrInconsistent, "executable is file 0x270f"},
		"no working directory": {"fs-1.img", set(0, 1, 9999), image.ErrInconsistent, "working directory"},
		"no root directory":    {"fs-1.img", set(0, 2, 9999), image.ErrInconsistent, "root directory"},
		"other UTS namespace":  {"ids-1.img", set(0, 8, 99), image.ErrInconsistent, "no utsns-99.img"},
		"other descriptors":    {"ids-1.img", set(0, 2, 99), os.ErrNotExist, "fdinfo-99.img"},
		"fewer pages":          {"pagemap-1.img", drop2, image.ErrInconsistent, "instead of"},
		"no pages":             {"pagemap-1.img", func(r []image.Record) []image.Record { return r[:1] }, image.ErrInconsistent, "no pages at all"},
		"no head":              {"pagemap-1.img", func([]image.Record) []image.Record { return nil }, wire.ErrMalformed, "no head"},
		"pages in no mapping":  {"pagemap-1.img", set(1, 1, image.PageSize), image.ErrInconsistent, "in no mapping"},
		"pages inside a page":  {"pagemap-1.img", set(1, 1, 77), wire.ErrMalformed, "inside a page"},
		"pages out of order":   {"pagemap-1.img", set(1, 1, 1<<46), wire.ErrMalformed, "after 0x4"},
		"pages of another":     {"pagemap-1.img", set(0, 1, 1), image.ErrInconsistent, "belong to"},
		"pages in a parent":    {"pagemap-1.img", set(1, 4, image.PageParent), image.ErrInconsistent, "in a parent dump"},
		"no receiver":          {"sk-queues.img", set(0, 1, 9999), image.ErrInconsistent, "receiver is file"},
		"no removed file":      {"remap-fpath.img", set(0, 1, 9999), image.ErrInconsistent, "removed file is file"},
		"no ghost":             {"remap-fpath.img", set(0, 2, 9999), image.ErrInconsistent, "ghost-file-270f.img"},
		"no link": {"remap-fpath.img", func(records []image.Record) []image.Record {
			return set(0, 2, 9999)(set(0, 3, 0)(records))
		}, image.ErrInconsistent, "link is file"},
		"memfd without inode":  {"memfd.img", drop, image.ErrInconsistent, "not in memfd.img"},
		"memfd without memory": {"memfd.img", set(0, 5, 9999), image.ErrInconsistent, "without pagemap-shmem-9999.img"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			images := imagetest.FS(t, "plain")
			edit(t, images, tc.image, tc.edit)
			err := checkFS(t.Context(), images)
			qt.Assert(t, qt.ErrorIs(err, tc.want))
			qt.Check(t, qt.StringContains(err.Error(), tc.text))
		})
	}
}

// drop2 drops the last two extents of a pagemap.
func drop2(records []image.Record) []image.Record { return records[:len(records)-2] }

func TestVerifySeccompChain(t *testing.T) {
	for name, tc := range map[string]struct {
		prev []int // of each filter, -1 for none
		ok   bool
	}{
		"none":      {nil, true},
		"chain":     {[]int{-1, 0, 1, 1}, true},
		"loop":      {[]int{1, 0}, false},
		"self":      {[]int{-1, 1}, false},
		"past end":  {[]int{-1, 7}, false},
		"long loop": {[]int{-1, 3, 1, 2}, false},
	} {
		t.Run(name, func(t *testing.T) {
			var entry seccomp.SeccompEntry
			for _, prev := range tc.prev {
				filter := &seccomp.SeccompFilter{Filter: make([]byte, 8)}
				if prev >= 0 {
					filter.Prev = new(uint32(prev))
				}
				entry.SeccompFilters = append(entry.SeccompFilters, filter)
			}
			msg, err := proto.Marshal(&entry)
			qt.Assert(t, qt.IsNil(err))
			images := imagetest.FS(t, "plain")
			edit(t, images, "seccomp.img", func([]image.Record) []image.Record { return []image.Record{{Message: msg}} })
			err = checkFS(t.Context(), images)
			if tc.ok {
				qt.Check(t, qt.IsNil(err))
			} else {
				qt.Check(t, qt.ErrorIs(err, image.ErrInconsistent))
			}
		})
	}
}

// Images without which CRIU could do. Without any other, Verify must complain.
var dispensable = []string{
	"stats-dump", "cgroup", "netns-", "seccomp", "pipes-data", "sk-queues", "timens-0",
	"ipcns-shm", "ipcns-sem", "ipcns-msg", "remap-fpath", "tmpfs-dev",
}

func TestVerifyMissingImage(t *testing.T) {
	for _, name := range imagetest.Names(t) {
		for image := range imagetest.FS(t, name) {
			if hasAnyPrefix(image, dispensable) {
				continue
			}
			t.Run(name+"/"+image, func(t *testing.T) {
				images := imagetest.FS(t, name)
				delete(images, image)
				err := checkFS(t.Context(), images)
				qt.Assert(t, qt.IsNotNil(err))
				qt.Check(t, qt.StringContains(err.Error(), image))
			})
		}
	}
}

// The last byte of every image counts, but for the content of removed files,
// of which no length is kept, and for what other programs wrote.
func TestVerifyTruncatedImage(t *testing.T) {
	for _, name := range imagetest.Names(t) {
		for image, file := range imagetest.FS(t, name) {
			// One has no bytes: the pages of memory that was never touched.
			if hasAnyPrefix(image, []string{"stats-dump", "ghost-file", "tmpfs-dev"}) || len(file.Data) == 0 {
				continue
			}
			t.Run(name+"/"+image, func(t *testing.T) {
				images := imagetest.FS(t, name)
				images[image].Data = file.Data[:len(file.Data)-1]
				err := checkFS(t.Context(), images)
				qt.Assert(t, qt.IsNotNil(err))
				qt.Check(t, qt.StringContains(err.Error(), image))
			})
		}
	}
}

func hasAnyPrefix(s string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

func TestVerifyMixedUp(t *testing.T) {
	images := imagetest.FS(t, "plain")
	images["utsns-12.img"] = images["fs-1.img"]
	delete(images, "fs-1.img")
	err := checkFS(t.Context(), images)
	qt.Check(t, qt.ErrorIs(err, image.ErrInconsistent))
	qt.Check(t, qt.ErrorIs(err, os.ErrNotExist))
	qt.Check(t, qt.StringContains(err.Error(), "utsns-12.img is of type fs"))

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	qt.Check(t, qt.ErrorIs(checkFS(ctx, images), context.Canceled))
}

func BenchmarkVerify(b *testing.B) {
	images := imagetest.Dump(b, "sandbox")
	b.ReportAllocs()
	for b.Loop() {
		qt.Assert(b, qt.IsNil(Images(b.Context(), images)))
	}
}
