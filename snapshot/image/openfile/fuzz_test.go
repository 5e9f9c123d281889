package openfile

import (
	"bytes"
	"errors"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/imagetest"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// FuzzReplaceSockets: an edit leaves images that decode, with the same records
// but for those of the sockets, and with nothing more to replace.
func FuzzReplaceSockets(f *testing.F) {
	for _, name := range imagetest.Names(f) {
		images := imagetest.FS(f, name)
		f.Add(images["files.img"].Data, images["fdinfo-2.img"].Data, images["sk-queues.img"].Data, uint64(0))
	}
	f.Fuzz(func(t *testing.T, files, fds, queues []byte, inode uint64) {
		keys := map[uint64]string{inode: "key"}
		if img, err := image.Decode(files); err == nil {
			for i, rec := range img.Records {
				if file, err := image.ParseOpenFile(rec.Message); err == nil && file.Inode != 0 && i%2 == 0 {
					keys[file.Inode] = string(rune('a'+i%26)) + string(rune('a'+i/26%26)) + "-key"
				}
			}
		}
		taken, err := checkKeys(keys)
		if err != nil {
			return
		}
		e := socketEdit{keys: keys, taken: taken, ids: make(map[uint32]int)}
		for _, in := range []struct {
			typ  image.Type
			data []byte
		}{{image.TypeFiles, files}, {image.TypeFdinfo, fds}, {image.TypeSkQueues, queues}} {
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
	before, err := image.Decode(in)
	qt.Assert(t, qt.IsNil(err))
	after, err := image.Decode(out)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(after.Type, before.Type))
	//exhaustive:ignore
	switch before.Type {
	case image.TypeSkQueues:
		qt.Assert(t, qt.IsTrue(len(after.Records) < len(before.Records)))
	case image.TypeFiles:
		qt.Assert(t, qt.Equals(len(after.Records), len(before.Records)))
		for i, rec := range after.Records {
			file, err := image.ParseOpenFile(rec.Message)
			qt.Assert(t, qt.IsNil(err))
			if file.Kind != image.FileReg {
				qt.Assert(t, qt.IsTrue(bytes.Equal(rec.Message, before.Records[i].Message)))
			}
		}
	default:
		qt.Assert(t, qt.Equals(len(after.Records), len(before.Records)))
	}
}
