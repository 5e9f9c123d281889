package image

import (
	"errors"
	"testing"

	"github.com/go-quicktest/qt"
)

func TestRoundTrip(t *testing.T) {
	eachImage(t, func(name string, data []byte) {
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
