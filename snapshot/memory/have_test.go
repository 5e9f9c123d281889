package memory

import (
	"os"
	"testing"

	"github.com/go-quicktest/qt"
)

// A file that is there is pinned, and one that is damaged is as good as none.
func TestHave(t *testing.T) {
	s, dir := store(t)
	f := adopt(t, s, dir, "some pages")
	s.Unpin([]File{f})
	got, ok, err := s.Have(t.Context(), f.ID, f.SizeBytes)
	qt.Assert(t, qt.IsTrue(err == nil && ok))
	qt.Check(t, qt.Equals(got, f))
	qt.Check(t, qt.DeepEquals(sweep(t, s), []string{string(f.ID)}))
	_, ok, err = s.Have(t.Context(), f.ID, f.SizeBytes+1)
	qt.Check(t, qt.IsTrue(err == nil && !ok))
	_, ok, err = s.Have(t.Context(), idOf("other pages"), 11)
	qt.Check(t, qt.IsTrue(err == nil && !ok))
	_, _, err = s.Have(t.Context(), "../x", 1)
	qt.Check(t, qt.ErrorIs(err, ErrID))

	// What has changed since it was adopted is read again.
	qt.Assert(t, qt.IsNil(os.Chmod(s.Path(f.ID), 0o600)))
	qt.Assert(t, qt.IsNil(os.WriteFile(s.Path(f.ID), []byte("some wages"), 0o600)))
	_, ok, err = s.Have(t.Context(), f.ID, f.SizeBytes)
	qt.Check(t, qt.IsTrue(err == nil && !ok))
	s.Unpin([]File{f})
	qt.Check(t, qt.HasLen(sweep(t, s), 0))

	// Another store, as after a restart, reads it.
	f = adopt(t, s, dir, "some pages")
	s.Unpin([]File{f})
	again, err := Open(s.path)
	qt.Assert(t, qt.IsNil(err))
	for range 2 {
		got, ok, err = again.Have(t.Context(), f.ID, f.SizeBytes)
		qt.Assert(t, qt.IsTrue(err == nil && ok))
		qt.Check(t, qt.Equals(got, f))
	}

	// What was proved is not: it would be found out that this is something else.
	qt.Assert(t, qt.IsNil(os.Chmod(s.Path(f.ID), 0o600)))
	qt.Assert(t, qt.IsNil(os.WriteFile(s.Path(f.ID), []byte("some wages"), 0o600)))
	changed, err := again.describe(f.ID)
	qt.Assert(t, qt.IsNil(err))
	again.prove(changed)
	got, ok, err = again.Have(t.Context(), f.ID, f.SizeBytes)
	qt.Assert(t, qt.IsTrue(err == nil && ok))
	qt.Check(t, qt.Equals(got, changed))
}
