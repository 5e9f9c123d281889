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
