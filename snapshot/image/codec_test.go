package image

import (
	"errors"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/snapshot/image/imagetest"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

func TestRoundTrip(t *testing.T) {
	imagetest.EachImage(t, func(name string, data []byte) {
		t.Run(name, func(t *testing.T) {
			img, err := Decode(data)
			if errors.Is(err, ErrRaw) {
				return
			}
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.DeepEquals(img.Encode(), data))
			qt.Check(t, qt.IsTrue(len(data) == 0 || img.Type.known()), qt.Commentf("%v", img.Type))
		})
	})
}

// Fields that no message definition has, and odd but legal encodings, survive
// an edit byte for byte.
func TestEditKeepsUnknownFields(t *testing.T) {
	odd := []byte{0x18, 0x84, 0x00} // field 3, a varint that is longer than it needs to be
	unknown := wire.AppendBytes(wire.AppendVarint(nil, 1000, 7), 1001, []byte("whatever"))
	msg := append(append(wire.AppendVarint(nil, 1, 5), odd...), unknown...)
	got, err := wire.SetVarint(nil, msg, 1, 6)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(got, append(append(wire.AppendVarint(nil, 1, 6), odd...), unknown...)))

	socket := wire.AppendVarint(wire.AppendVarint(wire.AppendVarint(nil, 1, 9), 2, 77), 9, 2)
	file := wire.AppendVarint(wire.AppendVarint(nil, fileEntryType, fileInetSk), fileEntryID, 9)
	file = append(wire.AppendBytes(file, fileEntryInet, socket), unknown...)
	e := socketEdit{keys: map[uint64]string{77: "key"}, taken: map[string]uint64{"key": 77}, ids: make(map[uint32]int)}
	records, err := e.files([]Record{{Message: file}, {Message: unknown}})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(records, 2))
	qt.Check(t, qt.DeepEquals(records[0].Message[len(records[0].Message)-len(unknown):], unknown))
	qt.Check(t, qt.DeepEquals(records[1].Message, unknown))
}

func TestDecodeErrors(t *testing.T) {
	head := (&Image{Type: TypeFiles}).Encode()
	for name, tc := range map[string]struct {
		data []byte
		want error
	}{
		"two bytes":        {[]byte{1, 2}, ErrRaw},
		"text":             {[]byte("#!/bin/sh\n"), ErrRaw},
		"half a head":      {head[:6], wire.ErrMalformed},
		"half a length":    {append(head[:8:8], 1, 0), wire.ErrMalformed},
		"half a message":   {append(head[:8:8], 2, 0, 0, 0, 8), wire.ErrMalformed},
		"message too long": {append(head[:8:8], 0xff, 0xff, 0xff, 0xff, 8), wire.ErrMalformed},
		"payload missing": {(&Image{Type: TypeSkQueues, Records: []Record{{
			Message: wire.AppendVarint(nil, 2, 10), Payload: []byte("short"),
		}}}).Encode(), wire.ErrMalformed},
		"payload of any size": {(&Image{Type: TypeTCPStream, Records: []Record{{
			Message: wire.AppendVarint(wire.AppendVarint(nil, 1, 1<<63), 3, 1<<63),
		}}}).Encode(), wire.ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Decode(tc.data)
			qt.Check(t, qt.ErrorIs(err, tc.want))
			qt.Check(t, qt.ErrorIs(err, wire.ErrMalformed))
		})
	}
}
