package image

import (
	"bytes"
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

// FuzzDecode: what is decoded encodes to the same bytes, and walk sees the
// same records without reading payloads.
func FuzzDecode(f *testing.F) {
	imagetest.EachImage(f, func(_ string, data []byte) { f.Add(data) })
	f.Fuzz(func(t *testing.T, data []byte) {
		img, err := Decode(data)
		var walked []Record
		var payloads []uint64
		_, walkErr := walk(bytes.NewReader(data), int64(len(data)), func(_ Type, msg []byte, payload uint64) error {
			walked = append(walked, Record{Message: bytes.Clone(msg)})
			payloads = append(payloads, payload)
			return nil
		})
		if err != nil {
			qt.Assert(t, qt.ErrorIs(err, wire.ErrMalformed))
			qt.Assert(t, qt.ErrorIs(walkErr, wire.ErrMalformed))
			qt.Assert(t, qt.Equals(errors.Is(walkErr, ErrRaw), errors.Is(err, ErrRaw)))
			return
		}
		qt.Assert(t, qt.IsNil(walkErr))
		qt.Assert(t, qt.IsTrue(bytes.Equal(img.Encode(), data)))
		qt.Assert(t, qt.HasLen(walked, len(img.Records)))
		for i, rec := range img.Records {
			qt.Assert(t, qt.IsTrue(bytes.Equal(walked[i].Message, rec.Message)))
			qt.Assert(t, qt.Equals(payloads[i], uint64(len(rec.Payload))))
		}
	})
}

// FuzzPagemap: extents are in order, and no sum over them overflows.
func FuzzPagemap(f *testing.F) {
	imagetest.EachImage(f, func(_ string, data []byte) {
		if img, err := Decode(data); err == nil && img.Type == TypePagemap {
			f.Add(data)
		}
	})
	f.Fuzz(func(t *testing.T, data []byte) {
		img, err := Decode(data)
		if err != nil {
			return
		}
		p, err := ParsePagemap(img)
		if err != nil {
			qt.Assert(t, qt.ErrorIs(err, wire.ErrMalformed))
			return
		}
		var end, stored uint64
		for _, e := range p.Extents {
			qt.Assert(t, qt.IsTrue(e.Start >= end && e.End() >= e.Start))
			end = e.End()
			if e.Flags&PagePresent != 0 {
				stored += e.Pages
			}
		}
		qt.Assert(t, qt.Equals(p.StoredPages(), stored))
	})
}

// FuzzReplaceSockets: an edit leaves images that decode, with the same records
// but for those of the sockets, and with nothing more to replace.
func FuzzReplaceSockets(f *testing.F) {
	for _, name := range imagetest.Names(f) {
		images := imagetest.FS(f, name)
		f.Add(images["files.img"].Data, images["fdinfo-2.img"].Data, images["sk-queues.img"].Data, uint64(0))
	}
	f.Fuzz(func(t *testing.T, files, fds, queues []byte, inode uint64) {
		keys := map[uint64]string{inode: "key"}
		if img, err := Decode(files); err == nil {
			for i, rec := range img.Records {
				if file, err := parseOpenFile(rec.Message); err == nil && file.inode != 0 && i%2 == 0 {
					keys[file.inode] = string(rune('a'+i%26)) + string(rune('a'+i/26%26)) + "-key"
				}
			}
		}
		taken, err := checkKeys(keys)
		if err != nil {
			return
		}
		e := socketEdit{keys: keys, taken: taken, ids: make(map[uint32]int)}
		for _, in := range []struct {
			typ  Type
			data []byte
		}{{TypeFiles, files}, {TypeFdinfo, fds}, {TypeSkQueues, queues}} {
			out, err := e.file(in.typ, in.data)
			if err != nil {
				qt.Assert(t, qt.IsTrue(errors.Is(err, wire.ErrMalformed) || errors.Is(err, ErrKey) || errors.Is(err, ErrHalfHeld)),
					qt.Commentf("%v", err))
				return
			}
			if out != nil {
				checkEdit(t, in.data, out)
			}
		}
	})
}

func checkEdit(t *testing.T, in, out []byte) {
	t.Helper()
	before, err := Decode(in)
	qt.Assert(t, qt.IsNil(err))
	after, err := Decode(out)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(after.Type, before.Type))
	//exhaustive:ignore
	switch before.Type {
	case TypeSkQueues:
		qt.Assert(t, qt.IsTrue(len(after.Records) < len(before.Records)))
	case TypeFiles:
		qt.Assert(t, qt.Equals(len(after.Records), len(before.Records)))
		for i, rec := range after.Records {
			file, err := parseOpenFile(rec.Message)
			qt.Assert(t, qt.IsNil(err))
			if file.kind != fileReg {
				qt.Assert(t, qt.IsTrue(bytes.Equal(rec.Message, before.Records[i].Message)))
			}
		}
	default:
		qt.Assert(t, qt.Equals(len(after.Records), len(before.Records)))
	}
}

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
