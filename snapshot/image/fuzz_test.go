package image

import (
	"bytes"
	"errors"
	"testing"

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
