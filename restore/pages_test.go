package restore

import (
	"testing"

	"github.com/go-quicktest/qt"
)

func TestPagesText(t *testing.T) {
	for p, want := range map[Pages]string{Map: "mapped", Copy: "copied"} {
		text, err := p.MarshalText()
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.Equals(string(text), want))
		back := 1 - p
		qt.Assert(t, qt.IsNil(back.UnmarshalText(text)))
		qt.Assert(t, qt.Equals(back, p))
	}
	var p Pages
	qt.Assert(t, qt.ErrorMatches(p.UnmarshalText([]byte("shared")), `restore memory "shared": want mapped or copied`))
	_, err := Pages(7).MarshalText()
	qt.Assert(t, qt.ErrorMatches(err, `encode Pages\(7\): .*`))
}
