package keep

import (
	"os"
	"testing"

	"github.com/go-quicktest/qt"
)

// What is being made is not swept; what was given up is gone, and what got its name stays.
func TestTemporary(t *testing.T) {
	d := things(t)
	kept, keptDone := d.Temporary()
	gone, goneDone := d.Temporary()
	for _, path := range []string{kept, gone} {
		qt.Assert(t, qt.IsNil(os.WriteFile(path, []byte("abc"), 0o600)))
	}
	_, err := d.Sweep(nothing)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(d.there(t), 2))
	qt.Assert(t, qt.IsNil(os.Rename(kept, d.Path("name"))))
	qt.Assert(t, qt.IsNil(keptDone()))
	qt.Assert(t, qt.IsNil(goneDone()))
	qt.Assert(t, qt.IsNil(goneDone())) // once more does nothing
	qt.Assert(t, qt.DeepEquals(d.there(t), []string{"name"}))
	qt.Assert(t, qt.Equals(d.Pinned(), 0))
	// A process that was killed has done nothing of the kind.
	left, _ := d.Temporary()
	qt.Assert(t, qt.IsNil(os.WriteFile(left, nil, 0o600)))
	next, err := Open(d.path)
	qt.Assert(t, qt.IsNil(err))
	_, err = next.Sweep(nothing)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(d.there(t), 0))
}
